"""Masks: dilation within white matter, connected lesions, circles, and lesions of one subject placed on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from zoo.errors import DataError
from zoo.imaging.geometry import Grid, to_grid


def dilate_within(lesion_mask: np.ndarray, white_matter: np.ndarray, voxels: int) -> np.ndarray:
    """Grow a lesion mask by whole voxels, but only into white matter.

    Args:
        lesion_mask: bool ``[i, j, k]``.
        white_matter: bool ``[i, j, k]``.
        voxels: Steps of a 3 × 3 × 3 box; 0 returns the mask as it is.

    Source: Uhr 2024, section 3.5 "Mask Dilation" (one step).
    """
    if voxels == 0:
        return lesion_mask
    grown = ndimage.binary_dilation(lesion_mask, np.ones((3, 3, 3), bool), iterations=voxels)
    return lesion_mask | (grown & white_matter)


@dataclass(frozen=True)
class Lesion:
    """One connected lesion of a mask.

    Attributes:
        number: From 1, the largest first.
        voxels: Number of voxels.
        volume_mm3: Their volume.
        centre_mm: Its centre in world coordinates (x, y, z).
    """

    number: int
    voxels: int
    volume_mm3: float
    centre_mm: tuple[float, float, float]


def number_lesions(lesion_mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, list[Lesion]]:
    """Number the connected lesions of a mask, the largest first; voxels that touch at a corner are connected.

    Args:
        lesion_mask: bool ``[i, j, k]``.
        affine: Voxel to world, mm.

    Returns:
        The number of the lesion in each voxel, int32 ``[i, j, k]``, 0 where there is none; and the lesions in order.
    """
    pieces, count = ndimage.label(lesion_mask, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    renumber = np.zeros(count + 1, np.int32)
    renumber[order + 1] = np.arange(1, count + 1)
    centres = apply_affine(affine, np.reshape(ndimage.center_of_mass(lesion_mask, pieces, order + 1), (-1, 3)))
    voxel_mm3 = float(np.prod(voxel_sizes(affine)))
    lesions = [
        Lesion(number, int(sizes[piece]), float(sizes[piece] * voxel_mm3), (float(x), float(y), float(z)))
        for number, (piece, (x, y, z)) in enumerate(zip(order, centres, strict=True), start=1)
    ]
    return renumber[pieces], lesions


def choose_lesions(numbered: np.ndarray, lesions: Sequence[Lesion], chosen: Sequence[int]) -> np.ndarray:
    """Return the mask of the lesions numbered ``chosen``, bool ``[i, j, k]``.

    Raises:
        DataError: There is no lesion of one of the numbers.
    """
    unknown = [number for number in chosen if not 1 <= number <= len(lesions)]
    if unknown:
        raise DataError(
            f"There is no lesion {unknown[0]}; the mask has {len(lesions)}, numbered from 1, the largest first. "
            "zoo fill --list --lesions MASK shows them."
        )
    return np.isin(numbered, chosen)


def circle(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    """Return the pixels nearer to ``centre`` than ``radius`` (strictly), bool ``[H, W]``, all in pixels."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


@dataclass(frozen=True)
class LaidLesions:
    """The lesions of one mask on one scan, stored as voxels instead of an image.

    Attributes:
        voxels: int32 ``[n, 3]`` as (k, i, j), sorted by slice.
        labels: int32 ``[n]``, the connected lesion of each voxel, from 1.
    """

    voxels: np.ndarray
    labels: np.ndarray

    def between(self, first: int, stop: int) -> LaidLesions:
        """Return the voxels on slices ``first`` to ``stop - 1``."""
        start, end = np.searchsorted(self.voxels[:, 0], (first, stop))
        return LaidLesions(self.voxels[start:end], self.labels[start:end])

    def only(self, labels: np.ndarray) -> LaidLesions:
        """Return the voxels of the lesions ``labels``."""
        kept = np.isin(self.labels, labels)
        return LaidLesions(self.voxels[kept], self.labels[kept])

    def as_mask(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Return the lesions as bool ``[K, I, J]``."""
        mask = np.zeros(shape, bool)
        mask[tuple(self.voxels.T)] = True
        return mask


def lay_lesions(lesion_mask: np.ndarray, affine: np.ndarray, grid: Grid, white_matter: np.ndarray) -> LaidLesions:
    """Place the lesions of one subject on another by world coordinates, cut to the other's white matter.

    Args:
        lesion_mask: bool ``[i, j, k]`` on its own grid.
        affine: Its voxel-to-world matrix, mm.
        grid: The other subject's grid.
        white_matter: bool ``[K, I, J]``: the other subject's white matter, slices first.

    Source: Uhr 2024, section 3.3 "Mask Generation". Departure: common world coordinates instead of a nonlinear
    registration; 6-connected components as there.
    """
    laid = to_grid(lesion_mask.astype(np.float32), affine, grid, order=0) > 0.5
    mask = np.moveaxis(laid, 2, 0) & white_matter
    labels, _ = ndimage.label(mask)
    voxels = np.argwhere(mask).astype(np.int32)
    return LaidLesions(voxels, labels[mask].astype(np.int32))
