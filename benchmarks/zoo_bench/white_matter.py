"""White matter of a T1w by intensity alone: measured in ``white_matter_check.py``, too coarse for the product.

Version 0.1.0 dilated lesions into `brightest_class`. Benchmarks that repeat its figures still do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from zoo.imaging.head import find_head

_REACH_MM = 20.0
_BRIGHT = 1.25


def brightest_class(t1w: np.ndarray, lesion_mask: np.ndarray) -> np.ndarray:
    """Return the brightest of three Otsu classes, closed together with the lesions: the rule of version 0.1.0.

    Args:
        t1w: ``[i, j, k]``, any units.
        lesion_mask: bool ``[i, j, k]``.
    """
    brightest = threshold_multiotsu(t1w[t1w > t1w.mean()], classes=3)[-1]
    bright = (t1w > brightest) | lesion_mask
    return ndimage.binary_closing(bright, np.ones((3, 3, 3), bool), iterations=2) | bright


def relative_brightness(t1w: np.ndarray, lesion_mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a T1w divided by the level of white matter near each voxel.

    The level begins at the mode of the brighter half of the head's core; the mean of the voxels near it, weighted by a
    Gaussian of 20 mm, follows the coil's sensitivity.

    Args:
        t1w: ``[i, j, k]``, any units.
        lesion_mask: bool ``[i, j, k]``; the level is taken beside it.
        spacing_mm: Voxel size.
    """
    head = find_head(t1w, spacing_mm)
    core = head.voxels_of(t1w, head.core())
    counts, edges = np.histogram(core[core > np.median(core)], 100)
    start = float(edges[np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 2))])
    every = tuple(slice(None, None, step) for step in head.step)
    coarse, healthy = t1w[head.window][every], head.inside & ~lesion_mask[head.window][every]
    reach = [_REACH_MM / (size * step) for size, step in zip(spacing_mm, head.step, strict=True)]
    level = np.full(coarse.shape, start)
    for _ in range(4):
        white = (healthy & (coarse > 0.88 * level) & (coarse < 1.2 * level)).astype(float)
        held = ndimage.gaussian_filter(white, reach, mode="nearest") + 0.02
        level = (ndimage.gaussian_filter(coarse * white, reach, mode="nearest") + 0.02 * start) / held
    fine = np.full(t1w.shape, start)
    shape = fine[head.window].shape
    zoom = [size / few for size, few in zip(shape, coarse.shape, strict=True)]
    fine[head.window] = ndimage.zoom(level, zoom, order=1, mode="nearest", grid_mode=True)
    return t1w / fine


def near_the_level(relative: np.ndarray, threshold: float) -> np.ndarray:
    """Return the voxels above ``threshold`` of white matter's level, most of whose 26 neighbours are so, too.

    Args:
        relative: Of `relative_brightness`.
        threshold: Share of the level.
    """
    white = (relative > threshold) & (relative < _BRIGHT)
    return white & (ndimage.uniform_filter(white.astype(np.float32), 3) > 0.6)
