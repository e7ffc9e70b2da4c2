"""The evaluator ``realism``: how far generated images are from real ones of subjects that training has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from zoo.config import Config, validate
from zoo.descriptors import Score, resolve
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import Cohort
from zoo.metrics.features import (
    INCEPTION,
    RADIOMIC,
    frechet_distance,
    kernel_distance,
    load_extractor,
    nearest_distances,
)
from zoo.metrics.statistics import FEWEST_SUBJECTS
from zoo.models.artifact import Artifact, default_device
from zoo.progress import Progress
from zoo.randomness import seed_for

HALVES = "real-halves"
"""Name of the baseline: one half of the real subjects against the other."""

Measures = Mapping[str, Callable[[Tensor, Tensor], float]]

MEASURES: Measures = {"frechet": frechet_distance, "kernel": kernel_distance}
"""Distances between two sets of features, by name."""


class RealismOptions(Config):
    """Options of the evaluator ``realism``."""

    features: str = Field(
        RADIOMIC, description="What is compared: radiomic, inception, or timm:NAME (a network of timm)"
    )
    weights: str | None = Field(None, description="File of that network's weights; none: random ones for timm's")
    samples: int = Field(256, ge=2, description="Generated images")
    seed: int = Field(0, ge=0, description="Decides the samples and the bootstrap")
    bootstraps: int = Field(200, ge=10, description="Redrawn sets for the intervals")
    backend: str = Field("torch", description="Runtime of the networks")


def realism(artifact: Artifact, cohort: Cohort, options: RealismOptions, progress: Progress) -> Evaluation:
    """Measure Fréchet and kernel distance between features of generated and of real images.

    Real images are the method's examples of unseen subjects. Intervals are of a bootstrap over subjects and over
    samples, centred on the value, since redrawn sets hold images twice and lie further apart than they should.

    Args:
        artifact: A model whose method can sample, and whose examples have ``image``.
        cohort: Unseen subjects.
        options: Features and numbers.
        progress: Called with (steps done, steps in all).

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: The extractor does not fit the images.
    """
    extractor = load_extractor(options.features, Path(options.weights) if options.weights else None)
    images, owners = _real_images(artifact, cohort)
    steps = 3 + options.bootstraps
    progress(1, steps)
    generated = _generate(artifact, options)
    progress(2, steps)
    real, made = extractor.in_batches(images), extractor.in_batches(generated)
    # A feature that hardly varies among few real images must not outweigh all the others.
    scale = real.std(0, correction=0).clamp(min=0.01) if options.features == RADIOMIC else 1.0
    real, made = real / scale, made / scale
    progress(3, steps)

    subjects = list(dict.fromkeys(owners))
    rows = {
        subject: torch.tensor([place for place, owner in enumerate(owners) if owner == subject]) for subject in subjects
    }
    measures = MEASURES if len(real) > 1 else {}
    drawn = _redrawn(real, made, rows, measures, options, lambda done: progress(3 + done, steps))
    note = ""
    if min(len(real), len(made)) <= real.shape[1]:
        note = (
            f"{len(real)} real and {len(made)} generated images for {real.shape[1]} features: covariances are not of "
            "full rank and the Fréchet distance is too high; compare only with the same numbers"
        )
    few = "a distance between sets needs two real images, and there is one"
    scores = {
        f"samples/{MODEL}/{name}": Score(value=None, unit="", better="lower", n=len(subjects), note=few)
        for name in MEASURES
    }
    halves = [torch.cat([rows[subject] for subject in subjects[start::2]]) for start in (0, 1) if subjects[start::2]]
    for name, measure in measures.items():
        value = measure(real, made)
        reach = np.quantile(drawn[name], [0.025, 0.975]) - np.mean(drawn[name]) if drawn else None
        scores[f"samples/{MODEL}/{name}"] = Score(
            value=value,
            unit="",
            better="lower",
            n=len(subjects),
            ci=(value + float(reach[0]), value + float(reach[1])) if reach is not None else None,
            note=note,
        )
        if len(halves) == 2 and min(len(half) for half in halves) >= 2:
            scores[f"samples/{HALVES}/{name}"] = Score(
                value=measure(real[halves[0]], real[halves[1]]), unit="", better="lower", n=len(subjects),
                note="half the images a set, which alone raises a Fréchet distance",
            )  # fmt: skip
    nearest = nearest_distances(real, made)
    return Evaluation(
        scores=scores,
        about={
            "features": extractor.name,
            "real images": len(real),
            "generated images": len(made),
            "seed": options.seed,
            "intervals": f"bootstrap over subjects and samples, {options.bootstraps} times",
            "frechet": "the Fréchet Inception distance"
            if options.features == INCEPTION
            else "not the Fréchet Inception distance of the literature",
        },
        by_subject=[
            {
                "subject": subject,
                "images": len(rows[subject]),
                "distance to the nearest sample": float(nearest[rows[subject]].mean()),
            }
            for subject in subjects
        ],
        columns=("set", "compared with unseen subjects"),
    )


def _real_images(artifact: Artifact, cohort: Cohort) -> tuple[Tensor, list[str]]:
    """Return the examples of all subjects, one channel a contrast, and whose they are."""
    config, examples_of = artifact.config, resolve(artifact.method.real)
    packed = pack_cohort(cohort, config.data)
    images: list[np.ndarray] = []
    owners: list[str] = []
    for subject in cohort.subjects:
        examples = examples_of(config, packed.subset([subject]))
        for index in range(len(examples)):
            example = examples.example(index, np.random.default_rng(index))
            if "image" not in example:
                raise DataError(f"Examples of {artifact.method.name!r} have no image to compare samples with.")
            images.append(example["image"])
            owners.append(subject)
    return artifact.contrasts_of(torch.from_numpy(np.stack(images)).float()), owners


def _generate(artifact: Artifact, options: RealismOptions) -> Tensor:
    task = artifact.method.task("sample")
    settings = validate(resolve(task.options), {}, what=f"sampling with {artifact.method.name}")
    run, parts = resolve(task.run), artifact.parts(options.backend, default_device(options.backend))
    seeds = [seed_for(options.seed, number) for number in range(options.samples)]
    size = settings.batch_size
    batches = [run(parts, artifact.config, seeds[at : at + size], settings) for at in range(0, len(seeds), size)]
    return torch.cat([samples.images for samples in batches])


def _redrawn(
    real: Tensor,
    made: Tensor,
    rows: dict[str, Tensor],
    measures: Measures,
    options: RealismOptions,
    report: Callable[[int], None],
) -> dict[str, Sequence[float]]:
    """Return each measure of redrawn subjects and samples; nothing for too few subjects."""
    blocks: list[Any] = list(rows.values())
    if len(blocks) < FEWEST_SUBJECTS:
        return {}
    random = np.random.default_rng(options.seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(options.bootstraps):
        some = torch.cat([blocks[choice] for choice in random.integers(len(blocks), size=len(blocks))])
        others = torch.from_numpy(random.integers(len(made), size=len(made)))
        for name, measure in measures.items():
            drawn[name].append(measure(real[some], made[others]))
        report(number + 1)
    return {name: values for name, values in drawn.items()}
