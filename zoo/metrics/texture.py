"""Texture features by scikit-image: nine of the intensities and 54 of the co-occurrence of grey levels, per channel.

They need no network and no weights, and take 2D and 3D images of any number of channels. They describe intensities and
texture inside the foreground; they do not see where something is or what shape the foreground has.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops

BACKGROUND = -0.9
"""Highest value of the background in images in [-1, 1].

Magnitude images have no signal at -1; the tolerance covers the noise of air and what a generator writes there. A signed
channel, such as a subtraction, has its zero at 0: all its voxels are foreground, because no change is a measurement.
"""

_LEVELS = 32
_SCALES = (0, 1, 2)
_DISTANCES = (1, 2, 4)
_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
_LOGARITHMIC = ("contrast", "dissimilarity")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_LEAST_SPREAD = 0.01
"""Below this standard deviation an image in [-1, 1] is taken to be flat."""
_LEAST_RANGE = 0.05
"""Least range of intensities that is divided into grey levels, so that rounding is not taken for texture."""

COUNT = 4 + len(_QUANTILES) + len(_SCALES) * len(_DISTANCES) * len(_PROPERTIES)
"""Number of features of a channel."""


def texture_of(images: np.ndarray) -> np.ndarray:
    """Return the features of images of one channel, float64 ``[N, COUNT]``; always finite.

    Of the intensities of the foreground: mean, standard deviation, skewness, logarithm of 1 + kurtosis, and the 10th,
    25th, 50th, 75th and 90th percentile as shares of the range from the 0.5th to the 99.5th. Brightness moves the first
    two alone. Of the co-occurrence of 32 grey levels in that range, for each scale (Gaussian smoothing by 0, 1 and 2
    voxels) and distance (1, 2 and 4 voxels): logarithm of 1 + contrast, logarithm of 1 + dissimilarity, homogeneity,
    energy, correlation and entropy.

    Args:
        images: ``[N, *spatial]`` in [-1, 1], two or three spatial axes, finite.

    Source: Haralick et al. 1973, by scikit-image. Departures: the background is left out, so that its share is not
    what is measured; logarithms make skewed features closer to the normal distribution that a Fréchet distance assumes.
    """
    images = np.clip(np.asarray(images, np.float64), -1, 1)
    foreground = images > BACKGROUND
    foreground[~foreground.reshape(len(images), -1).any(1)] = True  # an empty image is a flat one
    intensity, lows, steps = [], [], []
    for image, inside in zip(images, foreground, strict=True):
        values = image[inside]
        low, *quantiles, high = np.quantile(values, (0.005, *_QUANTILES, 0.995))
        reach = max(high - low, _LEAST_RANGE)
        intensity.append([*_moments(values), *((quantile - low) / reach for quantile in quantiles)])
        lows.append(low)
        steps.append(reach / (_LEVELS - 1))
    matrices = np.stack(
        [
            _co_occurrence(levels)
            for smooth in _smoothed(images, foreground)
            for levels in _grey_levels(smooth, foreground, np.array(lows), np.array(steps))
        ],
        axis=-1,
    )
    per_scale = _properties(matrices).reshape(len(_SCALES), len(images), -1)
    return np.concatenate([np.array(intensity), *per_scale], axis=1)


def _moments(values: np.ndarray) -> tuple[float, float, float, float]:
    """Return the mean, the standard deviation, the skewness and the kurtosis; the last two are 0 for flat values."""
    mean, spread = values.mean(), values.std()
    scaled = (values - mean) / max(spread, _LEAST_SPREAD)
    return mean, spread, (scaled**3).mean(), np.log1p((scaled**4).mean())


def _smoothed(images: np.ndarray, foreground: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images at each scale, smoothed within the foreground alone, so that padding changes nothing."""
    inside = foreground.astype(np.float64)
    for scale in _SCALES:
        if not scale:
            yield images
            continue
        sigma = (0, *(scale,) * (images.ndim - 1))
        total = ndimage.gaussian_filter(images * inside, sigma, mode="constant")
        weight = ndimage.gaussian_filter(inside, sigma, mode="constant")
        yield total / np.maximum(weight, 1e-9)


def _grey_levels(images: np.ndarray, foreground: np.ndarray, lows: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the grey levels 1 to `_LEVELS` between the 0.5th and the 99.5th percentile, 0 in the background, uint8.

    The levels are steps around 0, so that the zero of a signed channel lies in the middle of a level, where rounding
    does not divide it between two.
    """
    column = (slice(None), *(None,) * (images.ndim - 1))
    levels = np.rint(images / steps[column]) - np.rint(lows / steps)[column]
    return np.where(foreground, 1 + np.clip(levels, 0, _LEVELS - 1), 0).astype(np.uint8)


def _co_occurrence(levels: np.ndarray) -> np.ndarray:
    """Return how often two levels lie a distance apart, ``[_LEVELS, _LEVELS, distances]``.

    The counts are summed over four directions and, for a volume, over the slices of its three orientations: together
    they hold 9 of the 13 directions to neighbours, in-plane neighbours along the axes twice.
    """
    total = np.zeros((_LEVELS + 1, _LEVELS + 1, len(_DISTANCES)))
    apart = ((0, 0), (0, max(_DISTANCES)), (0, 0))  # between slices, so that no pair spans two of them
    for axis in range(3) if levels.ndim == 3 else (None,):
        slices = levels[None] if axis is None else np.moveaxis(levels, axis, 0)
        sheet = np.pad(slices, apart).reshape(-1, slices.shape[-1])
        total += graycomatrix(sheet, _DISTANCES, _ANGLES, levels=_LEVELS + 1, symmetric=True).sum(-1)
    return total[1:, 1:]  # without the background


def _properties(matrices: np.ndarray) -> np.ndarray:
    """Return the properties of matrices ``[levels, levels, distances, M]``, ``[M, distances * properties]``."""
    alone = matrices.sum((0, 1)) == 0  # no two voxels of the foreground are so far apart
    matrices[0, 0][alone] = 1
    found = {name: graycoprops(matrices, name) for name in _PROPERTIES}
    for name in _LOGARITHMIC:
        found[name] = np.log1p(found[name])
    # scikit-image calls a flat image fully correlated, and one with the least noise uncorrelated.
    variance = graycoprops(matrices, "variance")
    found["correlation"] = found["correlation"] * variance / (variance + 1)
    return np.stack(list(found.values()), axis=-1).swapaxes(0, 1).reshape(matrices.shape[-1], -1)
