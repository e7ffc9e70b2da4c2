"""Seconds of a fill by the number of lesions in an image: 1, 10, 100 and 1,000.

    python benchmarks/studies/filling_cost.py RUN T1W [--out benchmarks/results/filling-cost.jsonl]
        [--plot docs/images/filling-cost.png]

Lesions are balls with a radius of 2 voxels at random positions in white matter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

import zoo
from zoo.imaging.geometry import model_grid, to_grid
from zoo.imaging.preprocessing import fit_intensity
from zoo.imaging.volume import read_volume
from zoo.imaging.windows import cover
from zoo_bench.white_matter import brightest_class
from zoo_lesion_diffusion.config import FillingConfig, FillingOptions
from zoo_lesion_diffusion.tasks import fill

COUNTS = (1, 10, 100, 1000)
RADIUS = 2
ROUNDS = 3


def balls(white_matter: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` balls with centres in white matter, bool ``[i, j, k]``."""
    places = np.argwhere(ndimage.binary_erosion(white_matter, iterations=RADIUS))
    mask = np.zeros(white_matter.shape, bool)
    for place in np.random.default_rng(0).permutation(places)[:count]:
        mask[tuple(place)] = True
    return ndimage.distance_transform_edt(~mask) <= RADIUS


def main() -> None:
    """Measure, write and plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    artifact = zoo.load(arguments.run)
    config, parts = artifact.config, artifact.parts()
    if not isinstance(config, FillingConfig):
        raise SystemExit(f"{arguments.run} is not a run of lesion-filling.")
    volume = read_volume(arguments.image)
    grid = model_grid(volume.shape, volume.affine, config.data.spacing_mm)
    values = to_grid(volume.data[0], volume.affine, grid)
    data = config.data
    scale = fit_intensity(values, grid.spacing_mm, data.scaling, data.percentile, data.noise_floor)
    image = torch.from_numpy(scale.encode(values))[None]
    white_matter = brightest_class(values, np.zeros(values.shape, bool))
    rows = []
    for count in COUNTS:
        mask = balls(white_matter, count)
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            fill(parts, config, image, torch.from_numpy(mask), FillingOptions())
            seconds.append(time.perf_counter() - began)
        row = {
            "lesions": count,
            "voxels": int(mask.sum()),
            "windows": len(cover(np.moveaxis(mask, 2, 0), (config.slab, *config.window))),
            "seconds": round(statistics.median(seconds), 3),
            "threads": torch.get_num_threads(),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if arguments.plot:
        figure = Figure(figsize=(5.5, 3.8), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.loglog([row["voxels"] for row in rows], [row["seconds"] for row in rows], "o-", color="#1f4e79")
        for row in rows:
            point = row["voxels"], row["seconds"]
            axes.annotate(f"{row['lesions']} × 33 mm³, {row['windows']} windows", point, xytext=(6, -10),
                          textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set_xlabel("lesion volume, voxels of 1 mm³")
        axes.set_ylabel("seconds, 2 CPU cores")
        axes.grid(alpha=0.3, which="both")
        axes.margins(x=0.4)
        figure.savefig(arguments.plot)


if __name__ == "__main__":
    main()
