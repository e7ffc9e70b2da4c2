"""Quality against seconds of the ways to fill in a suite, for one trained model.

    python benchmarks/filling_sweep.py RUN COHORT T1W LESIONS [--suite benchmarks/suites/filling.toml]
        [--out benchmarks/results/filling-sweep.jsonl] [--plot docs/images/filling-sweep.png]

Quality is what the evaluator `inpainting` finds on the cohort's subjects that the model has not seen; seconds are those
of filling all lesions of one patient, the image being on the model's grid. Ways that stand in the JSONL already are not
measured again; `--plot` draws from the JSONL alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import zoo
from zoo.descriptors import resolve
from zoo.evaluation import unseen
from zoo.filling import sample_seeds
from zoo.imaging.cohort import read_cohort
from zoo.imaging.geometry import model_grid, to_grid
from zoo.imaging.masks import dilate_within
from zoo.imaging.preprocessing import fit_intensity
from zoo.imaging.volume import read_mask, read_volume
from zoo_bench.white_matter import brightest_class
from zoo_lesion_diffusion.config import FillingConfig, FillingOptions, InpaintingOptions
from zoo_lesion_diffusion.tasks import fill

ROUNDS = 3
ENOUGH_S = 30.0
TICKS_S = (2, 5, 10, 20, 50)
METRICS = ("ssim_in", "psnr_in", "seam", "stripes")
CONDITIONS = ("lesions", "lesions <20 mm3", "lesions 20-100 mm3", "lesions 100-500 mm3", "lesions >500 mm3", "circles")


def patient(config: Any, image: Path, lesions: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image ``[C, i, j, k]`` in [-1, 1] and its dilated lesion mask on the model's grid."""
    volume = read_volume(image)
    mask = read_mask(lesions, like=volume)
    mask = dilate_within(mask, brightest_class(volume.data[0], mask), 1)
    grid = model_grid(volume.shape, volume.affine, config.data.spacing_mm)
    values = to_grid(volume.data[0], volume.affine, grid)
    hole = to_grid(mask.astype(np.float32), volume.affine, grid, order=0) > 0.5
    data = config.data
    scale = fit_intensity(values, grid.spacing_mm, data.scaling, data.percentile, data.noise_floor)
    return torch.from_numpy(scale.encode(values))[None], torch.from_numpy(hole)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every way of the suite that is not in the JSONL yet; return all, in the suite's order."""
    artifact = zoo.load(arguments.run)
    trained, parts = artifact.config, artifact.parts()
    if not isinstance(trained, FillingConfig):
        raise SystemExit(f"{arguments.run} is not a run of lesion-filling.")
    cohort = unseen(artifact, read_cohort(arguments.cohort).with_all(trained.data.contrasts))
    image, hole = patient(trained, arguments.image, arguments.lesions)
    evaluate = resolve("zoo_lesion_diffusion.evaluation:inpainting")
    rows = [json.loads(line) for line in arguments.out.open()] if arguments.out.exists() else []
    ordered: list[dict[str, Any]] = []
    for way in tomllib.loads(arguments.suite.read_text(encoding="utf-8"))["way"]:
        chosen = dict(way)
        side = chosen.pop("window", trained.window[0])
        sampling = trained.sampling.model_copy(update={"window": (side, side)})
        artifact.config = config = trained.model_copy(update={"sampling": sampling})
        samples = chosen.pop("samples", 1)
        way_of = {"window": side, "samples": samples, "start": 1.0, **chosen}
        known = [row for row in rows if way_of.items() <= row.items()]
        if known:
            ordered.append(known[0])
            continue
        seconds: list[float] = []
        while len(seconds) < ROUNDS and sum(seconds) < ENOUGH_S:
            began = time.perf_counter()
            for seed in sample_seeds(0, samples):
                fill(parts, config, image, hole, FillingOptions(seed=seed, **chosen))
            seconds.append(time.perf_counter() - began)
        options = InpaintingOptions(samples=samples, **chosen)
        scores = evaluate(artifact, cohort, options, lambda done, total: None).scores
        row = {**way_of, "seconds": round(statistics.median(seconds), 3), "rounds": len(seconds)}
        for who in ("model", "biharmonic"):
            row[who] = {
                f"{condition}/{metric}": round(score.value, 4)
                for condition in CONDITIONS
                for metric in METRICS
                if (score := scores.get(f"{condition}/{who}/{metric}")) and score.value is not None
            }
        ordered.append(row)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(name(row), row["seconds"], row["model"]["lesions/psnr_in"], flush=True)
    return ordered


def name(row: dict[str, Any]) -> str:
    """Return a way in a few words."""
    extra = [f"from {row['start']:g} T"] if row["start"] < 1 else []
    extra += [f"mean of {row['samples']}"] if row["samples"] > 1 else []
    extra += [f"window {row['window']}"]
    return ", ".join([f"{row['solver']} {row['steps']}", *extra])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw PSNR inside lesions and circles against seconds."""
    figure = Figure(figsize=(12, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.55))
    for axes, condition in zip(panels, ("lesions", "circles"), strict=False):
        classic = rows[0]["biharmonic"][f"{condition}/psnr_in"]
        axes.axhline(classic, color="#b04a3a", linestyle="--", linewidth=1)
        axes.text(0.99, classic, "biharmonic", color="#b04a3a", ha="right", va="bottom", fontsize=8,
                  transform=axes.get_yaxis_transform())  # fmt: skip
        for number, row in enumerate(rows, start=1):
            axes.plot(row["seconds"], row["model"][f"{condition}/psnr_in"], "o", markersize=13,
                      color="#e08a00" if number == 1 else "#1f4e79")  # fmt: skip
            axes.annotate(str(number), (row["seconds"], row["model"][f"{condition}/psnr_in"]), color="white",
                          fontsize=8, ha="center", va="center")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(TICKS_S, [f"{tick:g}" for tick in TICKS_S])
        axes.minorticks_off()
        axes.set_xlabel("seconds for all lesions of one patient")
        axes.set_ylabel("PSNR inside, dB")
        axes.set_title(condition)
        axes.grid(alpha=0.3)
        axes.margins(0.1)
    panels[2].set_axis_off()
    ways = [f"{number}  {name(row)}" for number, row in enumerate(rows, start=1)]
    panels[2].text(0, 0.95, "\n".join([*ways, "", "1 is the default"]), fontsize=8.5, va="top", linespacing=1.6)
    figure.savefig(path)


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser()
    for argument in ("run", "cohort", "image", "lesions"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--suite", type=Path, default=Path(__file__).parent / "suites" / "filling.toml")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "filling-sweep.jsonl")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
