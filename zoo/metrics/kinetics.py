"""Time-intensity curves after contrast agent: where they are read, their slopes and classes, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

PERSISTENT, PLATEAU, WASH_OUT = CURVES = ("persistent", "plateau", "wash-out")
"""Classes of curves by their late change."""

PLATEAU_WITHIN = 0.10
"""Largest late change of a plateau."""

NOISE_FACTOR = 3.0
"""A voxel is darker beyond noise where it falls by more than so many standard deviations of the noise."""

_WINDOW = 1 / 12
_MIDDLE = 1 / 4
_TISSUE = 1 / 5


@dataclass(frozen=True)
class Kinetics:
    """Measures of each image; nan where it has no signal before contrast agent.

    Attributes:
        curves: Signal of the hot region ``[N, T]``, in the images' units.
        wash_in: Rise of the signal from before contrast agent to the first image after it, as a share of the signal
            before, per minute.
        wash_out: Change from the early peak to the last image, likewise; negative where contrast agent washes out.
        late_change: See `late_change`.
        first_step_largest: Whether the signal of the hot region rises most in the first step, bool.
        darker: Share of the tissue that is darker in the first image after contrast agent than before, beyond noise.
        jumps: How far images after contrast agent are from the line in time between their neighbours: mean absolute
            departure over the tissue, as a share of the signal before contrast agent.
        noise: Standard deviation of the noise in the first image after contrast agent minus that before.
    """

    curves: np.ndarray
    wash_in: np.ndarray
    wash_out: np.ndarray
    late_change: np.ndarray
    first_step_largest: np.ndarray
    darker: np.ndarray
    jumps: np.ndarray
    noise: np.ndarray

    @property
    def curve_class(self) -> np.ndarray:
        """The class of each curve."""
        return curve_class(self.late_change)


def late_change(curves: np.ndarray) -> np.ndarray:
    """Return how much the signal changes late, as a share of its early peak.

    The early peak is the higher one of the first two points after contrast agent, the late signal is the last point.

    Args:
        curves: Signals ``[..., T]``: before contrast agent, then at least twice after it; above 0.

    Returns:
        ``[...]``; 0.2 means that the last signal is 20 % above the early peak.

    Source: Kuhl et al. 1999, "Dynamic breast MR imaging: are signal intensity time course data useful for differential
    diagnosis of enhancing lesions?"; the limits of 10 % are those of the BI-RADS lexicon.
    """
    peak = curves[..., 1:3].max(axis=-1)
    return curves[..., -1] / peak - 1


def curve_class(change: np.ndarray) -> np.ndarray:
    """Return the class of each late change: persistent above 10 %, wash-out below -10 %, plateau between."""
    return np.select([change > PLATEAU_WITHIN, change < -PLATEAU_WITHIN], [PERSISTENT, WASH_OUT], PLATEAU)


def hot_curves(series: np.ndarray) -> np.ndarray:
    """Return the curve of each image's hot region, ``[N, T]``.

    A window of a twelfth of the image's side (an odd number of voxels, at least 3) is put where the mean signal rises
    most from before contrast agent to the mean of all images after it, in the middle half of the image, where patches
    hold their lesion. Of the window's voxels the half that rises most is the hot region: septa, cores and fat are left
    out. The rise of a voxel is the mean over its neighbours, or noise would choose. The place does not depend on the
    brightness, and a border of zeros does not attract it.

    Args:
        series: ``[N, T, *spatial]``: before contrast agent, then after it; 0 without signal.
    """
    spatial = series.shape[2:]
    window = [max(3, 2 * int(side * _WINDOW / 2) + 1) for side in spatial]
    rise = series[:, 1:].mean(axis=1) - series[:, 0]
    smooth = ndimage.uniform_filter(rise, (1, *window), mode="constant")
    local = ndimage.uniform_filter(rise, (1, *[3] * len(spatial)), mode="constant")
    margins = [int(side * _MIDDLE) for side in spatial]
    middle = (slice(None), *(slice(margin, side - margin) for margin, side in zip(margins, spatial, strict=True)))
    inner = smooth[middle]
    curves = []
    for number, flat in enumerate(inner.reshape(len(inner), -1).argmax(axis=1)):
        centre = np.unravel_index(flat, inner.shape[1:])
        box = tuple(
            slice(max(int(place) + margin - side // 2, 0), int(place) + margin + side // 2 + 1)
            for place, margin, side in zip(centre, margins, window, strict=True)
        )
        voxels, gain = series[number][:, *box], local[number][box]
        curves.append(voxels[:, gain >= np.median(gain)].mean(axis=1))
    return np.stack(curves)


def measure_kinetics(series: np.ndarray, times_s: Sequence[float], noise: float | None = None) -> Kinetics:
    """Measure the course of the signal in each image.

    Args:
        series: ``[N, T, *spatial]``, 0 without signal: before contrast agent, then at each of ``times_s``.
        times_s: Seconds after contrast agent, rising; at least two.
        noise: Standard deviation of the noise in a difference of two images, for `Kinetics.darker`; ``None``: that of
            the images at hand, the median over them.
    """
    series = np.asarray(series, np.float64)
    minutes = np.array([0, *times_s]) / 60
    curves = hot_curves(series)
    before = np.where(curves[:, 0] > 0, curves[:, 0], np.nan)
    relative = curves / before[:, None]
    early = 1 + relative[:, 1:3].argmax(axis=1)
    peak = np.take_along_axis(relative, early[:, None], axis=1)[:, 0]
    # With two images after contrast agent the early peak may be the last one.
    since = np.maximum(minutes[-1] - minutes[early], minutes[-1] - minutes[-2])
    change = series[:, 1] - series[:, 0]
    noises = _noise(change)
    tissue = _tissue(series)
    fallen = change < -NOISE_FACTOR * (float(np.median(noises)) if noise is None else noise)
    return Kinetics(
        curves=curves,
        wash_in=(relative[:, 1] - 1) / minutes[1],
        wash_out=(relative[:, -1] - peak) / since,
        late_change=np.where(np.isfinite(before), late_change(np.maximum(curves, 1e-9)), np.nan),
        first_step_largest=np.diff(curves, axis=1).argmax(axis=1) == 0,
        darker=_mean_within(fallen, tissue),
        jumps=_mean_within(_jumps(series, minutes), tissue) / _mean_within(series[:, 0], tissue),
        noise=noises,
    )


def _tissue(series: np.ndarray) -> np.ndarray:
    """Return the voxels with signal, ``[N, *spatial]``: above a fifth of the image's 90th percentile."""
    mean = series.mean(axis=1)
    bright = np.quantile(mean.reshape(len(mean), -1), 0.9, axis=1)
    return mean > np.maximum(_TISSUE * bright, 0).reshape(-1, *[1] * (mean.ndim - 1))


def _mean_within(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the mean of ``[N, *spatial]`` over some voxels of each image, ``[N]``; nan where there are none."""
    axes = tuple(range(1, values.ndim))
    count = where.sum(axis=axes)
    return np.where(count, (values * where).sum(axis=axes), np.nan) / np.maximum(count, 1)


def _noise(difference: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the noise of each image ``[N, *spatial]``, ``[N]``.

    It is found by the median absolute difference of neighbours along the first spatial axis, where both are not 0.
    """
    found = []
    for image in difference:
        steps = np.diff(image, axis=0)[(image[1:] != 0) & (image[:-1] != 0)]
        found.append(np.median(np.abs(steps)) / (0.6745 * np.sqrt(2)) if steps.size else 0.0)
    return np.array(found)


def _jumps(series: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """Return how far the inner images after contrast agent are from the line between their neighbours, on average."""
    departures = [
        np.abs(
            series[:, step]
            - series[:, step - 1]
            - (series[:, step + 1] - series[:, step - 1])
            * (minutes[step] - minutes[step - 1])
            / (minutes[step + 1] - minutes[step - 1])
        )
        for step in range(2, len(minutes) - 1)
    ]
    return np.mean(departures, axis=0) if departures else np.zeros_like(series[:, 0])
