"""Tissue classes of a T1-weighted slice, and the brain parenchymal fraction (BPF), Güllmar et al.'s measure of atrophy.

Both estimators classify each image by itself, so neither depends on brightness. `by_levels` is the default; `by_kmeans`
is the paper's and takes cortex for fluid on T1-weighted slices. The page docs/methods/stylegan2-editing.md has the
errors of both against known anatomy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from zoo.errors import DataError

BACKGROUND, FLUID, GREY, WHITE = range(4)
"""Classes in order of intensity; the order holds for T1-weighted images only."""

FLUID_BELOW = 0.5
"""Threshold of fluid, as a share of the intensity of white matter.

On T1-weighted images grey matter lies near 0.7 of white matter and fluid near 0.3. The threshold is fixed because a
slice has too few voxels of pure fluid to estimate their intensity.
"""

_FOREGROUND = 0.1
_CLOSED = 3
"""Iterations of the closing that fills gaps in the outline of the head."""
_DEGREE = 3
_ROUNDS = 10
_RESTARTS = 10


def find_head(image: np.ndarray) -> np.ndarray:
    """Return the mask of the brain including dark fluid inside, bool ``[*spatial]``; all ``False`` without signal.

    The mask is the largest connected component above a tenth of the bright voxels' intensity, closed and filled. Images
    must be skull-stripped; otherwise the mask includes scalp and bone.

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
    """Return the class of each voxel by its intensity relative to white matter, uint8 ``[*spatial]``.

    The intensities of grey and white matter are the two means (k-means) of the voxels brighter than fluid. A smooth
    bias field, whose logarithm is a polynomial of degree 3, is fitted to the residuals and divided out; both steps are
    repeated ten times. Fluid is below `FLUID_BELOW` of white matter; grey matter is below the midpoint of the means.

    Args:
        image: ``[*spatial]``, skull-stripped, T1-weighted, any units, 0 is no signal.

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

    Source: Güllmar et al., section 2.5. The paper does not say how clusters are assigned to tissues; here they are
    ordered by their mean.
    """
    from sklearn.cluster import KMeans

    _check_finite(image)
    values = np.asarray(image, np.float64).reshape(-1, 1)
    different = len(np.unique(values))
    if different < 4:
        raise DataError(f"An image of {different} distinct intensities cannot be divided into four tissue classes.")
    found = KMeans(n_clusters=4, n_init=_RESTARTS, random_state=0).fit(values)
    rank = np.argsort(np.argsort(found.cluster_centers_[:, 0]))
    return rank[found.labels_].reshape(image.shape).astype(np.uint8)


TISSUE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"levels": by_levels, "k-means": by_kmeans}
"""Estimators by name."""


def parenchymal_fraction(classes: np.ndarray) -> float:
    """Return (grey + white) / (grey + white + fluid) in [0, 1]; nan without any of them.

    Args:
        classes: Result of an estimator of `TISSUE`.

    Source: Güllmar et al., section 2.5, equation 5. All fluid of the image counts, inside the brain and around it.
    """
    fluid, tissue = int((classes == FLUID).sum()), int((classes >= GREY).sum())
    return tissue / (tissue + fluid) if tissue + fluid else float("nan")


def _check_finite(image: np.ndarray) -> None:
    if not np.isfinite(image).all():
        raise DataError("An image holds NaN or infinite values, so its tissue cannot be classified.")


def _polynomial(head: np.ndarray) -> np.ndarray:
    """Return the terms of a polynomial, without the constant, at each voxel of the head, ``[voxels, terms]``.

    Coordinates range from -1 to 1 over the extent of the head, so the size of the background does not matter.
    """
    coordinates = np.argwhere(head).astype(np.float64)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    coordinates = 2 * (coordinates - low) / np.maximum(high - low, 1) - 1
    powers = [power for power in np.ndindex(*(_DEGREE + 1,) * head.ndim) if 0 < sum(power) <= _DEGREE]
    terms = np.stack([np.prod(coordinates**power, axis=1) for power in powers], axis=1)
    return terms - terms.mean(axis=0)


def _two_means(values: np.ndarray) -> tuple[float, float]:
    """Return the centres of k-means with two clusters, lower first."""
    ordered = np.sort(values)
    sums = np.cumsum(ordered)
    low, high = (float(value) for value in np.quantile(ordered, [0.25, 0.75]))
    dark = 0
    while (now := int(np.searchsorted(ordered, (low + high) / 2))) not in (0, dark):
        dark = now
        low, high = sums[dark - 1] / dark, (sums[-1] - sums[dark - 1]) / (len(ordered) - dark)
    return float(low), float(high)
