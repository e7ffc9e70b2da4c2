"""Tissue of one T1-weighted slice, and the brain parenchymal fraction by which Güllmar et al. measure atrophy.

Both estimators look at one image alone, so a change of brightness changes neither. `by_levels` is the default;
`by_kmeans` is the paper's, which on T1-weighted slices takes cortex for fluid (docs/stylegan2-editing.md has the errors
of both against known anatomy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from zoo.errors import DataError

BACKGROUND, FLUID, GREY, WHITE = range(4)
"""Classes by rising intensity, which is their order on T1-weighted images alone."""

FLUID_BELOW = 0.5
"""Voxels of the head below this share of white matter's level are fluid.

On T1-weighted images grey matter lies near 0.7 of white matter and fluid near 0.3. The border is fixed because a slice
has too few voxels of pure fluid to estimate their level from.
"""

_FOREGROUND = 0.1
_CLOSED = 3
"""Voxels by which gaps in the head's outline are closed."""
_DEGREE = 3
_ROUNDS = 10
_RESTARTS = 10


def find_head(image: np.ndarray) -> np.ndarray:
    """Return the filled outline of the brain, bool ``[*spatial]``; all ``False`` where there is no signal.

    The largest piece above a tenth of the bright voxels, closed and filled: dark fluid inside belongs to it. Images
    are of the brain alone; with a skull, scalp and bone are inside, too.

    Args:
        image: ``[*spatial]``, any units, 0 is no signal.
    """
    signal = image > _FOREGROUND * image.max(initial=0)
    if not signal.any():
        return signal
    signal = image > _FOREGROUND * np.quantile(image[signal], 0.9)
    closed = ndimage.binary_closing(np.pad(signal, 2 * _CLOSED), iterations=_CLOSED)
    filled = ndimage.binary_fill_holes(closed[(slice(2 * _CLOSED, -2 * _CLOSED),) * image.ndim])
    pieces, _ = ndimage.label(filled)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def by_levels(image: np.ndarray) -> np.ndarray:
    """Return the class of each voxel by its brightness beside white matter, uint8 ``[*spatial]``.

    Inside the head, the levels of grey and white matter are two means of what is brighter than fluid. The logarithm of
    a smooth field (a polynomial of degree 3) is fitted to how far tissue lies from its level and divided out, ten
    times over. Fluid lies below `FLUID_BELOW` of white matter, grey matter below the middle of the two levels.

    Args:
        image: ``[*spatial]`` of the brain without skull, T1-weighted, any units, 0 is no signal.

    Raises:
        DataError: The image has values that are not finite.
    """
    _check_finite(image)
    flat = np.maximum(np.asarray(image, np.float64), 0)
    head = find_head(flat)
    classes = np.full(flat.shape, BACKGROUND, np.uint8)
    if not head.any():
        return classes
    values, terms = flat[head], _polynomial(head)
    white = float(np.quantile(values, 0.9))
    grey = white
    for _ in range(_ROUNDS):
        tissue = values > FLUID_BELOW * white
        grey, white = _two_means(values[tissue])
        level = np.where(values[tissue] < (grey + white) / 2, grey, white)
        chosen = terms[tissue]
        weights, *_ = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ np.log(values[tissue] / level), rcond=None)
        values = values / np.exp(terms @ weights)
    classes[head] = FLUID + (values >= FLUID_BELOW * white) + (values >= max(FLUID_BELOW * white, (grey + white) / 2))
    return classes


def by_kmeans(image: np.ndarray) -> np.ndarray:
    """Return the class of each voxel by k-means with four clusters on the intensities of the image, uint8.

    Args:
        image: ``[*spatial]``, T1-weighted, any units.

    Raises:
        DataError: The image has values that are not finite, or fewer than four different ones.

    Source: Güllmar et al., section 2.5. Departure: there, it is not said how clusters are named; here they go by
    their mean.
    """
    from sklearn.cluster import KMeans

    _check_finite(image)
    values = np.asarray(image, np.float64).reshape(-1, 1)
    different = len(np.unique(values))
    if different < 4:
        raise DataError(f"An image of {different} different intensities cannot be divided into four tissues.")
    found = KMeans(n_clusters=4, n_init=_RESTARTS, random_state=0).fit(values)
    rank = np.argsort(np.argsort(found.cluster_centers_[:, 0]))
    return rank[found.labels_].reshape(image.shape).astype(np.uint8)


TISSUE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"levels": by_levels, "k-means": by_kmeans}
"""Estimators by the name under which they are chosen and recorded."""


def parenchymal_fraction(classes: np.ndarray) -> float:
    """Return (grey + white) / (grey + white + fluid) in [0, 1]; nan where there is none of them.

    Args:
        classes: Of one of `TISSUE`.

    Source: Güllmar et al., section 2.5, equation 5. All fluid of the image counts, within the brain and round it.
    """
    fluid, tissue = int((classes == FLUID).sum()), int((classes >= GREY).sum())
    return tissue / (tissue + fluid) if tissue + fluid else float("nan")


def _check_finite(image: np.ndarray) -> None:
    if not np.isfinite(image).all():
        raise DataError("An image whose tissue is to be found holds NaN or infinite values.")


def _polynomial(head: np.ndarray) -> np.ndarray:
    """Return the terms of a polynomial without its constant at each voxel of the head, ``[voxels, terms]``.

    Places go from -1 to 1 over the head's extent, so that a wider background changes nothing.
    """
    places = np.argwhere(head).astype(np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    places = 2 * (places - low) / np.maximum(high - low, 1) - 1
    powers = [power for power in np.ndindex(*(_DEGREE + 1,) * head.ndim) if 0 < sum(power) <= _DEGREE]
    terms = np.stack([np.prod(places**power, axis=1) for power in powers], axis=1)
    return terms - terms.mean(axis=0)


def _two_means(values: np.ndarray) -> tuple[float, float]:
    """Return the centres of k-means with two clusters, rising."""
    ordered = np.sort(values)
    below = np.cumsum(ordered)
    low, high = (float(value) for value in np.quantile(ordered, [0.25, 0.75]))
    dark = 0
    while (now := int(np.searchsorted(ordered, (low + high) / 2))) not in (0, dark):
        dark = now
        low, high = below[dark - 1] / dark, (below[-1] - below[dark - 1]) / (len(ordered) - dark)
    return float(low), float(high)
