"""Running evaluators on subjects that training has not seen, and saving the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo.config import Config, validate
from zoo.descriptors import resolve
from zoo.errors import ArtifactError, DataError
from zoo.evaluation.scores import MODEL, PAIRED, Evaluation, Measure, explain
from zoo.evaluation.study_protocol import PartName, Protocol
from zoo.evaluation.unseen import seen_subjects, unlaid, unseen
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.models.artifact import Artifact
from zoo.progress import Bar
from zoo.registry import registry
from zoo.system.files import write_text

_STAMP_FORMAT = "%Y-%m-%dT%H-%M-%S"
_STAMP = "2026-01-31T10-20-30"
"""An example of the time at the end of a file's name."""


def evaluate(
    artifact: Artifact,
    data: Path,
    *,
    evaluators: Sequence[str],
    options: Mapping[str, Any],
    bar: Bar,
) -> dict[str, Evaluation]:
    """Run evaluators on the subjects of a cohort that the model has not seen, and save the results in the run.

    Args:
        artifact: The trained model.
        data: BIDS folder or manifest.
        evaluators: Names; empty for the method's own.
        options: Settings of the evaluators; each gets those that it has.
        bar: Makes progress bars.

    Raises:
        UnknownNameError: There is no such evaluator.
        DataError: No subject is left to measure on, or an image cannot be used.
    """
    whole = read_cohort(data).with_all(artifact.config.data.images)
    cohort = unseen(artifact, whole)
    seen = sorted(set(whole.subjects) - set(cohort.subjects))
    about = {}
    if seen:
        named = ", ".join(seen[:5]) + (" …" if len(seen) > 5 else "")
        about["left out"] = f"{len(seen)} of {len(whole.subjects)} subjects, which training has seen ({named})"
    return _run_evaluators(artifact, cohort, about, evaluators, options, bar)


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
        DataError: As for `evaluate`; or training has seen a subject or used a lesion mask of the part.
    """
    cohort = protocol.subjects(part).with_all(artifact.config.data.images)
    known = sorted(seen_subjects(artifact, cohort, tuning=part == "tuning"))
    if known:
        raise DataError(
            f"Training has seen {', '.join(known)} of the protocol's {part} part; a model is not measured on them. "
            "Evaluate a model that was trained with the same protocol."
        )
    masks = protocol.evaluation_options(part)
    if masks.get("lesion_masks"):
        bank = read_cohort(Path(masks["lesion_masks"])).named(masks.get("lesion_mask_subjects", ()))
        used = sorted(set(bank.subjects) - set(unlaid(artifact, bank).subjects))
        if used:
            raise DataError(
                f"Training has used the lesion masks of {', '.join(used)}, of the protocol's {part} part; a model is "
                "not measured under them. Evaluate a model that was trained with the same protocol."
            )
    about = {"protocol": protocol.about(part)}
    return _run_evaluators(artifact, cohort, about, evaluators, {**masks, **options}, bar)


def _run_evaluators(
    artifact: Artifact,
    cohort: Cohort,
    about: Mapping[str, Any],
    evaluators: Sequence[str],
    options: Mapping[str, Any],
    bar: Bar,
) -> dict[str, Evaluation]:
    names = list(evaluators) or list(artifact.method.evaluators)
    if not names:
        raise DataError(f"Method {artifact.method.name!r} names no evaluator; choose one with --with NAME (zoo list).")
    chosen = {name: registry().evaluators[name] for name in names}
    kinds: dict[str, type[Config]] = {name: resolve(evaluator.options) for name, evaluator in chosen.items()}
    known = {option for kind in kinds.values() for option in kind.model_fields}
    results: dict[str, Evaluation] = {}
    for name, evaluator in chosen.items():
        # An option goes to the evaluators that have it; one that none has is refused.
        own = {key: value for key, value in options.items() if key in kinds[name].model_fields or key not in known}
        checked = validate(kinds[name], own, what=f"evaluator {name!r}")
        with bar(f"Evaluating: {name}") as progress:
            found = resolve(evaluator.evaluate)(artifact, cohort, checked, progress)
        results[name] = replace(found, about={**about, **found.about})
        _keep(artifact, name, results[name])
    return results


def _keep(artifact: Artifact, name: str, evaluation: Evaluation) -> None:
    """Write JSON and a page into the folder of the model."""
    from zoo.report.html import Section, write_report

    stamp = datetime.now().strftime(_STAMP_FORMAT)
    stem = artifact.folder / "evaluations" / f"{name}-{stamp}"
    paired = evaluation.paired_table()
    content = {"model_sha256": artifact.sha256, "evaluator": name, **evaluation.to_json()}
    write_text(stem.with_name(f"{stem.name}.json"), json.dumps(content, indent=2) + "\n")
    write_report(
        stem.with_name(f"{stem.name}.html"),
        f"{artifact.method.name}: {name}",
        [
            Section(heading="Scores", text=explain(evaluation), table=evaluation.table()),
            Section(heading="The model against each baseline", text=PAIRED if paired else "", table=paired),
            Section(heading="Reported in the paper", text=artifact.method.reported_on, table=_reported(artifact)),
            Section(heading="Pictures", figures=list(evaluation.pictures)),
        ],
    )


def latest_evaluations(artifact: Artifact) -> list[dict[str, Any]]:
    """Return the newest saved evaluation of this model by each evaluator, by name.

    Each has ``evaluator``, ``when`` (``"2026-01-31T10-20-30"``), ``file`` (its JSON) and ``scores``: the model's own as
    in the file, by ``"condition/metric"``.

    Raises:
        ArtifactError: A file of an evaluation is damaged.
    """
    newest: dict[str, dict[str, Any]] = {}
    for file in sorted((artifact.folder / "evaluations").glob("*.json"), key=lambda file: file.stem[-len(_STAMP) :]):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["model_sha256"] != artifact.sha256:
                continue
            keys = {key: Measure(*key.split("/")) for key in content["scores"]}
            newest[content["evaluator"]] = {
                "evaluator": content["evaluator"],
                "when": file.stem[-len(_STAMP) :],
                "file": str(file),
                "scores": {
                    f"{measure.condition}/{measure.metric}": content["scores"][key]
                    for key, measure in keys.items()
                    if measure.filler == MODEL
                },
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{file} is no saved evaluation ({error!r}); remove it.") from None
    return [newest[name] for name in sorted(newest)]


def _reported(artifact: Artifact) -> list[dict[str, Any]]:
    return [dict(row) for row in artifact.method.reported]
