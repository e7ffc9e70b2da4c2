"""The classic lesion fillers: methods without training, used as baselines and as the start of some models."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg, splu
from torch import Tensor

from zoo.config import MethodConfig
from zoo.errors import DataError
from zoo.tasks import FillOptions, Parts, Progress

_RING = 3
HEAD = -0.9
"""Voxels above this are head, on the scale of [-1, 1]."""

_FADED = 0.75
"""A slice whose head is darker than this share of the median slice's head is half faded."""


def biharmonic_fill(image: np.ndarray, lesion_mask: np.ndarray) -> np.ndarray:
    """Fill holes by the smoothest surface through their rims, slice by slice.

    Args:
        image: ``[C, K, I, J]``, any units.
        lesion_mask: bool ``[K, I, J]``.

    Returns:
        The type of ``image``. Filled voxels are in the range of the slice's known voxels; all others are bit-identical
        to the input.

    Raises:
        DataError: The mask covers a whole slice.

    Source: biharmonic inpainting (Chui and Mhaskar 2010); same equations and solution as scikit-image's
    ``inpaint_biharmonic``, but solved for all holes of a slice at once.
    """
    filled = image.copy()
    for index in np.flatnonzero(lesion_mask.any(axis=(1, 2))):
        hole = lesion_mask[index].ravel()
        if hole.all():
            raise DataError(f"The lesion mask covers all of slice {index}; nothing is left to fill it from.")
        known = image[:, index].reshape(len(image), -1).T.astype(np.float64)  # [I·J, C]
        low, high = known[~hole].min(axis=0), known[~hole].max(axis=0)
        known[hole] = 0
        rows = _biharmonic(lesion_mask.shape[1:])[hole]
        # The matrix is symmetric and positive definite: a minimum-degree ordering without pivoting halves the time.
        solver = splu(rows[:, hole].tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        filled[:, index, lesion_mask[index]] = np.clip(solver.solve(-(rows @ known)), low, high).T
    return filled


def biharmonic_fill_3d(image: np.ndarray, lesion_mask: np.ndarray) -> np.ndarray:
    """Fill holes by the smoothest function through their rims, across slices.

    Args:
        image: ``[C, K, I, J]``, any units. All axes count alike, whatever the distance of the slices.
        lesion_mask: bool ``[K, I, J]``.

    Returns:
        The type of ``image``. Filled voxels are in the range of the known voxels; all others are bit-identical to the
        input.

    Raises:
        DataError: The mask covers the whole image.

    Source: as `biharmonic_fill`, in three dimensions. Holes that share no equation are solved separately, by conjugate
    gradients to a relative residual of 1e-6.
    """
    if lesion_mask.all():
        raise DataError("The lesion mask covers all of the image; nothing is left to fill it from.")
    filled = image.copy()
    known_range = [(channel[~lesion_mask].min(), channel[~lesion_mask].max()) for channel in image]
    # An equation has a reach of two voxels: holes whose rims of one voxel do not touch share none.
    groups, _ = ndimage.label(ndimage.binary_dilation(lesion_mask))
    for number, box in enumerate(ndimage.find_objects(groups), start=1):
        wider = tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in box)
        hole = (lesion_mask[wider] & (groups[wider] == number)).ravel()
        rows = _biharmonic(lesion_mask[wider].shape)[hole]
        equations = rows[:, hole]
        scale = sparse.diags_array(1 / equations.diagonal())
        for channel, (low, high) in enumerate(known_range):
            part = filled[channel][wider]
            values = part.astype(np.float64).ravel()
            offset = values[~hole].mean()  # the residual is relative to the right-hand side
            values = np.where(hole, 0, values - offset)
            solved, _ = cg(equations, -(rows @ values), rtol=1e-6, M=scale)
            part[hole.reshape(part.shape)] = np.clip(solved + offset, low, high)
    return filled


@lru_cache(maxsize=8)
def _biharmonic(shape: tuple[int, ...]) -> sparse.csr_array:
    """Return the squared Laplacian of a slice or a box as a matrix, with mirrored edges."""
    laplacian = sparse.csr_array((1, 1))
    for extent in shape:
        before, line = sparse.eye_array(laplacian.shape[0]), sparse.eye_array(extent)
        laplacian = sparse.kron(laplacian, line) + sparse.kron(before, _second_difference(extent))
    return sparse.csr_array(laplacian @ laplacian)


def _second_difference(extent: int) -> sparse.dia_array:
    middle = np.full(extent, -2.0)
    middle[0] += 1
    middle[-1] += 1
    return sparse.diags_array([np.ones(extent - 1), middle, np.ones(extent - 1)], offsets=[-1, 0, 1])


def sharp_slices(image: np.ndarray) -> np.ndarray:
    """Return which slices show the head in full brightness, bool ``[k]``.

    If an aligned slab was interpolated beyond its end, the last slices are half faded: the mean intensity of their head
    is below 0.75 of the median slice's.

    Args:
        image: ``[i, j, k]`` in [-1, 1].
    """
    head = image > HEAD
    area = head.sum(axis=(0, 1))
    brightness = np.where(head, image + 1, 0).sum(axis=(0, 1)) / np.maximum(area, 1)
    held = area > area.max() / 10
    return held & (brightness >= _FADED * np.median(brightness[held])) if held.any() else held


def neighbour_fill(
    image: np.ndarray, lesion_mask: np.ndarray, white_matter: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Fill lesions with random white matter: normal numbers with the mean and half the deviation of the slice's own.

    Args:
        image: ``[C, K, I, J]``, any units.
        lesion_mask: bool ``[K, I, J]``.
        white_matter: bool ``[K, I, J]``, or ``None`` to take the brighter half (of the first channel) of a ring of 3
            voxels around the lesions.
        rng: Source of the values.

    Returns:
        The type of ``image``; voxels outside the mask are bit-identical to the input.

    Raises:
        DataError: There is no white matter outside the lesions.

    Source: Valverde et al. 2014. Departures: a slice with fewer than ten voxels of white matter takes mean and
    deviation of the whole volume; the ring, if no white matter is given.
    """
    if white_matter is None:
        ring = ndimage.binary_dilation(lesion_mask, iterations=_RING) & ~lesion_mask
        normal = ring & (image[0] >= np.median(image[0][ring])) if ring.any() else ring
    else:
        normal = white_matter & ~lesion_mask
    if not normal.any():
        raise DataError("There is no white matter outside the lesions to fill them from.")
    filled = image.copy()
    for channel in range(len(image)):
        everywhere = image[channel][normal]
        for index in np.flatnonzero(lesion_mask.any(axis=(1, 2))):
            here = image[channel, index][normal[index]]
            values = here if len(here) >= 10 else everywhere
            hole = lesion_mask[index]
            filled[channel, index][hole] = rng.normal(values.mean(), values.std() / 2, int(hole.sum()))
    return filled


def biharmonic(
    parts: Parts,
    config: MethodConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: FillOptions,
    progress: Progress | None = None,
    *,
    white_matter: Tensor | None = None,
) -> Tensor:
    """Fill by `biharmonic_fill`; see `zoo.tasks.FillTask`. Nothing is random, and white matter is not used."""
    return _by_slices(biharmonic_fill(_slices_first(image), _slices_first(lesion_mask)))


def biharmonic_2d3d(
    parts: Parts,
    config: MethodConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: FillOptions,
    progress: Progress | None = None,
    *,
    white_matter: Tensor | None = None,
) -> Tensor:
    """Fill by the mean of `biharmonic_fill` and `biharmonic_fill_3d`; nothing is random.

    Their errors differ, so the mean is nearer to the truth than either. The 3D fill uses only slices in full brightness
    (`sharp_slices`), since a half-faded slice at the end of a slab would darken its neighbours. Other slices take the
    2D fill.
    """
    volume, mask = _slices_first(image), _slices_first(lesion_mask)
    filled = biharmonic_fill(volume, mask)
    runs, count = ndimage.label(sharp_slices(image[0].numpy()))
    for number in range(1, count + 1):
        run = runs == number
        if mask[run].any() and not mask[run].all():
            mean = (filled[:, run] + biharmonic_fill_3d(volume[:, run], mask[run])) / 2
            filled[:, run] = np.where(mask[run], mean, volume[:, run])
    return _by_slices(filled)


def neighbours(
    parts: Parts,
    config: MethodConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: FillOptions,
    progress: Progress | None = None,
    *,
    white_matter: Tensor | None = None,
) -> Tensor:
    """Fill by `neighbour_fill`; see `zoo.tasks.FillTask`."""
    tissue = None if white_matter is None else _slices_first(white_matter)
    rng = np.random.default_rng(options.seed)
    return _by_slices(neighbour_fill(_slices_first(image), _slices_first(lesion_mask), tissue, rng))


def _slices_first(volume: Tensor) -> np.ndarray:
    return np.moveaxis(volume.numpy(), -1, -3)


def _by_slices(filled: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(filled, -3, -1)))
