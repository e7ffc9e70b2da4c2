"""The evaluator ``memorisation``: whether generated images are copies of training images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min

from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation, Measure
from zoo.evaluation.unseen import training_subjects
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.metrics.statistics import FEWEST_SUBJECTS, jackknife_interval, parts_left_out
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo_realism.comparison import mean_score
from zoo_realism.config import MemorisationOptions
from zoo_realism.images import ImageSet, generated_images, real_images
from zoo_realism.views import Views

HELD_OUT = "real (held out)"
"""Name of the real images of unseen subjects, measured as if they were generated."""

QUANTILE = 0.01
"""Share of held-out real images that lie so close to a training image that they would count as near copies."""

_SUBSETS = 10
"""Random subsets over which a ratio of distances is averaged."""
_PAIRS = 8
"""Pairs in the gallery."""

_READING = f"""\
near copies: share of images that lie closer to their nearest training image than {QUANTILE:.0%} of the real images \
of unseen subjects do. Those are no copies, so likeness alone explains a share of about {QUANTILE:.0%}. {HELD_OUT!r} \
is the same share of unseen real images, each with the threshold of the other half of the subjects, so its interval \
tells how far the threshold can be trusted: a share of the model whose interval lies above it means copies.
distance ratio: mean distance to the nearest training image by that to the nearest image of unseen subjects, of as \
many subjects and images each, averaged over {_SUBSETS} random choices. 1: the generator is as far from both; below \
1: closer to what it was trained on.
Copies that were turned, shifted or changed are found only as far as the features disregard the change.
Intervals of 95 %, none below {FEWEST_SUBJECTS} images or subjects: over generated images, with the real ones fixed, \
and over subjects for real images."""


@dataclass(frozen=True)
class _Set:
    """Images, their features ``[N, F]``, and the nearest training image of each: its row and the distance."""

    images: ImageSet
    features: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray


def memorisation(artifact: Artifact, cohort: Cohort, options: MemorisationOptions, progress: Progress) -> Evaluation:
    """Compare the distances of generated and of unseen real images to the training images.

    Args:
        artifact: A trained model whose method samples and names real examples.
        cohort: Unseen subjects.
        options: Features, numbers and where the training images are.
        progress: Called with (images done, images in all).

    Raises:
        UnknownNameError: The method cannot sample.
        DataError: The training images are not found, or the extractor does not fit the images or lacks its weights.
    """
    trained, share = _training_cohort(artifact, cohort, options)
    training, held_out = real_images(artifact, trained), real_images(artifact, cohort)
    views = Views.choose(options, training.channels)
    runtime = Runtime.choose(options.backend, options.precision)
    generated = generated_images(artifact, options.samples, options.seed, runtime)
    sets, total, before = [], len(training) + len(held_out) + len(generated), 0
    for images in (training, held_out, generated):
        sets.append(views.whole(images, lambda done, _, before=before: progress(before + done, total)))  # type: ignore[misc]
        before += len(images)
        progress(before, total)
    reference, *others = (views.standardised(features, sets[0]).numpy() for features in sets)
    real, made = (
        _Set(images, features, *pairwise_distances_argmin_min(features, reference))
        for images, features in zip((held_out, generated), others, strict=True)
    )

    scores: dict[Measure, Score] = {}
    thresholds: dict[str, float] = {}
    random = np.random.default_rng(seed_for(options.seed, len(training)))
    for name in dict.fromkeys(generated.classes):
        own, unseen = made.images.rows(name), real.images.rows(name)
        if not unseen:
            why = f"the unseen subjects have no image of the class {name!r}, which would set the threshold"
            scores[Measure(name, MODEL, "near copies")] = Score(
                value=None, unit="", better="lower", n=0, images=len(own), note=why
            )
            continue
        thresholds[name] = _threshold(real.distances[unseen])
        scores |= _copies(name, made.distances[own] < thresholds[name], real, unseen, random)
        scores[Measure(name, MODEL, "distance ratio")] = _ratio(
            made.features[own], (reference, training.subjects), (real.features, held_out.subjects), random
        )
    return Evaluation(
        scores=scores,
        about=_about(views, runtime, options, training, held_out, share),
        by_subject=_by_subject(real),
        pictures=[_gallery(made, training, thresholds)] if thresholds else [],
        columns=("class", "images of"),
        reading=_READING,
    )


def _training_cohort(artifact: Artifact, cohort: Cohort, options: MemorisationOptions) -> tuple[Cohort, float]:
    """Return the training subjects, and the share of the training's images that they have."""
    if not artifact.manifest.get("trained_on"):
        raise DataError(f"This model of {artifact.method.name!r} was trained on no images, so it can copy none.")
    place = Path(options.training_data) if options.training_data else cohort.root
    found, share = training_subjects(artifact, read_cohort(place).with_all(artifact.config.data.images))
    if not found.scans:
        raise DataError(
            f"None of the subjects in {place} was used in training, and copies are looked for among the training "
            "images. Name the cohort that the model was trained on: --set training_data=FOLDER (its images are "
            "recognised by their voxels)."
        )
    return found, share


def _threshold(distances: np.ndarray) -> float:
    """Return the distance below which at most a share of `QUANTILE` of real images lies."""
    return float(np.quantile(distances, QUANTILE, method="lower"))


def _copies(
    name: str, copied: np.ndarray, real: _Set, unseen: Sequence[int], random: np.random.Generator
) -> dict[Measure, Score]:
    """Return the shares of near copies among generated and among unseen real images of a class."""
    owners, distances = np.asarray(real.images.subjects)[unseen], real.distances[unseen]
    subjects = random.permutation(np.unique(owners))
    note = ""
    if len(unseen) < 1 / QUANTILE:
        note = f"the threshold is the smallest distance of only {len(unseen)} real images"
    generated = [f"generated {number}" for number in range(len(copied))]
    scores = {
        Measure(name, MODEL, "near copies"): mean_score(copied, generated, "lower", len(subjects), len(copied), note)
    }
    if len(subjects) > 1:
        first = np.isin(owners, subjects[::2])
        near = np.where(first, distances < _threshold(distances[~first]), distances < _threshold(distances[first]))
        scores[Measure(name, HELD_OUT, "near copies")] = mean_score(
            near, owners.tolist(), "lower", len(subjects), len(near)
        )
    return scores


Owned = tuple[np.ndarray, Sequence[str]]
"""Features ``[N, F]`` and the subject of each image."""


def _ratio(features: np.ndarray, training: Owned, held_out: Owned, random: np.random.Generator) -> Score:
    """Return the mean distance of images to the nearest training image by that to the nearest held-out one."""
    nearest = np.mean(
        [
            [pairwise_distances_argmin_min(features, reference)[1] for reference in _alike(training, held_out, random)]
            for _ in range(_SUBSETS)
        ],
        axis=0,
    )
    subjects, images = len(set(held_out[1])), len(features)
    if not nearest[1].any():
        why = "every generated image equals an unseen one"
        return Score(value=None, unit="", better="nearer 1", n=subjects, images=images, note=why)

    def ratio(rows: np.ndarray | slice) -> float:
        return float(nearest[0][rows].mean() / nearest[1][rows].mean())

    value = ratio(slice(None))
    interval = jackknife_interval(value, [ratio(rows) for rows in parts_left_out(range(images))])
    return Score(value=value, unit="", better="nearer 1", n=subjects, images=images, ci=interval)


def _alike(training: Owned, held_out: Owned, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return features of as many images of as many training as held-out subjects, chosen at random."""
    count = min(len(set(owners)) for _, owners in (training, held_out))
    chosen = []
    for features, owners in (training, held_out):
        subjects = random.choice(np.unique(owners), count, replace=False)
        chosen.append(features[random.permutation(np.flatnonzero(np.isin(owners, subjects)))])
    size = min(map(len, chosen))
    return chosen[0][:size], chosen[1][:size]


def _by_subject(real: _Set) -> list[dict[str, Any]]:
    """Return one row per unseen subject and class: how far its images are from the nearest training image."""
    keys = list(zip(real.images.subjects, real.images.classes, strict=True))
    rows = []
    for subject, name in dict.fromkeys(keys):
        own = [row for row, key in enumerate(keys) if key == (subject, name)]
        distance = float(real.distances[own].mean())
        rows.append(
            {"subject": subject, "class": name, "images": len(own), "distance to the nearest training image": distance}
        )
    return rows


def _gallery(made: _Set, training: ImageSet, thresholds: Mapping[str, float]) -> tuple[bytes, str]:
    """Draw the generated images that are closest to a training image, each beside it; returns a PNG and its caption."""
    from zoo.report.figures import sheet, upright

    limits = np.array([thresholds.get(name, np.nan) for name in made.images.classes])
    closest = [int(row) for row in np.argsort(made.distances / limits)[:_PAIRS]]
    pairs = np.stack([made.images.take(closest).numpy(), training.take(made.nearest[closest].tolist()).numpy()], axis=1)
    planes = upright(pairs, pairs.ndim - 3)  # [pairs, 2, C, H, W]
    titles = [f"{kind} {name}" for kind in ("generated", "training") for name in training.channels]
    shares = ", ".join(f"{made.distances[row] / limits[row]:.2g}" for row in closest)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.png"
        sheet(planes.reshape(-1, *planes.shape[-2:]), path, titles=titles, columns=len(titles))
        return path.read_bytes(), (
            f"The {len(closest)} generated images that are closest to a training image, each beside it. Distances by "
            f"the threshold of near copies, from the top: {shares}. Training images are those of real people."
        )


def _about(
    views: Views,
    runtime: Runtime,
    options: MemorisationOptions,
    training: ImageSet,
    held_out: ImageSet,
    share: float,
) -> dict[str, Any]:
    found = f"{len(training)} of {len(set(training.subjects))} subjects"
    if share < 1:
        found += f", which are {share:.0%} of the training's scans: copies of the others are not found"
    return {
        "features": views.extractor.name,
        "extractor": views.extractor.digest[:12],
        "channels": ", ".join(views.seen),
        "training images": found,
        "unseen images": f"{len(held_out)} of {len(set(held_out.subjects))} subjects",
        "samples": options.samples,
        "seed": options.seed,
        "runtime": f"{runtime.backend}, {runtime.precision}, {runtime.device}",
    }
