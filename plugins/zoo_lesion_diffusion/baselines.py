"""The classic lesion fillers, which every model is measured against."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.restoration import inpaint_biharmonic

from zoo.errors import DataError

_MARGIN = 4
"""Known voxels round a hole that the biharmonic fill reads; its stencil reaches two."""
_RING = 3


def biharmonic_fill(image: np.ndarray, lesion_mask: np.ndarray) -> np.ndarray:
    """Fill holes by the smoothest surface through their rims, slice by slice.

    Args:
        image: ``[i, j, k]``, any units; slices are along k.
        lesion_mask: bool ``[i, j, k]``.

    Returns:
        Of the type of ``image``; outside the mask bit for bit the input.

    Source: biharmonic inpainting (Chui and Mhaskar 2010) as in scikit-image. Departure: run on the box round each
    group of holes, which gives the values of the whole slice but for scikit-image's clipping to the range of what is
    known: that range is the box's.
    """
    filled = image.copy()
    for index in np.flatnonzero(lesion_mask.any(axis=(0, 1))):
        hole = lesion_mask[:, :, index]
        # Holes whose rims meet are filled together.
        together, _ = ndimage.label(ndimage.binary_dilation(hole, np.ones((3, 3)), iterations=_MARGIN))
        for number, box in enumerate(ndimage.find_objects(together), start=1):
            inside = np.ascontiguousarray(hole[box] & (together[box] == number))  # other holes may reach into the box
            plane = filled[(*box, index)]
            plane[inside] = inpaint_biharmonic(np.ascontiguousarray(plane, np.float64), inside)[inside]
    return filled


def neighbour_fill(
    image: np.ndarray, lesion_mask: np.ndarray, white_matter: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Fill lesions with random white matter: normal numbers with the mean and half the spread of each slice's own.

    Args:
        image: ``[i, j, k]``, any units; slices are along k.
        lesion_mask: bool ``[i, j, k]``.
        white_matter: bool ``[i, j, k]``, or ``None`` to take the brighter half of a ring of 3 voxels round the
            lesions.
        rng: Decides the values.

    Returns:
        Of the type of ``image``; outside the mask bit for bit the input.

    Raises:
        DataError: There is no white matter besides the lesions.

    Source: Valverde et al. 2014. Departures: a slice with fewer than ten voxels of white matter takes the mean and
    spread of the whole volume; the ring where no white matter is given.
    """
    if white_matter is None:
        ring = ndimage.binary_dilation(lesion_mask, iterations=_RING) & ~lesion_mask
        normal = ring & (image >= np.median(image[ring])) if ring.any() else ring
    else:
        normal = white_matter & ~lesion_mask
    if not normal.any():
        raise DataError("There is no white matter besides the lesions to fill them from.")
    everywhere = image[normal]
    filled = image.copy()
    for index in np.flatnonzero(lesion_mask.any(axis=(0, 1))):
        here = image[:, :, index][normal[:, :, index]]
        values = here if len(here) >= 10 else everywhere
        hole = lesion_mask[:, :, index]
        filled[:, :, index][hole] = rng.normal(values.mean(), values.std() / 2, int(hole.sum()))
    return filled
