"""A sampler with classes and two channels, one of them signed; it needs no training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tests.toy.config import CLASSES, ClassesConfig, ClassesOptions
from zoo.imaging.cache import PackedCohort
from zoo.randomness import Randomness
from zoo.tasks import Parts, Samples

SIDE = 8


def sample(parts: Parts, config: ClassesConfig, seeds: Sequence[int], options: ClassesOptions) -> Samples:
    """Return noise around the class's brightness."""
    drawn = Randomness(seeds).integers(2, ()).tolist() if options.label is None else []
    labels = tuple(CLASSES[index] for index in drawn) or (options.label or "",) * len(seeds)
    middle = torch.tensor([0.5 if label == "bright" else -0.5 for label in labels])[:, None, None, None]
    images = (middle + 0.1 * Randomness(seeds).normal((2, SIDE, SIDE))).clamp(-1, 1)
    return Samples(images=images, channels=config.data.contrasts, spacing_mm=(4.0, 4.0, 4.0), labels=labels)


class RealPatches:
    """Patches from the middle slices of each scan, dark or bright by the mean of the T1w."""

    def __init__(self, config: ClassesConfig, cohort: PackedCohort) -> None:
        starts = range(8, 24, SIDE)
        self.cohort = cohort
        self.places = [
            (scan, number.shape[0] // 2, i, j)
            for scan, number in enumerate(cohort.scans)
            for i in starts
            for j in starts
        ]

    def __len__(self) -> int:
        return len(self.places)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        scan, k, i, j = self.places[index]
        patch = np.asarray(self.cohort.scans[scan].images[k, :, i : i + SIDE, j : j + SIDE], np.float32)
        return {"image": patch, "label": np.array(int(patch[0].mean() > -0.2))}
