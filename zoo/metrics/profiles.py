"""The lateral ventricles of a slice, and intensity profiles through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from zoo.errors import DataError
from zoo.metrics.bpf import BACKGROUND, FLUID

_DEEP = 0.35
"""Least depth of a ventricle, as a share of the brain's greatest depth; sulci and the rim lie shallower."""

_BESIDE = 0.45
"""Greatest distance of a ventricle from the midline, in halves of the head's width; the insula lies farther out."""

_FROM_BACK = (0.3, 0.75)
"""Range of the ventricles along the head's length; the cisterns behind and the front of the falx lie outside."""


@dataclass(frozen=True)
class Profiles:
    """Intensities along two lines through versions of one slice.

    Attributes:
        row: ``[A, I]``, from left to right.
        column: ``[A, J]``, from back to front.
        through: Voxel (i, j) where the lines cross.
    """

    row: np.ndarray
    column: np.ndarray
    through: tuple[int, int]


def find_ventricles(classes: np.ndarray) -> np.ndarray:
    """Return the lateral ventricles of an axial slice, bool ``[I, J]``; empty without any.

    Ventricles are the fluid deep in the middle of the head. This holds for slices through the bodies of the lateral
    ventricles (positions 0.55 to 0.66); in lower slices cisterns count, too.

    Args:
        classes: ``[I, J]`` (left-right, back-front), result of an estimator of `zoo.metrics.bpf.TISSUE`.
    """
    head = ndimage.binary_fill_holes(classes != BACKGROUND)
    if not head.any():
        return head
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    left, right = _extent(head.any(axis=1))
    back, front = _extent(head.any(axis=0))
    aside = np.abs(np.arange(head.shape[0]) - (left + right) / 2) / max((right - left) / 2, 1)
    along = (np.arange(head.shape[1]) - back) / max(front - back, 1)
    middle = (aside < _BESIDE)[:, None] & ((along > _FROM_BACK[0]) & (along < _FROM_BACK[1]))
    # A ventricle may be as dark as the background, so filled holes of the head count as fluid.
    return head & (classes <= FLUID) & middle & (depth > _DEEP * depth.max())


def ventricle_share(classes: np.ndarray) -> float:
    """Return the area of the ventricles as a share of the head's area, in [0, 1]; nan without a head."""
    head = int(ndimage.binary_fill_holes(classes != BACKGROUND).sum())
    return int(find_ventricles(classes).sum()) / head if head else float("nan")


def _extent(along: np.ndarray) -> tuple[int, int]:
    inside = np.flatnonzero(along)
    return int(inside[0]), int(inside[-1])


def profiles_through_ventricle(images: np.ndarray, classes: np.ndarray) -> Profiles:
    """Return the row and the column through the largest ventricle.

    Args:
        images: ``[A, I, J]``, versions of one slice.
        classes: Classes ``[I, J]`` of the version that decides the position of the lines.

    Raises:
        DataError: No ventricle is found.

    Source: Güllmar et al., section 2.5 and figure 5. Departure: the paper chooses the lines by eye.
    """
    pieces, count = ndimage.label(find_ventricles(classes))
    if not count:
        raise DataError("No ventricle was found in the slice; choose slices that show one (--ventricles POSITION).")
    largest = 1 + int(np.argmax(np.bincount(pieces.flat)[1:]))
    inside = np.argwhere(pieces == largest)
    i, j = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    return Profiles(images[:, :, j], images[:, i, :], (int(i), int(j)))
