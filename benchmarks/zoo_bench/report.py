"""Tables and plots, made from records alone.

python -m zoo_bench.report FILE.jsonl OUT
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.system.files import replacing, write_text
from zoo_bench.records import Latency, Record, read_records

COLUMNS = (
    "work", "backend", "version", "device", "batch", "ms, median [95 %]", "p90", "p95", "p99", "per s",
    "× first row", "rel. error", "PSNR, dB", "SSIM", "parity", "gate", "peak MB", "file MB", "export s", "build s",
    "load s", "first call s", "status",
)  # fmt: skip

_COLOURS = ("#1f4e79", "#e08a00", "#3f8f4f", "#b04a3a", "#7a5195", "#5f6b7a", "#17a2b8", "#8c6d1f")


def table(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return one row of text per record, in the order measured; a figure that was not measured is empty."""
    first: dict[tuple[str, int], Record] = {}
    return [_cells(record, first.setdefault(record.case, record)) for record in records]


def _cells(record: Record, first: Record) -> dict[str, str]:
    latency, quality, cold = record.latency_ms, record.quality, record.cold
    calls = f", {record.work.network_calls} network calls" if record.work.network_calls > 1 else ""
    memory = record.memory
    held = max(filter(None, (memory.gpu_used, memory.torch_cuda_peak)), default=memory.host_peak) if memory else None
    values = (
        record.what + calls,
        record.how,
        record.backend.version,
        record.device,
        str(record.work.batch),
        _milliseconds(latency),
        *(_number(getattr(latency, percentile, None), 4) for percentile in ("p90", "p95", "p99")),
        _number(record.throughput, 3),
        _ratio(first, record),
        _number(quality.rel_l2, 2),
        _number(quality.psnr, 3),
        _number(quality.ssim, 4),
        quality.parity if quality.parity != "not run" else "",
        quality.gate if quality.gate != "not run" else "",
        _number(held and held / 1e6, 4),
        _number(record.artifact_bytes and record.artifact_bytes / 1e6, 3),
        *(_number(seconds, 3) for seconds in (cold.export_s, cold.build_s, cold.load_s, cold.first_call_s)),
        record.status if record.status == "ok" else f"{record.status}: {record.note}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def speedup(first: Record, record: Record) -> float | None:
    """Return the speed of a row relative to the first row of its case: the median of the ratios of their rounds.

    Rounds took turns, so what slows the machine for a while is in both sides of a ratio.
    """
    if first.latency_ms is None or record.latency_ms is None or first is record:
        return None
    rounds = zip(first.latency_ms.round_medians, record.latency_ms.round_medians, strict=False)
    return statistics.median(theirs / own for theirs, own in rounds)


def _ratio(first: Record, record: Record) -> str:
    ratio = speedup(first, record)
    return "1" if record is first and record.latency_ms else "" if ratio is None else f"{ratio:.2f}"


def _milliseconds(latency: Latency | None) -> str:
    if latency is None:
        return ""
    interval = latency.median_ci95
    return _number(latency.median, 4) + (f" [{_number(interval[0], 4)}, {_number(interval[1], 4)}]" if interval else "")


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def markdown(records: Sequence[Record]) -> str:
    """Return the table in Markdown, without columns that are empty, and below it the machines."""
    rows = table(records)
    columns = [column for column in COLUMNS if any(row[column] for row in rows)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row[column].replace("|", "\\|") for column in columns) + " |" for row in rows]
    return "\n".join([*lines, "", *dict.fromkeys(_machine(record) for record in records if record.latency_ms)]) + "\n"


def _machine(record: Record) -> str:
    about = record.environment
    cpu, gpu = about.get("cpu") or {}, about.get("gpu")
    where = f"{gpu['name']} ({gpu['capability']}, CUDA {about.get('cuda')}), " if gpu else ""
    flags = ", ".join(cpu.get("flags", ()))
    return (
        f"{where}{cpu.get('model')}, {about.get('threads')} threads ({flags}); Python {about.get('python')}, "
        f"torch {about.get('torch')}; {record.time[:10]}."
    )


def write_report(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write ``table.md`` and, where rows were measured, the plots as PNG and SVG; return what was written."""
    written = [folder / "table.md"]
    write_text(written[0], markdown(records))
    measured = [record for record in records if record.latency_ms]
    if any(record.work.kind == "part" for record in measured):
        written += _plot(measured, folder / "latency-throughput", _latency_throughput)
    if any(record.quality.rel_l2 for record in measured):
        written += _plot(measured, folder / "quality-latency", _quality_latency)
    return written


def _plot(records: Sequence[Record], stem: Path, draw: Callable[[Any, str, Sequence[Record], str], None]) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    works = list(dict.fromkeys(f"{record.what}, {record.device}" for record in records))
    figure = Figure(figsize=(5.2 * min(len(works), 3), 4.2 * -(-len(works) // 3)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(works) // 3), min(len(works), 3), squeeze=False).flatten()
    names = dict.fromkeys(record.how for record in records)
    colours = {row: _COLOURS[index % len(_COLOURS)] for index, row in enumerate(names)}
    for axes in panels[len(works) :]:
        axes.set_axis_off()
    for axes, work in zip(panels, works, strict=False):
        for row, several in _by_row([record for record in records if f"{record.what}, {record.device}" == work]):
            draw(axes, row, several, colours[row])
        axes.set_title(work, fontsize=9)
        axes.grid(alpha=0.3, which="both")
        axes.margins(0.15)
        axes.legend(fontsize=7)
    paths = [stem.with_suffix(ending) for ending in (".png", ".svg")]
    for path in paths:
        with replacing(path) as temporary:
            figure.savefig(temporary)
    return paths


def _by_row(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    for row in dict.fromkeys(record.how for record in records):
        yield row, sorted((record for record in records if record.how == row), key=lambda record: record.work.batch)


def _latency_throughput(axes: Any, row: str, records: Sequence[Record], colour: str) -> None:
    """Draw one backend's batches: median latency with its 95 % interval against units per second."""
    medians = [record.latency_ms.median for record in records if record.latency_ms]
    intervals = [record.latency_ms.median_ci95 or (median, median)
                 for record, median in zip(records, medians, strict=True) if record.latency_ms]  # fmt: skip
    spread = [[median - low for median, (low, _) in zip(medians, intervals, strict=True)],
              [high - median for median, (_, high) in zip(medians, intervals, strict=True)]]  # fmt: skip
    rates = [record.throughput for record in records]
    axes.errorbar(medians, rates, xerr=spread, fmt="o-", color=colour, label=row, markersize=5, capsize=2)
    for record, x, y in zip(records, medians, rates, strict=True):
        axes.annotate(f"batch {record.work.batch}", (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("ms a call, median")
    axes.set_ylabel(f"{records[0].work.unit} per second")


def _quality_latency(axes: Any, row: str, records: Sequence[Record], colour: str) -> None:
    """Draw one backend's relative error against latency, at its smallest batch; a row without error has no point."""
    record = records[0]
    if record.latency_ms and record.quality.rel_l2:
        axes.plot(record.latency_ms.median, record.quality.rel_l2, "o", color=colour, label=row, markersize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"ms a call, median, batch {record.work.batch}")
    axes.set_ylabel("relative error to torch fp32 (L2)")


if __name__ == "__main__":
    for path in write_report(read_records(Path(sys.argv[1])), Path(sys.argv[2])):
        print(path)
