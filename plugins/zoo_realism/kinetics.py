"""The evaluator ``kinetics``: whether contrast agent takes the same course in generated images as in real ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from zoo.config import DataConfig
from zoo.descriptors import Score
from zoo.errors import DataError, did_you_mean
from zoo.evaluation.scores import MODEL, Evaluation, Measure
from zoo.imaging.cohort import Cohort
from zoo.imaging.preprocessing import output_intensity
from zoo.metrics.features import BATCH
from zoo.metrics.kinetics import CURVES, measure_kinetics
from zoo.metrics.statistics import FEWEST_SUBJECTS, Interval, grouped_mean_interval
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.report.figures import empty_figure
from zoo_realism.config import KineticsOptions
from zoo_realism.images import ImageSet, generated_images, real_images

REAL = "real"
"""Name of the real images of unseen subjects."""
DIFFERENCE = "model - real"
"""Name of the difference between the model's value and that of the real images."""
FLOOR = "real halves (floor)"
"""Name of the mean absolute difference between real images of two halves of the subjects."""

_HALVINGS = 100
_NOISE_IMAGES = 256

_UNITS = {
    "wash-in slope": "1/min",
    "wash-out slope": "1/min",
    **{f"{name} curves": "" for name in CURVES},
    "largest step first": "",
    "darker": "",
    "jumps": "",
    "subtraction error": "",
}
"""Unit of each metric."""

_READING = f"""\
The curve of an image is that of its hot region: where the signal rises most in the middle of the image. Slopes are \
shares of the signal before contrast agent per minute: wash-in from before to the first image after contrast agent, \
wash-out from the early peak to the last image. Curves are persistent, plateau or wash-out by a change of 10 % from \
the early peak. largest step first: share of images whose signal rises most in the first step.
darker: share of the tissue that is darker in the first image after contrast agent than before, by more than three \
standard deviations of the noise of real images. jumps: how far an image after contrast agent is from the line in time \
between its neighbours. subtraction error: mean absolute difference of the subtraction channel from the first image \
after contrast agent minus that before; 1 is the brightest value of the scale.
{DIFFERENCE!r} is best near 0. {FLOOR!r} is how far two halves of the real subjects are apart, on average over \
{_HALVINGS} divisions.
n counts subjects. Intervals of 95 %, none below {FEWEST_SUBJECTS} subjects; no subject is drawn twice: over subjects \
for real images, over images for generated ones."""

Values = Mapping[str, np.ndarray]
"""The values of each metric, one per image; nan for an image without signal."""


def kinetics(artifact: Artifact, cohort: Cohort, options: KineticsOptions, progress: Progress) -> Evaluation:
    """Compare the course of contrast agent in generated and in real images, class by class.

    Args:
        artifact: A model of a dynamic series whose method samples and names real examples.
        cohort: Unseen subjects.
        options: Channels, times and numbers.
        progress: Called with (images done, images in all).

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: The model lacks a channel, its channels do not share one scale, or the method names no real examples.
    """
    real = real_images(artifact, cohort)
    _check_channels(real.channels, options, artifact.config.data)
    runtime = Runtime.choose(options.backend, options.precision)
    generated = generated_images(artifact, options.samples, options.seed, runtime)
    total = len(real) + len(generated)
    noise = _noise(real, artifact.config.data, options)
    sets = {
        REAL: _measured(real, artifact.config.data, options, noise, lambda done: progress(done, total)),
        MODEL: _measured(
            generated, artifact.config.data, options, noise, lambda done: progress(len(real) + done, total)
        ),
    }
    scores: dict[Measure, Score] = {}
    for number, name in enumerate(dict.fromkeys(generated.classes)):
        own = {REAL: _of_class(sets[REAL], real, name), MODEL: _of_class(sets[MODEL], generated, name)}
        owners = [real.subjects[row] for row in real.rows(name)]
        scores |= _class_scores(name, own, owners, np.random.default_rng(seed_for(options.seed, number)))
    return Evaluation(
        scores=scores,
        about={
            "before": options.before,
            "after": ", ".join(f"{n} ({t:g} s)" for n, t in zip(options.after, options.times_s, strict=True)),
            "subtraction": options.subtraction or "not checked",
            "noise": round(noise, 5),
            "real images": len(real),
            "subjects": len(set(real.subjects)),
            "samples": options.samples,
            "seed": options.seed,
            "runtime": f"{runtime.backend}, {runtime.precision}, {runtime.device}",
        },
        by_subject=_by_subject(real, sets[REAL]),
        pictures=[_picture(real, generated, sets, options)],
        columns=("class", "images of"),
        reading=_READING,
    )


def _check_channels(channels: Sequence[str], options: KineticsOptions, data: DataConfig) -> None:
    """Refuse channels that are not there, or whose values cannot be compared."""
    settings = {"before": (options.before,), "after": options.after, "subtraction": (options.subtraction,)}
    for setting, names in settings.items():
        for name in names:
            if name is not None and name not in channels:
                none = ", or subtraction=none" if setting == "subtraction" else ""
                raise DataError(
                    f"The model has no channel {name!r}.{did_you_mean(name, channels)} Its channels: "
                    f"{', '.join(channels)}. Name its own by --set {setting}=…{none}"
                )
    series = [options.before, *options.after, *([options.subtraction] if options.subtraction else [])]
    scales = {name: _scale(name, data) for name in series}
    apart = [name for name in series if scales[name] != scales[options.after[0]]]
    if apart:
        raise DataError(
            f"{apart[0]!r} and {options.after[0]!r} are scaled each for itself, so signals cannot be compared over "
            f"time. Train with one scale for the series: --set data.scales.{apart[0]}.like={options.after[0]}"
        )


def _scale(channel: str, data: DataConfig) -> object:
    """Return what a channel's values are scaled by: a range, or the channel whose constants are used."""
    source = data.scale_of(channel).like or channel
    return data.scale_of(source).range or source


def _signals(images: ImageSet, rows: Sequence[int], data: DataConfig, channels: Sequence[str]) -> np.ndarray:
    """Return channels of some images in a common unit, ``[N, len(channels), *spatial]``; 0 is no signal."""
    values = images.take(rows).numpy()
    found = [output_intensity(name, data)[0].decode(values[:, images.channels.index(name)]) for name in channels]
    return np.stack(found, axis=1)


def _noise(real: ImageSet, data: DataConfig, options: KineticsOptions) -> float:
    """Return the standard deviation of the noise in the difference of two real images."""
    random = np.random.default_rng(seed_for(options.seed, len(real)))
    rows = random.choice(len(real), min(len(real), _NOISE_IMAGES), replace=False).tolist()
    signals = _signals(real, rows, data, (options.before, *options.after))
    return float(np.median(measure_kinetics(signals, options.times_s).noise))


def _measured(
    images: ImageSet, data: DataConfig, options: KineticsOptions, noise: float, report: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Return the metrics of all images, and ``curves``: the enhancement of each, ``[N, T]``."""
    series = (options.before, *options.after)
    channels = (*series, *([options.subtraction] if options.subtraction else []))
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(images), BATCH):
        rows = range(start, min(start + BATCH, len(images)))
        signals = _signals(images, rows, data, channels)
        found = measure_kinetics(signals[:, : len(series)], options.times_s, noise)
        known = np.isfinite(found.wash_in)
        part = {
            "wash-in slope": found.wash_in,
            "wash-out slope": found.wash_out,
            **{f"{name} curves": np.where(known, found.curve_class == name, np.nan) for name in CURVES},
            "largest step first": np.where(known, found.first_step_largest, np.nan),
            "darker": found.darker,
            "jumps": found.jumps,
            "curves": np.where(known[:, None], found.curves / np.where(known, found.curves[:, 0], 1)[:, None], np.nan)
            - 1,
        }
        if options.subtraction:
            error = np.abs(signals[:, -1] - (signals[:, 1] - signals[:, 0]))
            part["subtraction error"] = error.reshape(len(error), -1).mean(axis=1)
        parts.append(part)
        report(rows.stop)
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _of_class(values: Values, images: ImageSet, name: str) -> Values:
    rows = images.rows(name)
    return {metric: some[rows] for metric, some in values.items() if metric != "curves"}


def _class_scores(
    name: str, values: Mapping[str, Values], owners: Sequence[str], random: np.random.Generator
) -> dict[Measure, Score]:
    """Return the scores of a class: of the model, of real images, their difference, and its floor.

    Args:
        name: Of the class.
        values: Of `REAL` and of `MODEL`.
        owners: The subject of each real image.
        random: Divides the subjects in halves.
    """
    scores: dict[Measure, Score] = {}
    subjects = len(set(owners))
    for metric in values[MODEL]:
        intervals: dict[str, Interval] = {}
        for filler in (MODEL, REAL):
            own = values[filler][metric]
            known = np.isfinite(own)
            groups = owners if filler == REAL else [f"generated {row}" for row in range(len(own))]
            if not known.any():
                why = "no image of the class has signal" if len(own) else "unseen subjects have no image of the class"
                scores[Measure(name, filler, metric)] = _score(
                    metric, None, "nearer real", subjects, len(own), note=why
                )
                continue
            kept = own[known] > 0.5 if _is_share(metric) else own[known]
            found = grouped_mean_interval(kept, [group for group, one in zip(groups, known, strict=True) if one])
            intervals[filler] = found
            note = "" if known.all() else f"{(~known).sum()} of {len(own)} images have no signal and are left out"
            scores[Measure(name, filler, metric)] = _score(
                metric, found.mean, "nearer real", subjects, len(own), _bounds(found), note
            )
        if len(intervals) < 2:
            continue
        difference = intervals[MODEL].mean - intervals[REAL].mean
        scores[Measure(name, DIFFERENCE, metric)] = _score(
            metric, difference, "nearer 0", subjects, len(owners), _difference_bounds(intervals[MODEL], intervals[REAL])
        )
        floor = _floor(values[REAL][metric], np.asarray(owners), random)
        if floor is not None:
            scores[Measure(name, FLOOR, metric)] = _score(metric, floor, "nearer 0", subjects, len(owners))
    return scores


def _score(
    metric: str,
    value: float | None,
    better: Literal["nearer 0", "nearer real"],
    subjects: int,
    images: int,
    ci: tuple[float, float] | None = None,
    note: str = "",
) -> Score:
    return Score(value=value, unit=_UNITS[metric], better=better, n=subjects, images=images, ci=ci, note=note)


def _is_share(metric: str) -> bool:
    """Return whether each image has yes or no for a metric."""
    return metric.endswith(" curves") or metric == "largest step first"


def _bounds(interval: Interval) -> tuple[float, float] | None:
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def _difference_bounds(one: Interval, other: Interval) -> tuple[float, float] | None:
    """Return the interval of a difference of two independent means.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10, for any
    two intervals.
    """
    first, second = _bounds(one), _bounds(other)
    if first is None or second is None:
        return None
    difference = one.mean - other.mean
    return (
        difference - float(np.hypot(one.mean - first[0], second[1] - other.mean)),
        difference + float(np.hypot(first[1] - one.mean, other.mean - second[0])),
    )


def _floor(values: np.ndarray, owners: np.ndarray, random: np.random.Generator) -> float | None:
    """Return the mean absolute difference between the means of two halves of the subjects; ``None`` without halves."""
    known = np.isfinite(values)
    subjects, members = np.unique(owners[known], return_inverse=True)
    if len(subjects) < 2:
        return None
    numbers, sums = np.bincount(members), np.bincount(members, values[known])
    found = []
    for _ in range(_HALVINGS):
        first = random.permutation(len(subjects)) < len(subjects) // 2
        means = [sums[half].sum() / numbers[half].sum() for half in (first, ~first)]
        found.append(abs(means[0] - means[1]))
    return float(np.mean(found))


def _by_subject(real: ImageSet, values: Values) -> list[dict[str, Any]]:
    """Return one row per unseen subject and class with the means of its images."""
    keys = list(zip(real.subjects, real.classes, strict=True))
    rows = []
    for subject, name in dict.fromkeys(keys):
        own = [row for row, key in enumerate(keys) if key == (subject, name)]
        row: dict[str, Any] = {"subject": subject, "class": name, "images": len(own)}
        for metric in _UNITS:
            if metric in values and np.isfinite(values[metric][own]).any():
                row[metric] = float(np.nanmean(values[metric][own]))
        rows.append(row)
    return rows


def _picture(
    real: ImageSet, generated: ImageSet, sets: Mapping[str, Values], options: KineticsOptions
) -> tuple[bytes, str]:
    """Return the curves of each class with the shares of their classes as PNG, and its caption."""
    names = tuple(dict.fromkeys(generated.classes))
    figure = empty_figure(4.2 * len(names), 5.4, layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, height_ratios=(3, 1), sharex="row", sharey="row")
    times = [0, *options.times_s]
    shades = ("#228833", "#bbbbbb", "#cc3311")
    for column, name in enumerate(names):
        upper, lower = axes[:, column]
        for level, (filler, images, colour) in enumerate(((MODEL, generated, "#ee7733"), (REAL, real, "#4477aa"))):
            values = {metric: some[images.rows(name)] for metric, some in sets[filler].items()}
            curves = values["curves"][np.isfinite(values["curves"]).all(axis=1)]
            if not len(curves):
                continue
            low, middle, high = np.quantile(100 * curves, (0.1, 0.5, 0.9), axis=0)
            label = "generated" if filler == MODEL else "real"
            upper.plot(times, middle, "o-", color=colour, label=f"{label} ({len(curves)})")
            upper.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)
            left = 0.0
            for curve, shade in zip(CURVES, shades, strict=True):
                share = float(np.nanmean(values[f"{curve} curves"]))
                lower.barh(level, share, left=left, color=shade, label=curve if level == 0 else None)
                left += share
        upper.set(title=name, xlabel="seconds after contrast agent", xticks=times)
        upper.grid(alpha=0.3)
        upper.legend(frameon=False, fontsize=8)
        lower.set(yticks=(0, 1), yticklabels=("generated", "real"), xlim=(0, 1), xlabel="share of images")
    axes[0, 0].set_ylabel("enhancement, %")
    axes[1, 0].legend(*axes[1, 0].get_legend_handles_labels(), ncols=3, frameon=False, fontsize=8, loc="lower left",
                      bbox_to_anchor=(0, 1))  # fmt: skip
    png = io.BytesIO()
    figure.savefig(png, format="png")
    caption = (
        "Enhancement of the hot region: median (line) and the middle 80 % of the images (band); below the shares of "
        "persistent, plateau and wash-out curves."
    )
    return png.getvalue(), caption
