"""The evaluator ``realism``: how far generated images are from real ones of subjects that training has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation, Measure
from zoo.imaging.cohort import Cohort
from zoo.metrics.distances import nearest_distances
from zoo.metrics.diversity import pair_ms_ssim
from zoo.metrics.features import INCEPTION
from zoo.metrics.statistics import FEWEST_SUBJECTS
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo_realism.comparison import NEIGHBOURS, Draws, Images, compare, mean_score
from zoo_realism.config import RealismOptions
from zoo_realism.fidelity import class_fidelity
from zoo_realism.images import ImageSet, generated_images, kept, real_images
from zoo_realism.views import WHOLE, Views

FLOOR = "real (floor)"
"""Name of the comparison of real images of one half of the subjects with real ones of the other half."""

MODEL_AT_FLOOR = "model, as many as floor"
"""Name of the model's comparison with as many images as `FLOOR` has, where the model's own has more."""

_PAIRS = 100
"""Pairs of images for MS-SSIM."""
_WEIGHT = 20
"""Steps of progress that a comparison counts, in images."""

_READING = (
    "Each row of the model compares as many generated as real images of subjects that training has not seen (column "
    f"images; n: subjects). {FLOOR!r} compares real images of one half of the subjects with those of the other half: "
    "about what a perfect generator would get. The floor is normally the better one, and the model's distance from it, "
    "not from 0, is the model's error; distances of other numbers of images cannot be compared, so "
    f"{MODEL_AT_FLOOR!r} repeats the model's scores with the floor's number. 1-nn near 0.5: the sets cannot be told "
    "apart; near 1: they can; well below 0.5: images lie closer to the other set than to their own, as copies do. "
    "ms-ssim: lower is more varied, and real pairs stand in the floor's row, as does the accuracy on held-out real "
    f"images under class fidelity. Intervals of 95 %, none below {FEWEST_SUBJECTS} subjects or generated images: "
    "frechet and kernel by a jackknife over parts of the subjects and of the generated images, others over subjects "
    "for real and over images for generated ones, the other set being fixed."
)


@dataclass(frozen=True)
class _Class:
    """All images of a class that are used."""

    name: str
    real: ImageSet
    generated: ImageSet
    real_images: Images
    generated_images: Images


def realism(artifact: Artifact, cohort: Cohort, options: RealismOptions, progress: Progress) -> Evaluation:
    """Compare generated with real images, class by class.

    Args:
        artifact: A model whose method samples and names real examples with ``image`` and, for classes, ``label``.
        cohort: Unseen subjects.
        options: Features and numbers.
        progress: Called with (steps done, steps in all).

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: The extractor does not fit the images or lacks its weights, the method names no real examples, or
            they are not as described above.
    """
    real = real_images(artifact, cohort)
    views = Views.choose(options, real.channels)
    runtime = Runtime.choose(options.backend, options.precision)
    generated = generated_images(artifact, options.samples * options.draws, options.seed, runtime)
    names = tuple(dict.fromkeys(generated.classes))
    chosen = {name: _pool(real, name, number, options) for number, name in enumerate(names)}
    steps = sum(map(len, chosen.values())) + len(generated) + 3 * options.draws * _WEIGHT * len(names)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, steps), steps)

    classes = []
    for name in names:
        sets = chosen[name], generated.subset(generated.rows(name))
        features = []
        for one in sets:
            features.append(views.features(one, lambda some, _: progress(min(done + some, steps), steps)))
            advance(len(one))
        own_names = tuple(f"generated {number}" for number in range(len(sets[1])))
        classes.append(
            _Class(name, *sets, Images(features[0], chosen[name].subjects), Images(features[1], own_names))
        )

    scores: dict[Measure, Score] = {}
    rows: list[dict[str, Any]] = []
    firsts: dict[str, tuple[Images, Images]] = {}
    for number, one in enumerate(classes):
        if len(one.real_images) < 2:
            why = f"a set needs two images, and the unseen subjects have {len(one.real_images)} of class {one.name!r}"
            scores[Measure(one.name, MODEL, "frechet")] = Score(
                value=None, unit="", better="lower", n=len(set(one.real.subjects)), note=why
            )
            continue
        plan = _plan(one.real_images.owners, options, number)
        firsts[one.name] = one.real_images.take(plan.real[0]), one.generated_images.take(range(plan.size))
        scores |= _class_scores(one, plan, views, options, lambda: advance(_WEIGHT))
        rows += _by_subject(one.name, *firsts[one.name], views)
    if len(names) > 1 and len(firsts) == len(names):
        made, held_out = class_fidelity(
            {name: pair[0] for name, pair in firsts.items()}, {name: pair[1] for name, pair in firsts.items()},
            options.seed,
        )  # fmt: skip
        for name in names:
            scores[Measure(name, MODEL, "class fidelity")] = made[name]
            scores[Measure(name, FLOOR, "class fidelity")] = held_out[name]
    progress(steps, steps)
    return Evaluation(
        scores=scores,
        about=_about(views, runtime, real, options),
        by_subject=rows,
        columns=("class", "set"),
        reading=_READING,
    )


def _pool(real: ImageSet, name: str, number: int, options: RealismOptions) -> ImageSet:
    """Return the real images of a class from which all draws are taken: all, or as many as can be of use."""
    rows, most = real.rows(name), 2 * options.samples * options.draws
    if len(rows) > most:
        random = np.random.default_rng(seed_for(options.seed, number))
        rows = sorted(random.choice(rows, most, replace=False).tolist())
    return real.subset(rows)


@dataclass(frozen=True)
class _Plan:
    """Which images each draw compares.

    Attributes:
        size: Images in each set of the model's comparison.
        real: Rows of real images per draw, ``size`` each.
        halves: Per draw, rows of real images of one half of the subjects and as many of the other half; empty where
            there are too few.
    """

    size: int
    real: Sequence[np.ndarray]
    halves: Sequence[tuple[np.ndarray, np.ndarray]]


def _plan(owners: Sequence[str], options: RealismOptions, number: int) -> _Plan:
    """Draw real images of a class at random.

    Args:
        owners: The subject of each real image.
        options: Numbers and seed.
        number: Of the class.
    """
    size = min(options.samples, len(owners))
    real, halves = [], []
    for draw in range(options.draws):
        random = np.random.default_rng(seed_for(options.seed, number, draw))
        real.append(random.choice(len(owners), size, replace=False))
        halves.append(_halves(np.asarray(owners), random))
    smallest = min(size, *(len(half) for pair in halves for half in pair))
    kept_halves = [(one[:smallest], other[:smallest]) for one, other in halves] if smallest >= 2 else []
    return _Plan(size, real, kept_halves)


def _halves(owners: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the shuffled rows of two halves of the subjects, with about as many images in each."""
    halves: tuple[list[int], list[int]] = ([], [])
    for subject in random.permutation(np.unique(owners)):
        min(halves, key=len).extend(np.flatnonzero(owners == subject).tolist())
    return random.permutation(halves[0]).astype(int), random.permutation(halves[1]).astype(int)


def _class_scores(
    one: _Class, plan: _Plan, views: Views, options: RealismOptions, report: Callable[[], None]
) -> dict[Measure, Score]:
    """Return all scores of a class but its fidelity."""
    real = _standardised(one.real_images, one.real_images, views)
    generated = _standardised(one.generated_images, one.real_images, views)

    def model(size: int) -> Draws:
        starts = [draw * options.samples for draw in range(options.draws)]
        return [
            (real.take(rows[:size]), generated.take(range(start, start + size)))
            for rows, start in zip(plan.real, starts, strict=True)
        ]

    compared: dict[str, Draws] = {MODEL: model(plan.size)}
    if plan.halves:
        compared[FLOOR] = [(real.take(first), real.take(second)) for first, second in plan.halves]
        size = len(plan.halves[0][0])
        if size < plan.size:
            compared[MODEL_AT_FLOOR] = model(size)
    scores = {
        Measure(one.name, filler, metric): score
        for filler, draws in compared.items()
        for metric, score in compare(draws, report).items()
    }
    scores[Measure(one.name, MODEL, "ms-ssim")] = _diversity(one.generated, range(plan.size), one.real)
    if plan.halves:
        scores[Measure(one.name, FLOOR, "ms-ssim")] = _diversity(one.real, plan.real[0], one.real)
    return scores


def _standardised(images: Images, real: Images, views: Views) -> Images:
    scaled = {key: views.standardised(some, real.features[key]) for key, some in images.features.items()}
    return Images(scaled, images.owners)


def _diversity(images: ImageSet, rows: Sequence[int] | np.ndarray, real: ImageSet) -> Score:
    """Return the mean MS-SSIM of random pairs of images; those of real images are of two subjects each.

    Args:
        images: The set.
        rows: Images to pair, in random order; generated ones are in random order by themselves.
        real: Real images of the class, for the number of subjects.
    """
    ordered = sorted(map(int, rows), key=lambda row: images.subjects[row])
    half = len(ordered) // 2
    pairs = [
        (one, other)
        for one, other in zip(ordered[:half], ordered[half:], strict=False)
        if not images.subjects[one] or images.subjects[one] != images.subjects[other]
    ]
    step = max(len(pairs) // _PAIRS, 1)
    chosen = pairs[::step][:_PAIRS]
    subjects = len(set(real.subjects))
    if not chosen:
        why = "all real images are of one subject, so there are no pairs of two"
        return Score(value=None, unit="", better="lower", n=subjects, images=len(rows), note=why)

    def compute() -> torch.Tensor:
        used = [row for pair in chosen for row in pair]
        return pair_ms_ssim(images.take(used), torch.arange(len(used)).reshape(-1, 2))

    try:
        values = kept(["ms-ssim", images.digest, chosen], compute)
    except DataError as error:
        return Score(value=None, unit="", better="lower", n=subjects, images=len(rows), note=str(error))
    owners = [images.subjects[first] or f"pair {number}" for number, (first, _) in enumerate(chosen)]
    return mean_score(values.double().numpy(), owners, "lower", subjects, len(rows), f"mean of {len(chosen)} pairs")


def _by_subject(name: str, real: Images, generated: Images, views: Views) -> list[dict[str, Any]]:
    """Return one row per subject: its images, and how far they are from the nearest generated image."""
    scaled = [_standardised(images, real, views).features[WHOLE] for images in (real, generated)]
    nearest = nearest_distances(*scaled).numpy()
    owners = np.asarray(real.owners)
    return [
        {
            "subject": str(subject),
            "class": name,
            "images": int((owners == subject).sum()),
            "distance to the nearest generated image": float(nearest[owners == subject].mean()),
        }
        for subject in np.unique(owners)
    ]


def _about(views: Views, runtime: Runtime, real: ImageSet, options: RealismOptions) -> dict[str, Any]:
    extractor = views.extractor
    paper = (options.features == INCEPTION) and "the Fréchet Inception distance"
    return {
        "features": extractor.name,
        "extractor": extractor.digest[:12],
        "channels": ", ".join(views.seen),
        "real images": len(real),
        "subjects": len(set(real.subjects)),
        "samples": options.samples,
        "draws": options.draws,
        "neighbours": NEIGHBOURS,
        "seed": options.seed,
        "runtime": f"{runtime.backend}, {runtime.precision}, {runtime.device}",
        "frechet": paper or "not the Fréchet Inception distance of the literature",
    }
