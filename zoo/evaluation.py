"""Measuring a trained model: which subjects may be used, which evaluators run, where the figures go."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from zoo.artifact import Artifact
from zoo.config import validate
from zoo.descriptors import Score, resolve
from zoo.errors import DataError
from zoo.files import write_text
from zoo.imaging.cache import PackedScan, mask_digest, pack_scan
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.imaging.transfer import patient_of
from zoo.metrics.statistics import FEWEST_SUBJECTS, PairedDifference, paired_difference
from zoo.protocol import PartName, Protocol
from zoo.registry import registry

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

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


def seen_subjects(artifact: Artifact, cohort: Cohort, *, tuning: bool = False) -> set[str]:
    """Return the subjects that training or the choice of a checkpoint has seen; of training alone for ``tuning``.

    An image is known by its decoded voxels and grid, so a copy that was renamed, compressed otherwise or stored as
    another type is recognised; models of version 0.1.0 know their images by the bytes of the file alone. With one image
    of a subject all of that subject's scans count as seen. Images are packed for the model on the way, so none is
    decoded again.

    Raises:
        DataError: An image cannot be used.
    """
    seen = _seen_images(artifact)
    if tuning:
        seen -= set(artifact.manifest.get("validated_on", ()))
    if not seen:
        return set()
    return {
        scan.subject
        for scan in cohort.scans
        if not seen.isdisjoint(_hashes(artifact, pack_scan(scan, artifact.config.data)))
    }


def unseen(artifact: Artifact, cohort: Cohort) -> Cohort:
    """Leave out every subject that training or the choice of a checkpoint has seen, see `seen_subjects`.

    Raises:
        DataError: Nobody is left, or an image cannot be used.
    """
    known = seen_subjects(artifact, cohort)
    left = cohort.subset(set(cohort.subjects) - known)
    if not left.scans:
        raise DataError(
            f"All {len(known)} subjects in {cohort.root} were used in training; a model is not measured on them. "
            "Give other subjects, or keep some when training (data.test)."
        )
    return left


def has_seen(artifact: Artifact, scan: PackedScan) -> bool:
    """Return whether training or the choice of a checkpoint has seen one of a scan's images."""
    return not _seen_images(artifact).isdisjoint(_hashes(artifact, scan))


def _seen_images(artifact: Artifact) -> set[str]:
    """Return the hashes by which a model knows the images of its training: of voxels, or with 0.1.0 of files."""
    manifest = artifact.manifest
    return set(manifest.get("trained_on_voxels", manifest.get("trained_on", ())))


def _hashes(artifact: Artifact, scan: PackedScan) -> tuple[str, ...]:
    return scan.voxel_hashes if "trained_on_voxels" in artifact.manifest else scan.image_hashes


def evaluate(
    artifact: Artifact,
    data: Path,
    *,
    evaluators: Sequence[str],
    options: Mapping[str, Any],
    bar: Bar,
) -> dict[str, Evaluation]:
    """Run evaluators on the subjects of a cohort that the model has not seen, and keep their results in the run.

    Args:
        artifact: The trained model.
        data: BIDS folder or manifest.
        evaluators: Names; empty for the method's own.
        options: Settings of the evaluators.
        bar: Makes progress bars.

    Raises:
        UnknownNameError: There is no such evaluator.
        DataError: Nobody is left to measure on, or an image cannot be used.
    """
    cohort = unseen(artifact, read_cohort(data).with_all(artifact.config.data.contrasts))
    return _run_evaluators(artifact, cohort, None, evaluators, options, bar)


def evaluate_by_protocol(
    artifact: Artifact,
    protocol: Protocol,
    part: PartName,
    *,
    evaluators: Sequence[str],
    options: Mapping[str, Any],
    bar: Bar,
) -> dict[str, Evaluation]:
    """Run evaluators on the subjects and with the lesion masks of one part of a protocol, as `evaluate` does.

    Raises:
        DataError: Besides those of `evaluate`, training has seen a subject or laid a mask of the part.
    """
    cohort = protocol.subjects(part).with_all(artifact.config.data.contrasts)
    known = sorted(seen_subjects(artifact, cohort, tuning=part == "tuning"))
    if known:
        raise DataError(
            f"Training has seen {', '.join(known)} of the protocol's {part} part; a model is not measured on them. "
            "Evaluate a model trained by the same protocol."
        )
    masks = protocol.evaluation_options(part)
    if masks.get("lesion_masks"):
        bank = read_cohort(Path(masks["lesion_masks"])).named(masks.get("lesion_mask_subjects", ()))
        laid = sorted(set(bank.subjects) - set(unlaid(artifact, bank).subjects))
        if laid:
            raise DataError(
                f"Training has laid the lesion masks of {', '.join(laid)}, of the protocol's {part} part; a model is "
                "not measured under them. Evaluate a model trained by the same protocol."
            )
    return _run_evaluators(artifact, cohort, protocol.about(part), evaluators, {**masks, **options}, bar)


def unlaid(artifact: Artifact, bank: Cohort) -> Cohort:
    """Leave out the lesion masks of every patient whose mask training has laid on its subjects.

    Masks are known by their voxels. A model that does not record them (of version 0.1.0) has laid none that are known.
    """
    laid = set(artifact.manifest.get("masks_laid", ()))
    masked = bank.with_all(["lesion-mask"]) if laid else bank
    patients = {patient_of(scan) for scan in masked.scans if laid and mask_digest(scan.maps["lesion-mask"]) in laid}
    return bank.subset(scan.subject for scan in bank.scans if patient_of(scan) not in patients)


def _run_evaluators(
    artifact: Artifact,
    cohort: Cohort,
    protocol: Mapping[str, str] | None,
    evaluators: Sequence[str],
    options: Mapping[str, Any],
    bar: Bar,
) -> dict[str, Evaluation]:
    names = list(evaluators) or list(artifact.method.evaluators)
    if not names:
        raise DataError(f"Method {artifact.method.name!r} names no evaluator; choose one: --with NAME (zoo list).")
    results: dict[str, Evaluation] = {}
    for name in names:
        evaluator = registry().evaluators[name]
        checked = validate(resolve(evaluator.options), options, what=f"evaluator {name!r}")
        with bar(f"Evaluating: {name}") as progress:
            found = resolve(evaluator.evaluate)(artifact, cohort, checked, progress)
        results[name] = replace(found, about={"protocol": dict(protocol), **found.about}) if protocol else found
        _keep(artifact, name, results[name])
    return results


def _keep(artifact: Artifact, name: str, evaluation: Evaluation) -> None:
    """Write JSON and a page beside the model."""
    from zoo.report.html import Section, write_report

    stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    stem = artifact.folder / "evaluations" / f"{name}-{stamp}"
    content = {"model_sha256": artifact.sha256, "evaluator": name, **evaluation.to_json()}
    write_text(stem.with_name(f"{stem.name}.json"), json.dumps(content, indent=2) + "\n")
    write_report(
        stem.with_name(f"{stem.name}.html"),
        f"{artifact.method.name}: {name}",
        [
            Section(heading="Figures", text=explain(evaluation), table=evaluation.table()),
            Section(heading="The model against each baseline", text=PAIRED, table=evaluation.paired_table()),
            Section(heading="Reported in the paper", text=artifact.method.reported_on, table=_reported(artifact)),
            Section(heading="Pictures", figures=list(evaluation.pictures)),
        ],
    )


def _reported(artifact: Artifact) -> list[dict[str, Any]]:
    return [dict(row) for row in artifact.method.reported]


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
