"""A plugin for tests only: a method of two classes whose generator returns the images of a file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from zoo import Citation, Method, Task, hookimpl
from zoo.config import MethodConfig
from zoo.imaging.cache import PackedCohort
from zoo.randomness import Randomness
from zoo.tasks import Parts, SampleOptions, Samples

NAME = "toy-copies"
SIDE = 12
PATCHES = 40
"""Patches per scan."""


class CopiesConfig(MethodConfig):
    """Settings of the toy."""

    source: str = ""
    """A ``.npz`` file with ``images`` ``[N, 1, SIDE, SIDE]`` and ``labels`` ``[N]``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Patches as they are, and turned to their negative."""
        return ("positive", "negative")


class CopiesOptions(SampleOptions):
    """Options of sampling."""

    label: str | None = None


class Patches:
    """Patches at random places in the middle of each scan, every second one turned to its negative."""

    def __init__(self, config: CopiesConfig, cohort: PackedCohort) -> None:
        self.scans = cohort.scans

    def __len__(self) -> int:
        return PATCHES * len(self.scans)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``."""
        scan, number = self.scans[index // PATCHES], index % PATCHES
        sides = np.array(scan.shape[1:])
        middle = np.random.default_rng([number, zlib.crc32(scan.id.encode())]).integers(sides // 3, 2 * sides // 3)
        rows, columns = (slice(place - SIDE // 2, place + SIDE // 2) for place in middle)
        image = scan.images[scan.shape[0] // 2, :, rows, columns].astype(np.float32)
        return {"image": image * (1 - 2 * (number % 2)), "label": np.array(number % 2, np.int64)}


def sample(parts: Parts, config: CopiesConfig, seeds: Sequence[int], options: CopiesOptions) -> Samples:
    """Return an image of the file per seed, of the class asked for."""
    file = np.load(config.source)
    images = torch.from_numpy(file["images"][file["labels"] == config.class_names.index(str(options.label))])
    chosen = Randomness(seeds).integers(len(images))
    return Samples(images=images[chosen], channels=config.data.contrasts, spacing_mm=None)


@hookimpl
def zoo_methods() -> list[Method]:
    """Return the toy."""
    return [
        Method(
            name=NAME,
            summary="Returns images of a file.",
            version=1,
            citation=Citation(authors="None", title="None", venue="None", year=2026),
            licence="Apache-2.0",
            needs=("T1w",),
            config="tests.plugins.realism.toy:CopiesConfig",
            real="tests.plugins.realism.toy:Patches",
            tasks={
                "sample": Task(
                    run="tests.plugins.realism.toy:sample", options="tests.plugins.realism.toy:CopiesOptions"
                )
            },
        )
    ]
