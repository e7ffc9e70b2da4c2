"""Training examples: axial slices at chosen positions, or whole volumes, cut to the network's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.errors import DataError
from zoo.imaging.cache import PackedCohort, PackedScan
from zoo_stylegan2.config import SliceConfig, StyleGANConfig

_FOREGROUND = -0.9
_SHARE = 0.05
"""Slices with more than this share of the fullest slice's foreground belong to the head."""


class StyleGANExamples:
    """Axial slices with the contrasts of a scan as channels; with three sides in ``size`` whole volumes.

    An example is ``image`` float32 ``[C, *size]`` in [-1, 1] and ``slice_position`` float32 ``[]``: 0 at the lowest
    slice of the head, 1 at the highest, 0.5 for volumes. The window is centred on the head.

    Args:
        config: Settings.
        cohort: Packed scans.

    Raises:
        DataError: A scan has fewer slices than ``slices.count``.

    Source: Güllmar et al., section 2.1: 71 neighbouring axial slices per scan (T1w), 41 (ADC), three echoes of a slice
    as channels. Departures: the paper aligns to MNI152 and does not say which slices it takes; here positions are
    relative to the extent of the head, and ``slices.count`` takes the middle ones.
    """

    def __init__(self, config: StyleGANConfig, cohort: PackedCohort) -> None:
        self.config = config
        self.scans = cohort.scans
        self.heads = [_head(scan) for scan in cohort.scans]
        self.places = [
            (number, index, position)
            for number, scan in enumerate(self.scans)
            for index, position in self._slices(scan, self.heads[number])
        ]

    def _slices(self, scan: PackedScan, head: Sequence[tuple[int, int]]) -> list[tuple[int, float]]:
        if len(self.config.size) == 3:
            return [(0, 0.5)]
        return slices_between(head[2], self.config.slices, scan.id)

    def __len__(self) -> int:
        return len(self.places)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``; ``rng`` is not used."""
        number, first, position = self.places[index]
        images = self.scans[number].images
        image = np.moveaxis(images, 0, 3) if len(self.config.size) == 3 else images[first]  # [C, I, J(, K)]
        return {
            "image": to_network(image, self._extent(number), self.config),
            "slice_position": np.array(position, np.float32),
        }

    def lesions(self, index: int) -> np.ndarray:
        """Return the lesion mask of example ``index``, bool ``[*size]``: pixels of which more than half is lesion."""
        number, first, _ = self.places[index]
        mask = self.scans[number].lesion_mask
        chosen = np.moveaxis(mask, 0, 2) if len(self.config.size) == 3 else mask[first]
        # In the range of intensities: -1 is no lesion, 0 is half, 1 is all.
        share: np.ndarray = to_network(2.0 * chosen[None] - 1, self._extent(number), self.config)
        return share[0] > 0

    def _extent(self, number: int) -> Sequence[tuple[int, int]]:
        return self.heads[number][: len(self.config.size)]


def to_network(image: np.ndarray, head: Sequence[tuple[int, int]], config: StyleGANConfig) -> np.ndarray:
    """Return the network's view of a slice or volume, float32 ``[image_channels, *size]`` in [-1, 1].

    Args:
        image: ``[contrasts, *spatial]`` on the model's grid.
        head: Extent of the head along each spatial axis; the window is centred on it.
        config: Settings.
    """
    pool = config.pool
    window = crop_around(image, head, [side * pool for side in config.size])
    blocks = [extent for side in config.size for extent in (side, pool)]
    averaged = window.reshape(len(window), *blocks).mean(axis=tuple(range(2, 2 + 2 * len(config.size), 2)))
    return np.repeat(averaged, config.copies, axis=0)


def slices_between(extent: tuple[int, int], wanted: SliceConfig, scan: str) -> list[tuple[int, float]]:
    """Return the index of each wanted slice and its position in [0, 1].

    Args:
        extent: First slice of the head and the one past its last.
        wanted: Range and count.
        scan: Name of the scan, for the message.

    Raises:
        DataError: The range has fewer slices than the count.
    """
    low, high = extent
    positions = [(index, (index - low) / max(high - low - 1, 1)) for index in range(low, high)]
    inside = [place for place in positions if wanted.between[0] <= place[1] <= wanted.between[1]]
    if wanted.count is None:
        return inside
    if len(inside) < wanted.count:
        raise DataError(
            f"{scan} has {len(inside)} slices between positions {wanted.between[0]:g} and {wanted.between[1]:g}, fewer "
            f"than slices.count {wanted.count}; set a lower slices.count or a finer data.spacing_mm."
        )
    start = (len(inside) - wanted.count) // 2
    return inside[start : start + wanted.count]


def _head(scan: PackedScan) -> tuple[tuple[int, int], ...]:
    """Return first and past-the-last index of the head along (i, j, k), from the first contrast."""
    foreground = scan.images[:, 0] > _FOREGROUND  # [K, I, J]
    found = []
    for axis in (1, 2, 0):
        counts = foreground.sum(axis=tuple(other for other in range(3) if other != axis))
        inside = np.flatnonzero(counts > _SHARE * counts.max())
        found.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, foreground.shape[axis]))
    return tuple(found)


def crop_around(image: np.ndarray, box: Sequence[tuple[int, int]], size: Sequence[int]) -> np.ndarray:
    """Return the window of ``size`` centred on a box, with background beyond the image.

    Args:
        image: ``[C, *spatial]``, -1 is background.
        box: First and past-the-last index along each spatial axis.
        size: Sides of the window.

    Returns:
        float32 ``[C, *size]``.
    """
    result = np.full((len(image), *size), -1, np.float32)
    starts = [(low + high - side) // 2 for (low, high), side in zip(box, size, strict=True)]
    source, target = [slice(None)], [slice(None)]
    for start, side, there in zip(starts, size, image.shape[1:], strict=True):
        first, last = max(start, 0), min(start + side, there)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    result[tuple(target)] = image[tuple(source)]
    return result
