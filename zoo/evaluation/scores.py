"""What an evaluator returns: scores, comparisons of the model with baselines, and their tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.metrics.statistics import FEWEST_SUBJECTS, PairedDifference, paired_difference

MODEL = "model"
"""The evaluated model's name in `Measure.filler`; every other name there is a baseline."""

MEANS = f"Means over subjects with 95 % intervals, none below {FEWEST_SUBJECTS} subjects."
"""How most scores are read."""

PAIRED = (
    "Mean of the differences within subjects, model - baseline, with its 95 % interval, and the number of subjects on "
    "which the model is better. For metrics that are best near 1: of the distances from 1, so below 0 is better."
)
"""Caption of the table of comparisons."""


class Measure(NamedTuple):
    """What a score measures.

    Attributes:
        condition: What was measured on, e.g. ``"lesions"``.
        filler: What produced the images: `MODEL`, or the name of a baseline.
        metric: Name of the metric, e.g. ``"ssim_in"``.
    """

    condition: str
    filler: str
    metric: str

    def __str__(self) -> str:
        """Return the key in JSON, ``"condition/filler/metric"``."""
        return "/".join(self)


@dataclass(frozen=True)
class Comparison:
    """A metric of the model compared with a baseline's, paired by subject.

    Attributes:
        condition, metric: As in `Measure`.
        baseline: The other filler.
        better: Which values of the metric are better.
        paired: Differences, model - baseline (``"nearer 1"``: of the distances from 1; ``"nearer 0.5"`` likewise), and
            subjects won.
    """

    condition: str
    baseline: str
    metric: str
    better: str
    paired: PairedDifference

    @property
    def sign(self) -> int:
        """1 if the model is better on average, -1 if the baseline is, else 0."""
        mean = self.paired.difference.mean
        return int(np.sign(mean if self.better == "higher" else -mean))

    @property
    def certain(self) -> bool:
        """Whether the difference has an interval and the interval excludes 0."""
        low, high = self.paired.difference.low, self.paired.difference.high
        return low is not None and high is not None and not low <= 0 <= high

    def __str__(self) -> str:
        """Return the difference with its interval and the subjects won, as text."""
        one = self.paired.difference
        interval = "" if one.low is None or one.high is None else f" [{one.low:+.3g}, {one.high:+.3g}]"
        return f"{one.mean:+.3g}{interval}, {self.paired.won} of {one.n}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        one = self.paired.difference
        return {
            "condition": self.condition,
            "baseline": self.baseline,
            "metric": self.metric,
            "difference": one.mean,
            "ci": None if one.low is None else [one.low, one.high],
            "n": one.n,
            "won": self.paired.won,
        }


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator returns.

    Attributes:
        scores: By what they measure.
        about: Data, seed, masks, feature extractors: what a reader needs to repeat the evaluation.
        by_subject: One row per subject, condition and filler, with the metrics as further keys.
        pictures: PNG bytes and a caption each.
        columns: Names of the condition and the filler in tables and in ``by_subject``.
        reading: How scores, intervals and fillers are read.

    Raises:
        DataError: A score's key is no `Measure`, or a part of it is empty or holds a slash, which separates the parts
            in JSON.
    """

    scores: Mapping[Measure, Score]
    about: Mapping[str, Any]
    by_subject: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[tuple[bytes, str]] = field(default=(), repr=False)
    columns: tuple[str, str] = ("masks", "filled by")
    reading: str = MEANS

    def __post_init__(self) -> None:
        for key in self.scores:
            if not isinstance(key, Measure) or not all(part and "/" not in part for part in key):
                raise DataError(
                    f"Scores are kept by Measure(condition, filler, metric), three texts without a slash, got {key!r}."
                )

    def table(self) -> list[dict[str, Any]]:
        """Return one row per condition and filler with one column per metric, empty where it does not apply.

        A star marks a score with a note (`notes`).
        """
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for (condition, filler, metric), score in self.scores.items():
            start = {self.columns[0]: condition, self.columns[1]: filler, "n": score.n}
            if score.images is not None:
                start["images"] = score.images
            rows.setdefault((condition, filler), start)[metric] = _cell(score)
        return _aligned(rows.values())

    def comparisons(self) -> list[Comparison]:
        """Return each metric of the model compared with each baseline, if subjects have values of their own."""
        values: dict[Measure, dict[str, float]] = {}
        condition_column, filler_column = self.columns
        for row in self.by_subject:
            if not {condition_column, filler_column} <= row.keys():
                continue
            for metric, value in row.items():
                if isinstance(value, int | float):
                    measure = Measure(row[condition_column], row[filler_column], metric)
                    values.setdefault(measure, {})[row["subject"]] = value
        found = []
        for measure, score in self.scores.items():
            own, theirs = values.get(measure._replace(filler=MODEL), {}), values.get(measure, {})
            if measure.filler != MODEL and score.better != "nearer real" and own.keys() & theirs.keys():
                paired = paired_difference(own, theirs, score.better)
                found.append(Comparison(measure.condition, measure.filler, measure.metric, score.better, paired))
        return found

    def paired_table(self) -> list[dict[str, Any]]:
        """Return one row per condition and baseline: the model's difference from it, and the subjects won."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for one in self.comparisons():
            start = {self.columns[0]: one.condition, "model against": one.baseline}
            rows.setdefault((one.condition, one.baseline), start)[one.metric] = str(one)
        return _aligned(rows.values())

    def verdicts(self) -> list[str]:
        """Return one sentence per condition and baseline that is better than the model inside the masks.

        The mean of the differences within subjects decides. A baseline beats the model if the interval of the mean lies
        on the baseline's side; if the interval holds 0, or there are too few subjects for an interval, the baseline is
        better on average.
        """
        wins: dict[tuple[str, str, str], list[str]] = {}
        for one in self.comparisons():
            elsewhere = one.metric.endswith(("_out", "_full"))  # follows from the inside, as known voxels are put back
            if one.sign >= 0 or elsewhere:
                continue
            verb = "beats the model" if one.certain else "is better than the model on average, not for certain,"
            wins.setdefault((one.condition, one.baseline, verb), []).append(f"{one.metric} {one}")
        return [f"{who} {verb} on {condition} ({'; '.join(by)})" for (condition, who, verb), by in wins.items()]

    def missing(self) -> list[str]:
        """Return which metrics are missing, and why, each once."""
        return sorted(
            {f"{measure.metric}: {score.note}" for measure, score in self.scores.items() if score.value is None}
        )

    def notes(self) -> list[str]:
        """Return what limits scores that were measured, each once with the metrics that it limits."""
        metrics: dict[str, dict[str, None]] = {}
        for measure, score in self.scores.items():
            if score.value is not None and score.note:
                metrics.setdefault(score.note, {})[measure.metric] = None
        return [f"{', '.join(names)}: {note}" for note, names in metrics.items()]

    def to_json(self) -> dict[str, Any]:
        """Return all but the pictures as plain JSON data."""
        return {
            "about": dict(self.about),
            "reading": self.reading,
            "scores": {str(measure): asdict(score) for measure, score in self.scores.items()},
            "comparisons": [comparison.to_json() for comparison in self.comparisons()],
            "verdicts": self.verdicts(),
            "by_subject": [dict(row) for row in self.by_subject],
        }


def _aligned(rows: Collection[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows that all have the columns of any, empty where a row has no value."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _cell(score: Score) -> str:
    if score.value is None:
        return "missing"
    interval = f" [{score.ci[0]:.4g}, {score.ci[1]:.4g}]" if score.ci else ""
    return f"{score.value:.4g}{interval}{' *' if score.note else ''}"


def explain(evaluation: Evaluation) -> str:
    """Return what was measured on what, which baselines win, and what limits scores or is missing, one line each."""
    about = ", ".join(f"{key}: {value}" for key, value in evaluation.about.items())
    sentences = [evaluation.reading, f"{about}."]
    if evaluation.comparisons():
        wins = evaluation.verdicts()
        listed = ";\n  ".join(wins)
        sentences.append(f"Baselines that win: {listed}." if wins else "No baseline wins.")
    sentences += [f"* {note}" for note in evaluation.notes()]
    sentences += [f"Missing: {reason}" for reason in evaluation.missing()]
    return "\n".join(sentences)
