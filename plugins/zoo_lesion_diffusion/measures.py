"""What the evaluator ``inpainting`` measures of a filled image: metrics, their units, bounds and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from zoo.descriptors import Score
from zoo.evaluation.scores import MODEL, Measure
from zoo.imaging.cache import PackedScan
from zoo.metrics.filling import (
    GREY,
    grey_matter_leak,
    lesions_by_size,
    mean_cortical_thickness,
    seam_score,
    stripe_score,
    tissue_classes,
    tissue_volumes,
)
from zoo.metrics.image import inpainting_metrics
from zoo.metrics.statistics import mean_interval
from zoo_lesion_diffusion.cases import Case

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""A distance of two batches of images ``[N, 1, H, W]``, ``[N]``."""

_UNITS: dict[str, tuple[str, Literal["higher", "lower", "nearer 1"]]] = {
    "ssim": ("", "higher"),
    "psnr": ("dB", "higher"),
    "mse": ("", "lower"),
    "lpips": ("", "lower"),
    "seam": ("", "nearer 1"),
    "stripes": ("", "nearer 1"),
    "grey": ("", "lower"),
    "coverage": ("", "higher"),
    "volume": ("%", "lower"),
    "thickness": ("%", "lower"),
}
"""Unit and direction, by the first word of the metric."""

_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "ssim": (-1, 1),
    "grey": (0, 1),
    "coverage": (0, 1),
    "psnr": (None, None),
}
"""Lowest and highest possible value, by the first word of the metric; all others are 0 or more."""

_NOTES = {
    "ssim_in": "raised by the known voxels around the mask that its windows see, most for small lesions",
    "ssim_filled": "windows of filled voxels alone",
    "seam": "1 is ideal: as in the truth",
    "stripes": "1 is ideal: as in the truth",
    "grey_leak": "a classifier by intensity also finds some in healthy white matter",
}


class Fill(NamedTuple):
    """A filled image, ``[C, i, j, k]`` in [-1, 1].

    Attributes:
        mean: Mean of the samples.
        deviation: Their standard deviation; ``None`` for a single sample.
    """

    mean: np.ndarray
    deviation: np.ndarray | None


def measure(
    case: Case, fills: Mapping[str, Fill], scan: PackedScan, contrasts: Sequence[str], perceptual: Perceptual | None
) -> Iterator[tuple[Measure, float]]:
    """Yield what is measured of a case, a value per measure.

    Args:
        case: The image, its hole and the truth.
        fills: The filled images, by filler.
        scan: Tissue and white matter of the case.
        contrasts: Channels of the images, in order.
        perceptual: LPIPS, or ``None`` if it is not measured.
    """
    sizes = lesions_by_size(case.mask, case.volume_mm3) if case.volume_mm3 is not None else {}
    pasted = {filler: np.where(case.mask, fill.mean, case.image) for filler, fill in fills.items()}
    for filler, fill in fills.items():
        if fill.deviation is not None and filler == MODEL:
            for metric, share in coverage(fill.mean, fill.deviation, case.truth, case.mask).items():
                yield Measure(case.condition, filler, metric), share
        for size, metric, value in _by_slices(pasted[filler], case.truth, case.mask, sizes, perceptual):
            yield Measure(f"lesions {size}" if size else case.condition, filler, metric), value
    for filler, metric, value in _by_volumes(case, pasted, scan, contrasts):
        if not np.isnan(value):  # a hole of one slice has no stripes
            yield Measure(case.condition, filler, metric), value


def coverage(mean: np.ndarray, deviation: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return the shares of filled voxels whose truth lies within one and two standard deviations of the mean."""
    error = np.abs(mean - truth)[:, mask]
    return {f"coverage_{reach}sd": float((error <= reach * deviation[:, mask]).mean()) for reach in (1, 2)}


def ideal_coverage(samples: int, reach: float) -> float:
    """Return the share of truths within ``reach`` standard deviations of the mean of few samples, if all are alike.

    If truth and samples come from one normal distribution, the mean errs too, and so does the deviation of few samples:
    the error over the deviation has Student's t distribution. That gives 0.56 and 0.83 for four samples, and 0.68 and
    0.95 for very many.
    """
    return float(2 * stats.t.cdf(reach / (1 + 1 / samples) ** 0.5, samples - 1) - 1)


def score(metric: str, means: Sequence[float], samples: int) -> Score:
    """Return the score of a metric from the means of all subjects.

    Args:
        metric: Name of the metric.
        means: One value per subject.
        samples: Draws that the model's fills are the mean of.
    """
    first_word = metric.split("_")[0]
    lower, upper = _BOUNDS.get(first_word, (0, None))
    interval = mean_interval(list(means), lower=lower, upper=upper)
    unit, better = _UNITS[first_word]
    bounds = None if interval.low is None or interval.high is None else (interval.low, interval.high)
    return Score(value=interval.mean, unit=unit, better=better, n=interval.n, ci=bounds, note=_note(metric, samples))


def _note(metric: str, samples: int) -> str:
    if not metric.startswith("coverage"):
        return _NOTES.get(metric, "")
    reach = 1 if metric == "coverage_1sd" else 2
    ideal = ideal_coverage(samples, reach)
    return f"share of true voxels within {reach} sd of the mean of {samples} samples; {ideal:.2f} is right"


def _by_slices(
    filled: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    sizes: Mapping[str, np.ndarray],
    perceptual: Perceptual | None,
) -> Iterator[tuple[str, str, float]]:
    """Yield size (empty: all lesions), metric and its mean over the slices where there is something to measure."""
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    predicted, known, hole, *parts = (
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(array[..., slices], -1, 0)))
        for array in (filled.astype(np.float32), truth, mask[None], *(lesions[None] for lesions in sizes.values()))
    )
    measured = inpainting_metrics(predicted, known, hole, dict(zip(sizes, parts, strict=True)))
    if perceptual is not None and min(predicted.shape[2:]) >= 64:
        # LPIPS knows one image at a time, so channels are compared one by one.
        measured["lpips"] = perceptual(predicted.flatten(0, 1)[:, None], known.flatten(0, 1)[:, None])
    for name, values in measured.items():
        if values.isnan().all():
            continue
        metric, _, place = name.rpartition("_")
        size = place if place in sizes else ""
        inside = metric if metric.endswith("_filled") else f"{metric}_in"
        yield size, inside if size else name, float(values.nanmean())


def _by_volumes(
    case: Case, filled: Mapping[str, np.ndarray], scan: PackedScan, contrasts: Sequence[str]
) -> Iterator[tuple[str, str, float]]:
    """Yield filler, metric and value of what is judged by whole volumes; NaN if there is nothing to judge."""
    white_matter, tissue = np.moveaxis(scan.white_matter, 0, 2), np.moveaxis(scan.tissue, 0, 2)
    for metric, rate in (("seam", seam_score), ("stripes", stripe_score)):
        ideal = np.array([rate(channel, case.mask) for channel in case.truth])
        for filler, image in filled.items():
            found = np.array([rate(channel, case.mask) for channel in image])
            yield filler, metric, float(np.mean(found / np.where(ideal > 0, ideal, np.nan)))
    if case.condition == "circles" or "T1w" not in contrasts:
        return
    t1w = contrasts.index("T1w")
    for filler, image in filled.items():
        labels = tissue if tissue.any() else None
        yield filler, "grey_leak", grey_matter_leak(image[t1w], white_matter, case.mask, labels)
    if case.condition == "twin" and tissue.any():
        known = _anatomy(case.truth[t1w], tissue > 0, case.mask, scan.grid.spacing_mm)
        for filler, image in {**filled, "unfilled": case.image}.items():
            errors = 100 * np.abs(_anatomy(image[t1w], tissue > 0, case.mask, scan.grid.spacing_mm) / known - 1)
            yield filler, "volume_error", float(errors[:-1].mean())
            yield filler, "thickness_error", float(errors[-1])


def _anatomy(
    t1w: np.ndarray, brain: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the volumes of fluid, grey and white matter in ml, and the cortical thickness in mm."""
    classes = tissue_classes(t1w, brain, brain & ~mask)
    volumes = tissue_volumes(classes, float(np.prod(spacing_mm)))
    thickness = mean_cortical_thickness(classes == GREY, spacing_mm)
    return np.array([*volumes.values(), thickness])
