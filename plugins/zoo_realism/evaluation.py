"""Distances between generated images and real images of subjects that training has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.config import validate
from zoo.descriptors import Score, resolve
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation, Measure
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import Cohort
from zoo.metrics.distances import frechet_distance, kernel_distance, nearest_distances
from zoo.metrics.features import INCEPTION, TEXTURE, Extractor, feature_scale, load_extractor
from zoo.metrics.statistics import FEWEST_SUBJECTS
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo_realism.config import RealismOptions

HALVES = "real-halves"
"""Name of the baseline: one half of the real subjects against the other."""

Distances = Mapping[str, Callable[[Tensor, Tensor], float]]

DISTANCES: Distances = {"frechet": frechet_distance, "kernel": kernel_distance}
"""Distances between two sets of features ``[N, F]``, by name."""


def realism(artifact: Artifact, cohort: Cohort, options: RealismOptions, progress: Progress) -> Evaluation:
    """Measure the Fréchet and the kernel distance between features of generated and of real images.

    Args:
        artifact: A model whose method offers the task ``sample`` and names real examples with ``image``.
        cohort: Unseen subjects.
        options: Features and numbers.
        progress: Called with (steps done, total steps).

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: The extractor does not fit the images, the method names no real examples, or they have no ``image``.
    """
    extractor = load_extractor(options.features, Path(options.weights) if options.weights else None)
    steps = 3 + options.bootstraps
    images, owners = _real_images(artifact, cohort)
    progress(1, steps)
    samples = _samples(artifact, options)
    progress(2, steps)
    real, generated = extractor.in_batches(images), extractor.in_batches(samples)
    if options.features == TEXTURE:
        scale = feature_scale(real)
        real, generated = real / scale, generated / scale
    progress(3, steps)

    rows = _rows_by_subject(owners)
    resampled = _resampled(real, generated, rows, options, lambda done: progress(3 + done, steps))
    nearest = nearest_distances(real, generated)
    return Evaluation(
        scores=_scores(real, generated, rows, resampled),
        about=_about(extractor, len(real), len(generated), options),
        by_subject=[
            {
                "subject": subject,
                "images": len(own),
                "distance to the nearest sample": float(nearest[own].mean()),
            }
            for subject, own in rows.items()
        ],
        columns=("set", "compared with unseen subjects"),
    )


def _real_images(artifact: Artifact, cohort: Cohort) -> tuple[Tensor, list[str]]:
    """Return the real images of all subjects, ``[N, contrasts, *spatial]``, and the subject of each."""
    if not artifact.method.real:
        raise DataError(f"Method {artifact.method.name!r} names no real examples; its Method needs real=.")
    config, examples_of = artifact.config, resolve(artifact.method.real)
    packed = pack_cohort(cohort, config.data, targets=False)
    images: list[np.ndarray] = []
    owners: list[str] = []
    for subject in cohort.subjects:
        examples = examples_of(config, packed.subset([subject]))
        for index in range(len(examples)):
            example = examples.example(index, np.random.default_rng(index))
            if "image" not in example:
                raise DataError(
                    f"Examples of {artifact.method.name!r} have no 'image' to compare samples with; "
                    "return it under that key."
                )
            images.append(example["image"])
            owners.append(subject)
    return artifact.contrasts_of(torch.from_numpy(np.stack(images)).float()), owners


def _samples(artifact: Artifact, options: RealismOptions) -> Tensor:
    """Return ``options.samples`` generated images, ``[N, contrasts, *spatial]``."""
    task = artifact.method.task("sample")
    settings = validate(resolve(task.options), {}, what=f"sampling with {artifact.method.name}")
    run, parts = resolve(task.run), artifact.parts(Runtime.choose(options.backend))
    seeds = [seed_for(options.seed, number) for number in range(options.samples)]
    size = settings.batch_size
    batches = [run(parts, artifact.config, seeds[at : at + size], settings) for at in range(0, len(seeds), size)]
    return torch.cat([samples.images for samples in batches])


def _rows_by_subject(owners: Sequence[str]) -> dict[str, Tensor]:
    """Return the indices of each subject's images."""
    return {
        subject: torch.tensor([row for row, owner in enumerate(owners) if owner == subject])
        for subject in dict.fromkeys(owners)
    }


def _resampled(
    real: Tensor,
    generated: Tensor,
    rows: Mapping[str, Tensor],
    options: RealismOptions,
    report: Callable[[int], None],
    distances: Distances = DISTANCES,
) -> dict[str, list[float]]:
    """Return each distance of bootstrap resamples of subjects and samples; empty for too few subjects."""
    if len(rows) < FEWEST_SUBJECTS:
        return {}
    subjects = list(rows.values())
    random = np.random.default_rng(options.seed)
    found: dict[str, list[float]] = {name: [] for name in distances}
    for number in range(options.bootstraps):
        drawn = torch.cat([subjects[choice] for choice in random.integers(len(subjects), size=len(subjects))])
        others = torch.from_numpy(random.integers(len(generated), size=len(generated)))
        for name, distance in distances.items():
            found[name].append(distance(real[drawn], generated[others]))
        report(number + 1)
    return found


def _scores(
    real: Tensor, generated: Tensor, rows: Mapping[str, Tensor], resampled: Mapping[str, Sequence[float]]
) -> dict[Measure, Score]:
    """Return the distances of the model, and of one half of the real subjects from the other."""
    few = "a distance between sets needs two real images, and there is one"
    if len(real) < 2:
        return {
            Measure("samples", MODEL, name): Score(value=None, unit="", better="lower", n=1, note=few)
            for name in DISTANCES
        }
    scores: dict[Measure, Score] = {}
    for name, distance in DISTANCES.items():
        value = distance(real, generated)
        scores[Measure("samples", MODEL, name)] = Score(
            value=value,
            unit="",
            better="lower",
            n=len(rows),
            ci=_interval(value, resampled[name]) if resampled else None,
            note=_rank_note(real, generated),
        )
    if halves := _halves(rows):
        for name, distance in DISTANCES.items():
            scores[Measure("samples", HALVES, name)] = Score(
                value=distance(real[halves[0]], real[halves[1]]),
                unit="",
                better="lower",
                n=len(rows),
                note="sets of half the size, which alone raises a Fréchet distance",
            )
    return scores


def _halves(rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the images of every second subject and those of the others; ``None`` for fewer than two in a half."""
    subjects = list(rows.values())
    if len(subjects) < 2:
        return None
    first, second = torch.cat(subjects[::2]), torch.cat(subjects[1::2])
    return (first, second) if min(len(first), len(second)) >= 2 else None


def _interval(value: float, resampled: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the resampled distances, moved to lie around ``value``.

    Resamples hold some images several times and so lie further apart than the sets themselves.
    """
    low, high = np.quantile(resampled, [0.025, 0.975]) - np.mean(resampled)
    return value + float(low), value + float(high)


def _rank_note(real: Tensor, generated: Tensor) -> str:
    if min(len(real), len(generated)) > real.shape[1]:
        return ""
    return (
        f"{len(real)} real and {len(generated)} generated images for {real.shape[1]} features: covariances do not have "
        "full rank and the Fréchet distance is too high; compare only with the same numbers"
    )


def _about(extractor: Extractor, real: int, generated: int, options: RealismOptions) -> dict[str, str | int]:
    return {
        "features": extractor.name,
        "real images": real,
        "generated images": generated,
        "seed": options.seed,
        "intervals": f"bootstrap over subjects and samples, {options.bootstraps} times",
        "frechet": "the Fréchet Inception distance"
        if options.features == INCEPTION
        else "not the Fréchet Inception distance of the literature",
    }
