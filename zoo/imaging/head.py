"""The head in an image, and its core, which contains only brain, with or without the skull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from zoo.errors import DataError

_COARSE_MM = 4.0
"""The head is searched on every n-th voxel, about this far apart: its shape is smooth."""

_HEAD = 0.25
"""Share of the head's median from which a voxel belongs to the head; noise in air lies below, fluid mostly above."""

_AIR = 0.2
"""Share of the head's threshold below which a voxel at its surface is air: 0.05 of the head's median."""

_FEW = 1e-3
"""Share of the voxels below which bright ones are vessels, teeth or faults, not the head."""

_GAP_MM = 10.0
"""Half the width of the gaps that are closed: sulci, ear canals, the dark skull where it is cut."""

_FAR_MM = 1e4

_CORE = 0.6
"""Depth of the core as a share of the greatest depth: deeper than scalp, skull and face."""


@dataclass(frozen=True)
class Head:
    """A head, found on every n-th voxel of an image.

    Attributes:
        window: The part of the image around the head.
        threshold: Brighter voxels belong to the head; enclosed voxels may be darker.
        step: Voxels between neighbours of the coarse grid, by axis.
        inside: bool, on the coarse grid of the window: the head, its gaps and holes filled.
        depth_mm: On the same grid: distance to the nearest voxel outside the head. The edge of the field of view does
            not count as a surface: depth in a slab is depth in its plane. ``inf`` if no voxel lies outside.
    """

    window: tuple[slice, slice, slice]
    threshold: float
    step: tuple[int, int, int]
    inside: np.ndarray
    depth_mm: np.ndarray

    def core(self) -> np.ndarray:
        """Return the core, bool, on the coarse grid."""
        return self.inside & (self.depth_mm >= _CORE * self.depth_mm.max())

    def voxels_of(self, values: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """Return the values of the voxels in a coarse mask ``[n]``, on the image's own grid."""
        fine = self.refined(coarse)
        return values[self.window][fine]

    def refined(self, coarse: np.ndarray) -> np.ndarray:
        """Return a coarse mask on the voxels of the window."""
        for axis, step in enumerate(self.step):
            coarse = np.repeat(coarse, step, axis)
        extent = [part.stop - part.start for part in self.window]
        return coarse[tuple(slice(size) for size in extent)]


def find_head(values: np.ndarray, spacing_mm: Sequence[float]) -> Head:
    """Find the head in an image of any contrast, with or without the skull, whole or a slab.

    Air around the head, noisy or zero, makes no difference, nor do a few very bright voxels.

    Args:
        values: ``[i, j, k]``, any units; air is darkest.
        spacing_mm: Voxel size along (i, j, k).

    Raises:
        DataError: No voxel is above 0.
    """
    if not np.any(values > 0):
        raise DataError(f"The image is empty: its maximum is {values.max():g}.")
    i, j, k = (max(1, round(_COARSE_MM / size)) for size in spacing_mm)
    step = (i, j, k)
    window = _around(values > 0, (slice(0, None),) * 3, (1, 1, 1), values.shape)
    # The second time the head fills its window, and the share of air in the image does not matter.
    for _ in range(2):
        coarse = values[window][::i, ::j, ::k]
        inside = _largest(coarse > _threshold(coarse))
        window = _around(inside, window, step, values.shape)
    coarse = values[window][::i, ::j, ::k]
    threshold = _threshold(coarse)
    inside = _filled(_largest(coarse > threshold), spacing_mm, step)
    distances = np.multiply(spacing_mm, step)
    lengths = inside.shape * distances
    # The ends of a slab are ragged: measure depth in its plane, with the short axis stretched.
    distances[lengths < np.sort(lengths)[1] / 2] = _FAR_MM
    depth = np.full(inside.shape, np.inf) if inside.all() else ndimage.distance_transform_edt(inside, distances)
    return Head(window, threshold, step, inside, depth)


def outside_head(lesion_mask: np.ndarray, image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the voxels of a lesion mask that lie in the air around the head, bool ``[i, j, k]``.

    Dark voxels within the head, such as fluid or old lesions, are not among them.

    Args:
        lesion_mask: bool ``[i, j, k]``.
        image: Any units, ``[i, j, k]``.
        spacing_mm: Voxel size along (i, j, k).

    Raises:
        DataError: No voxel of the image is above 0.
    """
    head = find_head(image, spacing_mm)
    outside = lesion_mask & (image <= head.threshold)
    # Coarse voxels at the head's surface hold both: air is darker than an old lesion there.
    deep = head.inside & (head.depth_mm > _COARSE_MM)
    surface = ndimage.binary_dilation(head.inside) & ~deep
    black = image[head.window] <= _AIR * head.threshold
    outside[head.window] &= ~head.refined(deep) & (black | ~head.refined(surface))
    return outside


def _threshold(values: np.ndarray) -> float:
    """Return the intensity above which voxels are head rather than air."""
    positive = values[values > 0].astype(np.float64)
    if positive.size == 0:
        return -np.inf
    threshold = _otsu(positive)
    while 0 < np.mean(positive > threshold) < _FEW:
        positive = np.minimum(positive, threshold)
        threshold = _otsu(positive)
    for _ in range(10):
        above = positive[positive > threshold]
        threshold = _HEAD * float(np.median(above if above.size else positive))
    return threshold


def _filled(inside: np.ndarray, spacing_mm: Sequence[float], step: tuple[int, int, int]) -> np.ndarray:
    """Close the gaps of a head's mask that are narrower than sulci, and fill enclosed holes slice by slice."""
    distances = np.multiply(spacing_mm, step)
    reach = [int(np.ceil(_GAP_MM / distance)) + 1 for distance in distances]
    padded = np.pad(inside, [(size, size) for size in reach], mode="edge")
    if padded.all():
        return inside
    near = ndimage.distance_transform_edt(~padded, distances) <= _GAP_MM
    closed = near if near.all() else ndimage.distance_transform_edt(near, distances) > _GAP_MM
    filled = closed[tuple(slice(size, -size) for size in reach)] | inside
    for axis in range(3):
        slices = np.moveaxis(filled, axis, 0)
        for index in range(len(slices)):
            slices[index] = ndimage.binary_fill_holes(slices[index])
    return filled


def _otsu(values: np.ndarray) -> float:
    """Return the threshold between two classes (Otsu 1979); below all values where they are equal."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return 0.0
    counts, edges = np.histogram(values, 256, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    split = above > 0
    gap = total[split] / below[split] - (total[-1] - total[split]) / above[split]
    # Take the upper edge of a bin; otherwise it cuts a class of few values.
    return float(edges[1:][np.argmax(below[split] * above[split] * gap**2)])


def _largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest piece of a mask, voxels joined by faces."""
    pieces, _ = ndimage.label(mask)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def _around(
    mask: np.ndarray, window: tuple[slice, ...], step: tuple[int, int, int], shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    """Return the smallest window around a mask that was found on every ``step``-th voxel of ``window``."""
    parts = []
    for axis in range(3):
        held = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        first = window[axis].start
        stop = min(first + (held[-1] + 1) * step[axis], window[axis].stop or shape[axis])
        parts.append(slice(int(first + held[0] * step[axis]), int(stop)))
    return parts[0], parts[1], parts[2]
