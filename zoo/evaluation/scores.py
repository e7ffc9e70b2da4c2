"""What an evaluator finds: scores, comparisons with baselines, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoo.descriptors import Score
from zoo.metrics.statistics import FEWEST_SUBJECTS, PairedDifference, paired_difference

PAIRED = (
    "Mean of the differences within subjects, model - baseline, with its 95 % interval, and on how many subjects the "
    "model is better. Where nearer 1 is better: of the distances from 1, so that below 0 is better."
)


MODEL = "model"
"""What the evaluated model is called in the keys of scores; everything else there is a baseline."""


@dataclass(frozen=True)
class Comparison:
    """A figure of the model against a baseline's, paired by subject.

    Attributes:
        condition, baseline, metric: As in the keys of scores.
        better: Which values of the metric are better.
        paired: Differences, model - baseline (``"nearer 1"``: of the distances from 1), and subjects won.
    """

    condition: str
    baseline: str
    metric: str
    better: str
    paired: PairedDifference

    @property
    def sign(self) -> int:
        """1 where the model is better on average, -1 where the baseline is, else 0."""
        mean = self.paired.difference.mean
        return int(np.sign(mean if self.better == "higher" else -mean))

    @property
    def certain(self) -> bool:
        """Whether there is an interval of the difference, and 0 lies outside."""
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
    """What an evaluator found.

    Attributes:
        scores: By ``"condition/who/metric"``, e.g. ``"lesions/model/ssim_in"``; who is `MODEL` or a baseline.
        about: Data, seed, masks, extractors: what a reader needs to repeat it.
        by_subject: One row a subject, condition and filler.
        pictures: PNG bytes and a caption each.
        columns: What the condition and who are called in tables.
    """

    scores: Mapping[str, Score]
    about: Mapping[str, Any]
    by_subject: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[tuple[bytes, str]] = field(default=(), repr=False)
    columns: tuple[str, str] = ("masks", "filled by")

    def table(self) -> list[dict[str, Any]]:
        """Return one row a condition and filler, with a column a metric, empty where it does not apply."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for key, score in self.scores.items():
            condition, who, metric = key.split("/")
            row = rows.setdefault((condition, who), {self.columns[0]: condition, self.columns[1]: who, "n": score.n})
            row[metric] = _cell(score)
        columns = dict.fromkeys(column for row in rows.values() for column in row)
        return [{column: row.get(column, "") for column in columns} for row in rows.values()]

    def comparisons(self) -> list[Comparison]:
        """Return every figure of the model against each baseline, paired by subject, where subjects have their own."""
        values: dict[tuple[str, str, str], dict[str, float]] = {}
        condition_column, who_column = self.columns
        rows = [row for row in self.by_subject if {condition_column, who_column} <= row.keys()]
        for row in rows:
            for metric, value in row.items():
                if isinstance(value, int | float):
                    place = (row[condition_column], row[who_column], metric)
                    values.setdefault(place, {})[row["subject"]] = value
        found = []
        for key, score in self.scores.items():
            condition, who, metric = key.split("/")
            own, theirs = values.get((condition, MODEL, metric), {}), values.get((condition, who, metric), {})
            if who != MODEL and own.keys() & theirs.keys():
                paired = paired_difference(own, theirs, score.better)
                found.append(Comparison(condition, who, metric, score.better, paired))
        return found

    def paired_table(self) -> list[dict[str, Any]]:
        """Return one row per condition and baseline: the model's difference from it, and the subjects won."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for one in self.comparisons():
            start = {self.columns[0]: one.condition, "model against": one.baseline}
            rows.setdefault((one.condition, one.baseline), start)[one.metric] = str(one)
        columns = dict.fromkeys(column for row in rows.values() for column in row)
        return [{column: row.get(column, "") for column in columns} for row in rows.values()]

    def verdicts(self) -> list[str]:
        """Return a sentence for each baseline and condition in which it is better than the model inside the masks.

        What decides is the mean of the differences within subjects. A baseline beats the model where their interval
        lies on its side; where the interval holds 0, or there are too few subjects for one, it is better on average.
        """
        wins: dict[tuple[str, str, str], list[str]] = {}
        for one in self.comparisons():
            elsewhere = one.metric.endswith(("_out", "_full"))  # follows from the inside, where voxels are put back
            if one.sign >= 0 or elsewhere:
                continue
            verb = "beats the model" if one.certain else "is better than the model on average, not for certain,"
            wins.setdefault((one.condition, one.baseline, verb), []).append(f"{one.metric} {one}")
        return [f"{who} {verb} on {condition} ({'; '.join(by)})" for (condition, who, verb), by in wins.items()]

    def missing(self) -> list[str]:
        """Return which metrics are missing, and why, each once."""
        reasons = {f"{key.split('/')[2]}: {score.note}" for key, score in self.scores.items() if score.value is None}
        return sorted(reasons)

    def to_json(self) -> dict[str, Any]:
        """Return all but the pictures as plain JSON data."""
        return {
            "about": dict(self.about),
            "scores": {key: asdict(score) for key, score in self.scores.items()},
            "comparisons": [comparison.to_json() for comparison in self.comparisons()],
            "verdicts": self.verdicts(),
            "by_subject": [dict(row) for row in self.by_subject],
        }


def _cell(score: Score) -> str:
    if score.value is None:
        return "missing"
    interval = f" [{score.ci[0]:.4g}, {score.ci[1]:.4g}]" if score.ci else ""
    return f"{score.value:.4g}{interval}"


def explain(evaluation: Evaluation) -> str:
    """Return what was measured on what, which baselines win, and what is missing, a line each."""
    about = ", ".join(f"{key}: {value}" for key, value in evaluation.about.items())
    intervals = f"Means over subjects with 95 % intervals, none below {FEWEST_SUBJECTS} subjects."
    sentences = [f"{intervals} {about}."]
    if evaluation.comparisons():
        wins = evaluation.verdicts()
        listed = ";\n  ".join(wins)
        sentences.append(f"Baselines that win: {listed}." if wins else "No baseline wins.")
    sentences += [f"Missing: {reason}" for reason in evaluation.missing()]
    return "\n".join(sentences)
