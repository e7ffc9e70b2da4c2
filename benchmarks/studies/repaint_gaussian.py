"""Accuracy of RePaint on normally distributed voxels, where the exact answer is known.

    python benchmarks/studies/repaint_gaussian.py [--out benchmarks/results/repaint-gaussian.jsonl]

In pairs of normally distributed voxels with a correlation of 0.9, one voxel is filled with the exact denoiser. A
correct sampler follows the known voxel with slope 1 (relative to the conditional mean) and spread 1 (relative to the
conditional standard deviation). The error of RePaint depends on the voxels' own standard deviation. For comparison, on
[-1, 1] the T1w images of two children have a standard deviation of 0.18 in white matter, 0.40 in the brain and 0.58
over the slab.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_lesion_diffusion.repaint import evaluations, repaint, repaint_moves
from zoo_lesion_diffusion.schedule import NoiseSchedule

MEAN, CORRELATION = 0.1, 0.9
SPREADS = (0.25, 0.5, 1.0)
PAIRS, SEEDS = 2000, 8
SETTINGS = (
    ("default", 50, 2, 2),
    ("the thesis", 50, 8, 10),
    ("the RePaint paper", 250, 10, 10),
    ("without resampling", 50, 2, 1),
)
SCHEDULE = NoiseSchedule()


def fill_right_of_pairs(sd: float, steps: int, jump_length: int, resamples: int, seed: int) -> tuple[float, float]:
    """Fill the right voxel of each pair, given the left one.

    Returns:
        The slope of the filled voxels on their conditional mean, and their spread around that line relative to the
        correct spread.
    """
    covariance = sd**2 * torch.tensor([[1, CORRELATION], [CORRELATION, 1]])
    generator = torch.Generator().manual_seed(seed)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = float(SCHEDULE.alpha_bar[int(t[0])])
        noised = alpha_bar * covariance + (1 - alpha_bar) * torch.eye(2)
        return math.sqrt(1 - alpha_bar) * (x - math.sqrt(alpha_bar) * MEAN) @ torch.linalg.inv(noised)

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator)

    known = MEAN + sd * torch.linspace(-1.5, 1.5, PAIRS).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    stride = SCHEDULE.steps // steps
    filled = repaint(
        denoise,
        noise(known.shape),
        known,
        torch.tensor([False, True]).expand(PAIRS, 1, 1, 2),
        SCHEDULE,
        list(range(SCHEDULE.steps - 1, -1, -stride)),
        jump_length=jump_length,
        resamples=resamples,
        noise=noise,
        clip=False,
    )
    wanted, got = CORRELATION * (known[..., 0] - MEAN).flatten(), (filled[..., 1] - MEAN).flatten()
    slope = float((wanted * got).sum() / wanted.square().sum())
    return slope, float((got - slope * wanted).std()) / (sd * math.sqrt(1 - CORRELATION**2))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "repaint-gaussian.jsonl")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, steps, jump_length, resamples in SETTINGS:
        for sd in SPREADS:
            found = [fill_right_of_pairs(sd, steps, jump_length, resamples, seed) for seed in range(SEEDS)]
            slopes, spreads = zip(*found, strict=True)
            row = {
                "name": name,
                "sd": sd,
                "correlation": CORRELATION,
                "steps": steps,
                "jump_length": jump_length,
                "resamples": resamples,
                "network_calls": evaluations(repaint_moves(steps, jump_length, resamples)),
                "slope": round(statistics.mean(slopes), 4),
                "standard_error": round(statistics.stdev(slopes) / math.sqrt(SEEDS), 4),
                "spread": round(statistics.mean(spreads), 4),
                "pairs": PAIRS,
                "seeds": SEEDS,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
