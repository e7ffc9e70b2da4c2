"""Quality against CPU seconds of a suite's sampling settings, for one trained model, on tuning subjects.

    python benchmarks/studies/filling_sweep.py RUN DATA [--suite benchmarks/suites/filling.toml]
        [--protocol docs/protocol.toml]
        [--out benchmarks/results/filling-sweep.jsonl] [--plot docs/images/filling-sweep.png]

DATA is the folder of the protocol's cohorts. Quality is the result of the evaluator `inpainting` on the tuning
subjects, paired by subject with the strongest classic filler. Seconds are CPU seconds for filling all lesions of one
patient (the first of the tuning part's lesion masks that has an image), on the model's grid, with the model loaded.
Settings that are already in the JSONL are not measured again; `--plot` draws from the JSONL.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import zoo
from tables import MODEL, by_subject, difference, strongest
from zoo.evaluation.run import evaluate_by_protocol
from zoo.evaluation.study_protocol import Protocol
from zoo.imaging.cache import pack_scan
from zoo.imaging.cohort import read_cohort
from zoo.tasks.fill.patient import sample_seeds
from zoo_lesion_diffusion.config import FillingConfig, FillingOptions
from zoo_lesion_diffusion.tasks import fill

ROUNDS = 3
ENOUGH_S = 30.0
TICKS_S = (2, 5, 10, 20, 50)
CONDITIONS = ("lesions", "circles")


@contextlib.contextmanager
def _no_bar(_: str) -> Iterator[Any]:
    yield lambda done, total: None


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all settings of the suite that are missing from the JSONL; return all rows in the suite's order."""
    artifact = zoo.load(arguments.run)
    trained = artifact.config
    if not isinstance(trained, FillingConfig):
        raise SystemExit(f"{arguments.run} is not a run of lesion-filling.")
    protocol, parts = Protocol.read(arguments.protocol, arguments.data), artifact.parts()
    image, hole = patient(protocol, trained)
    rows = [json.loads(line) for line in arguments.out.open()] if arguments.out.exists() else []
    ordered: list[dict[str, Any]] = []
    for way in tomllib.loads(arguments.suite.read_text(encoding="utf-8"))["way"]:
        known = [row for row in rows if row["settings"] == way]
        if known:
            ordered.append(known[0])
            continue
        options = dict(way)
        side = options.pop("window", trained.window[0])
        sampling = trained.sampling.model_copy(update={"window": (side, side)})
        artifact.config = trained.model_copy(update={"sampling": sampling})
        found = evaluate_by_protocol(
            artifact, protocol, "tuning", evaluators=["inpainting"], options=options, bar=_no_bar
        )["inpainting"].to_json()
        row = {
            "way": name(way, side),
            "settings": way,
            "protocol": found["about"]["protocol"],
            "processor_seconds": time_filling(parts, artifact.config, image, hole, **options)[1],
            "threads": torch.get_num_threads(),
            "paired": {condition: _paired(found, condition) for condition in CONDITIONS},
        }
        ordered.append(row)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row["way"], row["processor_seconds"], row["paired"], flush=True)
    return ordered


def patient(protocol: Protocol, config: FillingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image ``[C, i, j, k]`` in [-1, 1] and the lesion mask of a tuning patient, on the model's grid."""
    part = protocol.content.tuning
    cohort = read_cohort(protocol.folder / str(part.lesion_masks)).named(part.lesion_mask_subjects)
    scan = pack_scan(cohort.with_all([*config.data.contrasts, "lesion-mask"]).scans[0], config.data)
    image = np.ascontiguousarray(np.transpose(scan.images, (1, 2, 3, 0)).astype(np.float32))
    return torch.from_numpy(image), torch.from_numpy(np.moveaxis(scan.lesion_mask, 0, 2).copy())


def time_filling(parts: Any, config: FillingConfig, image: torch.Tensor, hole: torch.Tensor, **options: Any) -> Any:
    """Return the median seconds of filling a patient's lesions: wall time and CPU time."""
    samples = options.pop("samples", 1)
    seconds: list[tuple[float, float]] = []
    while len(seconds) < ROUNDS and sum(wall for wall, _ in seconds) < ENOUGH_S:
        began, processor_began = time.perf_counter(), time.process_time()
        for seed in sample_seeds(0, samples):
            fill(parts, config, image, hole, FillingOptions(seed=seed, **options))
        seconds.append((time.perf_counter() - began, time.process_time() - processor_began))
    return tuple(round(statistics.median(column), 2) for column in zip(*seconds, strict=True))


def _paired(evaluation: dict[str, Any], condition: str) -> dict[str, Any]:
    rival = strongest(evaluation, condition)
    own, theirs = (by_subject(evaluation, condition, who, "psnr_in") for who in (MODEL, rival))
    mean, bounds, n, won = difference(own, theirs)
    return {
        "psnr": round(statistics.mean(own.values()), 3),
        "classic": rival,
        "classic_psnr": round(statistics.mean(theirs.values()), 3),
        "difference": round(mean, 4),
        "bounds": [bound if bound is None else round(bound, 4) for bound in bounds],
        "n": n,
        "won": won,
    }


def name(way: dict[str, Any], side: int) -> str:
    """Return a short description of settings."""
    steps = way.get("steps", 1)
    extra = [f"from {way['start']:g} T"] if way.get("start", 1) < 1 else []
    extra += [f"mean of {way['samples']}"] if way.get("samples", 1) > 1 else []
    return ", ".join([f"{way['solver']}, {steps} step{'s' if steps > 1 else ''}", *extra, f"window {side}"])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot PSNR inside lesions and circles against CPU seconds."""
    figure = Figure(figsize=(12, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.55))
    for axes, condition in zip(panels, CONDITIONS, strict=False):
        classic = rows[0]["paired"][condition]["classic_psnr"]
        axes.axhline(classic, color="#b04a3a", linestyle="--", linewidth=1)
        axes.text(0.99, classic, rows[0]["paired"][condition]["classic"], color="#b04a3a", ha="right", va="bottom",
                  fontsize=8, transform=axes.get_yaxis_transform())  # fmt: skip
        for number, row in enumerate(rows, start=1):
            place = (row["processor_seconds"], row["paired"][condition]["psnr"])
            axes.plot(*place, "o", markersize=13, color="#e08a00" if number == 1 else "#1f4e79")
            axes.annotate(str(number), place, color="white", fontsize=8, ha="center", va="center")
        axes.set_xscale("log")
        axes.set_xticks(TICKS_S, [f"{tick:g}" for tick in TICKS_S])
        axes.minorticks_off()
        axes.set_xlabel("processor seconds for all lesions of one patient")
        axes.set_ylabel("PSNR inside, dB")
        axes.set_title(condition)
        axes.grid(alpha=0.3)
        axes.margins(0.1)
    panels[2].set_axis_off()
    ways = [f"{number}  {row['way']}" for number, row in enumerate(rows, start=1)]
    panels[2].text(0, 0.95, "\n".join([*ways, "", "1 is the default"]), fontsize=8.5, va="top", linespacing=1.6)
    figure.savefig(path)


def main() -> None:
    """Measure, write and plot."""
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser()
    for argument in ("run", "data"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--suite", type=Path, default=here / "suites" / "filling.toml")
    parser.add_argument("--protocol", type=Path, default=here.parent / "docs" / "protocol.toml")
    parser.add_argument("--out", type=Path, default=here / "results" / "filling-sweep.jsonl")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
