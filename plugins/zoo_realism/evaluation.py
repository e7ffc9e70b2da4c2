"""The evaluator ``realism``: how far generated images are from real ones of subjects that training has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_READING = f"""\
Each row of the model compares as many generated as real images of subjects that training has not seen (column \
images; n counts subjects).
{FLOOR!r} compares real images of one half of the subjects with those of the other half: about what a perfect \
generator would get. It is normally better than the model; the model's error is its distance from the floor, not from \
0. Distances of other numbers of images cannot be compared, so {MODEL_AT_FLOOR!r} repeats the model's scores with the \
floor's number.
1-nn near 0.5: the sets cannot be told apart; near 1: they can; well below 0.5: images lie closer to the other set \
than to their own, as copies do. Images of one subject are no neighbours of each other, which lowers the values: see \
the floor.
ms-ssim: the lower, the more varied; the floor's row has pairs of real images. class fidelity: the floor's row has \
the accuracy on held-out real images.
Intervals of 95 %, none below {FEWEST_SUBJECTS} subjects; no subject is drawn twice. frechet, kernel: a jackknife over \
subjects and over generated images. Others: over subjects where real images are counted, over images where generated \
ones are, with the other set fixed."""


@dataclass(frozen=True)
class _Class:
    """All images of a class that are used, and what the extractor sees of them."""

    name: str
    real: ImageSet
    generated: ImageSet
    seen_real: Images
    seen_generated: Images


class _Steps:
    """Counts the steps of all stages for one progress bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def within(self, done: int, _total: int) -> None:
        """Report steps of the stage that is under way."""
        self.progress(min(self.done + done, self.total), self.total)

    def advance(self, count: int) -> None:
        """Report that a stage of ``count`` steps is over."""
        self.done += count
        self.within(0, 0)


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
    pools = [_pool(real, name, number, options) for number, name in enumerate(names)]
    comparisons = 3 * options.draws * len(names)
    steps = _Steps(progress, sum(map(len, pools)) + len(generated) + comparisons * _WEIGHT)
    scores: dict[Measure, Score] = {}
    rows: list[dict[str, Any]] = []
    firsts: dict[str, tuple[Images, Images]] = {}
    for number, (name, pool) in enumerate(zip(names, pools, strict=True)):
        if len(pool) < 2:
            scores[Measure(name, MODEL, "frechet")] = _too_few(name, pool)
        if not len(pool):
            continue
        one = _see(name, pool, generated, views, steps)
        rows += _by_subject(one, views)
        if len(pool) < 2:
            continue
        plan = _plan(one.real.subjects, options, number)
        firsts[one.name] = one.seen_real.take(plan.real[0]), one.seen_generated.take(range(plan.size))
        scores |= _class_scores(one, plan, views, options, steps)
    about = _about(views, runtime, real, options)
    if len(firsts) == len(names) > 1:
        found, about["class fidelity"] = _fidelity(firsts, options)
        scores |= found
    progress(steps.total, steps.total)
    return Evaluation(
        scores=scores,
        about=about,
        by_subject=rows,
        columns=("class", "set"),
        reading=_READING,
    )


def _see(name: str, real: ImageSet, generated: ImageSet, views: Views, steps: _Steps) -> _Class:
    """Return the images of a class with their features."""
    own = generated.subset(generated.rows(name))
    seen_real = Images(views.features(real, steps.within), real.subjects)
    steps.advance(len(real))
    names = tuple(f"generated {row}" for row in range(len(own)))
    seen_generated = Images(views.features(own, steps.within), names, generated=True)
    steps.advance(len(own))
    return _Class(name, real, own, seen_real, seen_generated)


def _too_few(name: str, real: ImageSet) -> Score:
    why = f"a set needs two images, and the unseen subjects have {len(real)} of the class {name!r}"
    return Score(value=None, unit="", better="lower", n=len(set(real.subjects)), images=len(real), note=why)


def _pool(real: ImageSet, name: str, number: int, options: RealismOptions) -> ImageSet:
    """Return the real images of a class from which all draws are taken: all, or enough for two halves of each draw."""
    rows, most = real.rows(name), 3 * options.samples * options.draws  # halves of the subjects are not quite equal
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
    one: _Class, plan: _Plan, views: Views, options: RealismOptions, steps: _Steps
) -> dict[Measure, Score]:
    """Return all scores of a class but its fidelity."""
    real = _standardised(one.seen_real, one.seen_real, views)
    generated = _standardised(one.seen_generated, one.seen_real, views)

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
        for metric, score in compare(draws, lambda: steps.advance(_WEIGHT)).items()
    }
    scores[Measure(one.name, MODEL, "ms-ssim")] = _diversity(one.generated, range(plan.size), one.real)
    if plan.halves:
        scores[Measure(one.name, FLOOR, "ms-ssim")] = _diversity(one.real, plan.real[0], one.real)
    return scores


def _fidelity(firsts: Mapping[str, tuple[Images, Images]], options: RealismOptions) -> tuple[dict[Measure, Score], str]:
    """Return the class fidelity of the first draw, and how it was measured."""
    real, generated = ({name: pair[side] for name, pair in firsts.items()} for side in (0, 1))
    made, held_out, how = class_fidelity(real, generated, options.seed)
    found = ((MODEL, made), (FLOOR, held_out))
    scores = {
        Measure(name, filler, "class fidelity"): score for filler, scores in found for name, score in scores.items()
    }
    return scores, how


def _standardised(images: Images, real: Images, views: Views) -> Images:
    scaled = {key: views.standardised(some, real.features[key]) for key, some in images.features.items()}
    return Images(scaled, images.owners, images.generated)


def _diversity(images: ImageSet, rows: Sequence[int] | np.ndarray, real: ImageSet) -> Score:
    """Return the mean MS-SSIM of random pairs of images, each in one pair; pairs of real ones are of two subjects.

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
    return mean_score(values.double().numpy(), owners, "lower", subjects, 2 * len(chosen))


def _by_subject(one: _Class, views: Views) -> list[dict[str, Any]]:
    """Return one row per subject: its images, and how far they are from the nearest generated image."""
    real, generated = (
        _standardised(images, one.seen_real, views).features[WHOLE] for images in (one.seen_real, one.seen_generated)
    )
    nearest, owners = nearest_distances(real, generated).numpy(), np.asarray(one.real.subjects)
    return [
        {
            "subject": str(subject),
            "class": one.name,
            "images": int((owners == subject).sum()),
            "distance to the nearest generated image": float(nearest[owners == subject].mean()),
        }
        for subject in np.unique(owners)
    ]


def _about(views: Views, runtime: Runtime, real: ImageSet, options: RealismOptions) -> dict[str, Any]:
    extractor = views.extractor
    paper = options.features == INCEPTION
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
        "frechet": f"{'' if paper else 'not '}the Fréchet Inception distance of the literature",
    }
