"""Grids: from an image's own voxels to the model's, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from scipy import ndimage

_SAME_SPACING_MM = 1e-3
_HALF = 0.5 + 1e-6
"""From the centre of the outermost voxel to the edge of the field of view, in voxels; rounding must not cut it."""
_RAS = axcodes2ornt("RAS")


@dataclass(frozen=True)
class Grid:
    """The places of voxels.

    Attributes:
        shape: Voxels along (i, j, k).
        affine: Voxel to world, mm, ``[4, 4]``.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (i, j, k)."""
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)


def model_grid(
    shape: tuple[int, int, int],
    affine: np.ndarray,
    spacing_mm: float | Sequence[float] | None,
    matrix: tuple[int, int, int] | None = None,
) -> Grid:
    """Return the grid on which a model sees an image: its own axes in RAS order, with the wanted voxel size or matrix.

    Oblique axes stay oblique: going there and back never mixes axes. Where the spacing is the image's own
    (within 0.001 mm), or the matrix is, the grid is a permutation and flip of the voxels, and nothing is interpolated.

    Args:
        shape: The image's voxels.
        affine: Its voxel-to-world matrix, mm.
        spacing_mm: Wanted voxel size: one for all axes, or three along (i, j, k) in RAS order; ``None`` keeps the
            image's own.
        matrix: Wanted voxels along (i, j, k) in RAS order over the image's whole field of view, in place of a voxel
            size.

    Source: Uhr 2024, section 3.3 "Preprocessing" (nibabel's conform). Departures: the field of view is kept instead
    of being padded to 256 voxels, and its middle is exact; nibabel's is off by half a voxel where the count is even.
    """
    turn = ornt_transform(io_orientation(affine), _RAS)
    turned_affine = affine @ inv_ornt_aff(turn, shape)
    # nibabel gives, for each source axis, the axis it becomes.
    turned_shape = np.empty(3, int)
    turned_shape[turn[:, 0].astype(int)] = shape
    sizes = voxel_sizes(turned_affine)
    if matrix is not None:
        wanted = np.array(matrix)
        wanted_sizes = sizes * turned_shape / wanted
        own = np.array_equal(wanted, turned_shape)
    else:
        wanted_sizes = sizes if spacing_mm is None else np.broadcast_to(np.asarray(spacing_mm, float), 3)
        wanted = np.maximum(np.round(turned_shape * sizes / wanted_sizes), 1).astype(int)
        own = bool(np.all(np.abs(sizes - wanted_sizes) < _SAME_SPACING_MM))
    if own:
        return Grid(_triple(turned_shape), turned_affine)
    # The middles of the two fields of view coincide, so every voxel's centre lies in the image.
    scaled = turned_affine.copy()
    scaled[:3, :3] *= wanted_sizes / sizes
    scaled[:3, 3] += turned_affine[:3, :3] @ ((turned_shape - 1) / 2) - scaled[:3, :3] @ ((wanted - 1) / 2)
    return Grid(_triple(wanted), scaled)


def to_grid(data: np.ndarray, affine: np.ndarray, grid: Grid, *, order: int = 1, fill: float = 0.0) -> np.ndarray:
    """Resample an image onto a grid by world coordinates.

    Where the two differ by a permutation, flips and whole voxels only, values are moved, not interpolated. The image's
    field of view reaches half a voxel past its outermost centres; there the nearest value is taken.

    Args:
        data: ``[i, j, k]``.
        affine: Its voxel-to-world matrix, mm.
        grid: The wanted grid.
        order: 1 is trilinear; 0, nearest voxel, is for masks and labels.
        fill: Value beyond the field of view.
    """
    return _resample(data, np.linalg.inv(affine) @ grid.affine, grid.shape, order, "constant", fill)


def to_native(data: np.ndarray, grid: Grid, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Bring an image from a model's grid back to its own; the inverse of `to_grid` up to interpolation.

    Voxels at the very edge, whose centres the model's grid may not reach, take the nearest value.

    Args:
        data: ``[i, j, k]`` on ``grid``.
        grid: The model's grid.
        shape, affine: Of the image's own grid.
    """
    return _resample(data, np.linalg.inv(grid.affine) @ affine, shape, 1, "nearest", 0.0)


def _resample(
    data: np.ndarray,
    matrix: np.ndarray,
    shape: tuple[int, int, int],
    order: int,
    beyond: Literal["constant", "nearest"],
    fill: float,
) -> np.ndarray:
    """Sample ``data`` at ``matrix @ voxel`` for each voxel of ``shape``."""
    linear, offset = matrix[:3, :3], matrix[:3, 3]
    whole = np.round(linear)
    furthest = max(shape)
    moves = (
        np.all(np.abs(whole).sum(axis=0) == 1)
        and np.all(np.abs(whole).sum(axis=1) == 1)
        and np.abs(linear - whole).max() * furthest < 0.01
        and np.abs(offset - np.round(offset)).max() < 0.01
    )
    if moves:
        return _move(data, whole.astype(int), np.round(offset).astype(int), shape, beyond, fill)
    result = ndimage.affine_transform(data, linear, offset, output_shape=shape, order=order, mode="nearest")
    if beyond == "constant":
        _blank_outside(result, data.shape, linear, offset, fill)
    return result


def _blank_outside(
    result: np.ndarray, extents: tuple[int, ...], linear: np.ndarray, offset: np.ndarray, fill: float
) -> None:
    """Set to ``fill`` the voxels of ``result`` that lie outside the field of view of an image of ``extents``."""
    axes = np.ogrid[tuple(slice(extent) for extent in result.shape)]
    for row, shift, extent in zip(linear, offset, extents, strict=True):
        reach = row * (np.array(result.shape) - 1)
        first, last = shift + np.minimum(reach, 0).sum(), shift + np.maximum(reach, 0).sum()
        if first < -_HALF or last > extent - 1 + _HALF:
            place = row[0] * axes[0] + row[1] * axes[1] + row[2] * axes[2] + shift
            result[(place < -_HALF) | (place > extent - 1 + _HALF)] = fill


def _move(
    data: np.ndarray,
    linear: np.ndarray,
    offset: np.ndarray,
    shape: tuple[int, int, int],
    beyond: Literal["constant", "nearest"],
    fill: float,
) -> np.ndarray:
    """Permute, flip, shift, crop and pad: `_resample` without arithmetic on the values."""
    source_axis = np.abs(linear).argmax(axis=0)  # which axis of data each axis of the result reads
    sign = linear[source_axis, np.arange(3)]
    turned = apply_orientation(data, np.stack([np.argsort(source_axis), sign[np.argsort(source_axis)]], axis=1))
    # Along a flipped axis, result voxel 0 reads source voxel `offset`, which after flipping is extent - 1 - offset.
    start = np.array(
        [
            offset[axis] if direction > 0 else data.shape[axis] - 1 - offset[axis]
            for axis, direction in zip(source_axis, sign, strict=True)
        ]
    )
    if np.all(start == 0) and turned.shape == tuple(shape):
        return np.ascontiguousarray(turned)
    wanted = [first + np.arange(extent) for first, extent in zip(start, shape, strict=True)]
    nearest = [np.clip(index, 0, extent - 1) for index, extent in zip(wanted, turned.shape, strict=True)]
    result = np.ascontiguousarray(turned[np.ix_(*nearest)])
    if beyond == "constant":
        for axis in range(3):
            np.moveaxis(result, axis, 0)[wanted[axis] != nearest[axis]] = fill
    return result


def _triple(values: np.ndarray) -> tuple[int, int, int]:
    i, j, k = (int(value) for value in values)
    return i, j, k
