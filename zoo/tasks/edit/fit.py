"""Fitting directions: from projections to a file of directions and a page with their figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.metrics.features import TEXTURE, Extractor, load_extractor
from zoo.metrics.statistics import with_interval
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.report.html import Section, write_report
from zoo.system.files import write_text
from zoo.tasks.edit.directions import (
    DIRECTIONS_FILE,
    Direction,
    Directions,
    FitOptions,
    Generated,
    conditional,
    fit_direction,
    read_attribute,
)
from zoo.tasks.edit.protocol import latent_task
from zoo.tasks.projections import Projections, check_same_model


@dataclass(frozen=True)
class DirectionSettings:
    """Which directions are fitted, and how.

    Attributes:
        columns: Attributes; each gets a direction of the same name.
        against: For some of them others to be orthogonal to; the direction is called ``"group-without-age"``.
        levels: Two values to compare, for columns with more.
        options: Folds and regularisation.
        samples: Generated images that a regressor labels and that directions are fitted on; 0 for the projections'
            own codes.
    """

    columns: Sequence[str]
    against: Sequence[tuple[str, Sequence[str]]]
    levels: Mapping[str, Sequence[str]]
    options: FitOptions
    samples: int = 0

    @property
    def attributes(self) -> list[str]:
        """Names of all attributes that a direction is needed of."""
        others = [name for name, against in self.against for name in (name, *against)]
        return list(dict.fromkeys([*self.columns, *others]))


def direction_files(
    artifact: Artifact,
    projections: Projections,
    folder: Path,
    settings: DirectionSettings,
    *,
    extractor: Extractor | None = None,
    unseen: Projections | None = None,
    progress: Progress | None = None,
) -> Directions:
    """Fit directions of projected images and write them with a page of their figures.

    Args:
        artifact: The model that the images were projected with.
        projections: Codes and what is known about their images.
        folder: Gets ``directions.safetensors``, ``directions.json`` and ``directions.html``.
        settings: Which directions are fitted, and how.
        extractor: Features of the regressor that labels samples; the fixed set where none is given.
        unseen: Projections of further subjects, whose attributes the fit predicts.
        progress: Called with (directions done, directions in all).

    Raises:
        DataError: The projections are another model's; a column gives no direction; too few subjects;
            ``unseen`` holds a subject that was fitted on.
        ArtifactError: The disk is full or the folder cannot be written.
    """
    check_same_model(artifact, projections.method, projections.model_sha256, "projections")
    subjects, samples, options = projections.subjects, settings.samples, settings.options
    attributes = [read_attribute(projections.rows, name, settings.levels.get(name, ())) for name in settings.attributes]
    further = {}
    if unseen is not None:
        check_same_model(artifact, unseen.method, unseen.model_sha256, "projections of --test")
        again = sorted(set(subjects) & set(unseen.subjects))
        if again:
            raise DataError(
                f"Subject {again[0]!r} is in both projections; --test needs subjects that were not fitted on."
            )
        for attribute in attributes:
            known = read_attribute(unseen.rows, attribute.name, attribute.levels)
            if known.kind != attribute.kind:
                raise DataError(f"The subjects of --test have too few values of {attribute.name!r} to predict.")
            further[attribute.name] = (unseen.codes, known, unseen.subjects)
    steps = samples + len(attributes)
    generated = None
    if samples:
        generated = _generate(
            artifact, projections, samples, extractor or load_extractor(TEXTURE), options.seed,
            lambda done: progress(done, steps) if progress else None,
        )  # fmt: skip
    fitted: dict[str, Direction] = {}
    for number, attribute in enumerate(attributes, start=1):
        fitted[attribute.name] = fit_direction(
            projections.codes, attribute, subjects, options, generated, further.get(attribute.name)
        )
        if progress:
            progress(samples + number, steps)
    items = dict(fitted)
    for name, others in settings.against:
        items[f"{name}-without-{'-'.join(others)}"] = conditional(name, others, fitted, projections.codes)
    directions = Directions(items, projections.method, projections.model_sha256)
    directions.write(folder / DIRECTIONS_FILE)
    about = {"model_sha256": artifact.sha256, "directions": {name: dict(item.about) for name, item in items.items()}}
    write_text(folder / "directions.json", json.dumps(about, indent=2) + "\n")
    write_report(
        folder / "directions.html",
        f"{artifact.method.name}: directions",
        [
            Section(
                heading="Prediction of subjects that were not fitted on",
                text="Cross-validation grouped by subject; intervals by bootstrap over subjects, with the fitted "
                "models as they are. A direction made orthogonal to others predicts less than this; its own "
                "prediction is not measured.",
                table=score_rows(directions),
            ),
            Section(
                heading="Directions",
                text="Stability: absolute cosine between the directions of two folds, mean and middle 95 % of the "
                "pairs; folds share most of their subjects, so it is high by construction. Spread: standard "
                "deviation of the codes along the direction, the natural unit of alpha.",
                table=direction_rows(directions),
            ),
        ],
    )
    return directions


def _generate(
    artifact: Artifact,
    projections: Projections,
    samples: int,
    extractor: Extractor,
    seed: int,
    report: Callable[[int], None],
) -> Generated:
    """Return generated images' codes and features, and the features of the projected images."""
    task = latent_task(artifact.method)
    run, codes_of = resolve(task.run), resolve(task.codes)
    parts, options = artifact.parts(), resolve(task.options)()
    codes, features = [], []
    for first in range(0, samples, options.batch_size):
        seeds = [seed_for(seed, number) for number in range(first, min(first + options.batch_size, samples))]
        some, noise = codes_of(parts, artifact.config, seeds)
        codes.append(some)
        features.append(extractor.features(run(parts, artifact.config, some, noise, options).images))
        report(first + len(seeds))
    real = extractor.in_batches(artifact.contrasts_of(projections.image))
    return Generated(torch.cat(codes), torch.cat(features).numpy(), real.numpy())


def score_rows(directions: Directions) -> list[dict[str, Any]]:
    """Return one row per direction and measure, over images and over subjects."""
    return [
        {
            "direction": name,
            "measure": f"{score['measure']} over {score['over']}",
            "value": with_interval(score["value"], score["low"], score["high"]),
            "chance": f"{score['chance']:g}",
            "n": score["n"],
        }
        for name, item in directions.items.items()
        for score in item.about.get("scores", ())
    ]


def direction_rows(directions: Directions) -> list[dict[str, Any]]:
    """Return one row per direction: what it was fitted on, how stable it is, and what was removed from it."""
    rows = []
    for name, item in directions.items.items():
        about = item.about
        stability = about.get("stability")
        taken = ", ".join(f"{other} (cosine {cosine:.3f})" for other, cosine in about.get("cosines", {}).items())
        rows.append(
            {
                "direction": name,
                "attribute": " to ".join(about["levels"]) or about["attribute"],
                "subjects": about["subjects"],
                "images": about["images"],
                "stability": with_interval(stability["mean"], stability["low"], stability["high"]) if stability else "",
                "spread": f"{about['spread']:.3g}",
                "taken out": taken,
            }
        )
    return rows
