"""``zoo bench``"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import json_option
from zoo.cli.output import note, progress_bar, show_json, table
from zoo.config import merge, parse_assignment, validate
from zoo.descriptors import PRECISIONS
from zoo.registry import registry

if TYPE_CHECKING:
    from zoo_bench.harness import Suite
    from zoo_bench.records import Record

_SHOWN = (
    "work",
    "backend",
    "device",
    "batch",
    "ms, median [95 %]",
    "p90",
    "× first row",
    "rel. error",
    "PSNR, dB",
    "parity",
    "gate",
    "status",
)


@click.command(name="bench")
@click.argument("words", metavar="[NAME|RUN]", nargs=-1)
@click.option("--preset", help="This preset with seeded random weights, instead of the newest run of NAME.")
@click.option("--backend", "backends", multiple=True, metavar="NAME",
              help="Runtime, repeatable; others are compared with the first. Default: torch, then all.")  # fmt: skip
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS),
              help="Repeatable; default: fp32.")  # fmt: skip
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), metavar="N [N …]",
              help="Samples per call; default: 1.")  # fmt: skip
@click.option("--size", metavar="N[,N[,N]]", help="Side of the images, pixels; default: the model's.")
@click.option("--part", help="Time a network call of this part; default: the method's last one.")
@click.option("--task", metavar="VERB", help="Time a whole task on synthetic input; zoo list shows the verbs.")
@click.option("--device", help="cpu or cuda; default: a GPU where there is one.")
@click.option("--suite", type=click.Path(path_type=Path), help="TOML file of several cases, instead of NAME.")
@click.option("--set", "assignments", multiple=True, metavar="K=V",
              help="A setting of the protocol (rounds, calls, seconds …) or the task (options.steps=2).")  # fmt: skip
@click.option("--runs", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of runs.")
@click.option("--out", type=click.Path(path_type=Path), help="JSONL of results; with --report a folder.")
@click.option("--compare", "old", type=click.Path(path_type=Path),
              help="Earlier results; exit 1 where a row became slower beyond its noise.")  # fmt: skip
@click.option("--report", "reported", type=click.Path(path_type=Path),
              help="Measure nothing: make the table and the plots of these results in --out.")  # fmt: skip
@json_option
def command(
    words: tuple[str, ...],
    preset: str | None,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    size: str | None,
    part: str | None,
    task: str | None,
    device: str | None,
    suite: Path | None,
    assignments: tuple[str, ...],
    runs: Path,
    out: Path | None,
    old: Path | None,
    reported: Path | None,
    as_json: bool,
) -> None:
    """Measure latency, throughput, memory and fidelity, each row in its own process and rows interleaved in rounds.

    \b
    zoo bench lesion-filling --preset paper-2d-mixture --size 128
    zoo bench runs/lesion-filling/… --task fill --backend torch --backend openvino --out fill.jsonl
    zoo bench --suite benchmarks/suites/cpu.toml --compare old.jsonl
    zoo bench --report fill.jsonl --out report
    """
    if reported:
        from zoo_bench.records import read_records
        from zoo_bench.report import write_report

        if out is None:
            raise click.UsageError("--report needs the folder that it goes to: --out DIR.")
        for path in write_report(read_records(reported), out):
            click.echo(f"Wrote {path}")
        return
    # `--batch 1 4 16`: what follows the first number comes as words.
    batches += tuple(int(word) for word in words if batches and word.isdecimal())
    models = [word for word in words if not (batches and word.isdecimal())]
    if len(models) + bool(suite) != 1:
        raise click.UsageError("Give one NAME or RUN, or --suite FILE.toml.")

    from zoo_bench.comparison import compare
    from zoo_bench.harness import read_suite, run_suite
    from zoo_bench.records import read_records

    earlier = read_records(old) if old else None
    settings = merge(*(parse_assignment(text) for text in assignments))
    if suite:
        asked = read_suite(suite, settings)
    else:
        sides = _sides(size)
        asked = _one_case(
            {"model": models[0], "preset": preset, "part": part, "task": task, "size": sides, "device": device,
             "batch": batches or (1,), "options": settings.pop("options", {})},
            settings, backends, precisions,
        )  # fmt: skip
    out = out or runs / "benchmarks" / f"{datetime.now():%Y-%m-%dT%H-%M-%S}.jsonl"
    records = run_suite(asked, runs, out, progress_bar)
    changes = compare(earlier, records) if earlier else []
    if as_json:
        show_json({"records": [record.model_dump(mode="json", by_alias=True) for record in records],
                   "changes": [change.to_json() for change in changes]})  # fmt: skip
    else:
        _show(records)
        if changes:
            rows = [[change.row, change.verdict, f"{change.ratio:.3f}" if change.ratio else ""] for change in changes]
            table(f"\nAgainst {old}", ["row", "", "new / old"], rows)
    note(f"Kept in {out}; zoo bench --report {out} --out DIR makes the whole table and plots.")
    if any(change.verdict == "slower" for change in changes):
        sys.exit(1)


def _sides(text: str | None) -> tuple[int, ...] | None:
    try:
        return tuple(int(word) for word in text.split(",")) if text else None
    except ValueError:
        raise click.UsageError(f"--size {text!r} is not a number of pixels; write 128 or 128,160.") from None


def _one_case(
    case: dict[str, Any], protocol: dict[str, Any], backends: tuple[str, ...], precisions: tuple[str, ...]
) -> Suite:
    from zoo_bench.harness import Suite

    names = backends or ("torch", *(exporter.name for exporter in registry().exporters if exporter.name != "torch"))
    rows = [{"backend": name, "precision": precision} for precision in precisions or ("fp32",) for name in names]
    return validate(Suite, {"protocol": protocol, "case": [{**case, "rows": rows}]}, what="zoo bench")


def _show(records: list[Record]) -> None:
    from zoo_bench.report import table as cells

    rows = cells(records)
    columns = [column for column in _SHOWN if column == "status" or any(row[column] for row in rows)]
    table("", columns, [[row[column] for column in columns] for row in rows])
