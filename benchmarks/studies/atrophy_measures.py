"""Accuracy of the parenchymal fraction and the ventricles' share of a slice, and their robustness to other changes.

    python benchmarks/studies/atrophy_measures.py --out benchmarks/results/atrophy-measures.jsonl
    python benchmarks/studies/atrophy_measures.py --adults adults-t1w --projected projections --out …

Phantoms have seed 12; the constants of `zoo.metrics.bpf` and `zoo.metrics.profiles` were chosen on seed 11. The truth
follows from their labels: tissue / (tissue + fluid), and the fluid within 4 mm of the warped ventricles / head.
``--adults`` names a BIDS folder whose participants.tsv has ages, ``--projected`` the output folder of ``zoo project``
for phantoms of ``--projected-seed``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from scipy import ndimage, stats

from zoo.imaging import phantom
from zoo.metrics.bpf import BACKGROUND, FLUID, TISSUE, find_head, parenchymal_fraction
from zoo.metrics.profiles import ventricle_share
from zoo.metrics.statistics import mean_interval

POSITIONS = (0.5, 0.55, 0.58, 0.62, 0.66, 0.7)
CHANGED_AT = 0.58
"""Position of the slices whose images are changed while the anatomy stays the same."""

SPACING_MM = 2.0
_VENTRICLE_MM = 4.0

Classify = Callable[[np.ndarray], np.ndarray]


class Slice(NamedTuple):
    """A slice with intensities in [0, 1], its position, and the truth of each quantity."""

    image: np.ndarray
    position: float
    truth: dict[str, float]


QUANTITIES: dict[str, Callable[[np.ndarray], float]] = {"BPF": parenchymal_fraction, "ventricles": ventricle_share}


def main() -> None:
    """Measure and write a JSON object per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=80)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--adults", type=Path)
    parser.add_argument("--projected", type=Path)
    parser.add_argument("--projected-seed", type=int, default=11)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    slices = [some for number in range(arguments.subjects) for some in phantom_slices(number, arguments.seed)]
    rows = [*against_truth(slices, "phantom"), *against_changes(slices, "phantom")]
    if arguments.adults:
        adults = list(adult_slices(arguments.adults))
        rows += [*against_changes([one for one, _ in adults], "adults"), *against_age(adults)]
    if arguments.projected:
        rows += against_projection(arguments.projected, arguments.projected_seed)
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --- Slices. ---


def phantom_slices(number: int, seed: int) -> Iterator[Slice]:
    """Yield slices of one phantom at `POSITIONS`."""
    subject = phantom.make_subject(number, seed, SPACING_MM)
    image = scaled(subject.images["T1w"])
    ventricles = warped_ventricles(subject, number, seed)
    held = np.flatnonzero(subject.tissue.any(axis=(0, 1)))
    for position in POSITIONS:
        index = round(held[0] + position * (held[-1] - held[0]))
        yield Slice(image[:, :, index], position, truth_of(subject.tissue[:, :, index], ventricles[:, :, index]))


def scaled(image: np.ndarray) -> np.ndarray:
    """Return intensities in [0, 1] as models see them: the 99.5th percentile is 1, brighter voxels are clamped."""
    return np.minimum(image / np.percentile(image, 99.5), 1)


def warped_ventricles(subject: phantom.PhantomSubject, number: int, seed: int) -> np.ndarray:
    """Return the fluid near the template's ventricles, deformed like the subject, bool ``[i, j, k]``."""
    template = phantom._template(SPACING_MM)
    anatomy = np.random.default_rng([seed, number, 0])
    places, _, _ = phantom._deformation(template, anatomy, subject.age, subject.atrophy, SPACING_MM)
    distance = ndimage.map_coordinates(template.ventricle_distance_mm, places, order=1, mode="nearest")
    return (subject.tissue == phantom.CSF) & (distance < _VENTRICLE_MM)


def truth_of(tissue: np.ndarray, ventricles: np.ndarray) -> dict[str, float]:
    """Return the true quantities of a slice from its labels."""
    head = int((tissue > 0).sum())
    return {"BPF": float((tissue > phantom.CSF).sum() / head), "ventricles": float(ventricles.sum() / head)}


def adult_slices(folder: Path) -> Iterator[tuple[Slice, float]]:
    """Yield slices of real brains with a voxel size of `SPACING_MM`, and the age of each."""
    from zoo.imaging.cohort import read_cohort

    for scan in read_cohort(folder).scans:
        image = scaled(nibabel.as_closest_canonical(nibabel.load(scan.images["T1w"])).get_fdata())
        area = np.array([find_head(image[:, :, index]).sum() for index in range(image.shape[2])])
        held = np.flatnonzero(area > 0.05 * area.max())
        for position in POSITIONS:
            index = round(held[0] + position * (held[-1] - held[0]))
            yield Slice(image[:, :, index], position, {}), float(scan.covariates["age"])


# --- Estimators. ---


def kmeans_in_head(image: np.ndarray) -> np.ndarray:
    """Return classes by k-means with three clusters inside the head."""
    from sklearn.cluster import KMeans

    head = find_head(image)
    found = KMeans(3, n_init=10, random_state=0).fit(image[head].reshape(-1, 1))
    classes = np.full(image.shape, BACKGROUND, np.uint8)
    classes[head] = FLUID + np.argsort(np.argsort(found.cluster_centers_[:, 0]))[found.labels_]
    return classes


ESTIMATORS: dict[str, Classify] = {**TISSUE, "k-means in the head": kmeans_in_head}


def kept_centres(image: np.ndarray) -> Classify:
    """Return the classifier of version 0.1.0 for edits of an image: the nearest of the image's own four centres."""
    classes = TISSUE["k-means"](image)
    borders = [(image[classes == low].max() + image[classes == low + 1].min()) / 2 for low in range(3)]
    return lambda changed: np.searchsorted(borders, changed).astype(np.uint8)


# --- Measurements. ---


def against_truth(slices: list[Slice], data: str) -> Iterator[dict[str, Any]]:
    """Yield correlation with the truth, and mean and sd of the error, by estimator, quantity and position."""
    for name, classify in ESTIMATORS.items():
        classes = [classify(one.image) for one in slices]
        for quantity, measured in QUANTITIES.items():
            found = np.array([measured(some) for some in classes])
            truth = np.array([one.truth[quantity] for one in slices])
            where = np.array([one.position for one in slices])
            for position in POSITIONS:
                chosen = where == position
                yield {
                    "study": "truth", "data": data, "estimator": name, "quantity": quantity, "position": position,
                    **agreement(found[chosen], truth[chosen]),
                }  # fmt: skip


def agreement(found: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return Pearson's correlation with its interval (Fisher), and mean and sd of the difference."""
    result = stats.pearsonr(found, truth)
    low, high = result.confidence_interval()
    return {
        "n": len(found), "r": float(result.statistic), "r_low": float(low), "r_high": float(high),
        "truth": float(truth.mean()), "truth_sd": float(truth.std(ddof=1)),
        "bias": float((found - truth).mean()), "error_sd": float((found - truth).std(ddof=1)),
    }  # fmt: skip


def smooth_field(shape: tuple[int, ...], reach: float, seed: int) -> np.ndarray:
    """Return a field from 1 - reach to 1 + reach, with at most half a wave along each axis."""
    random = np.random.default_rng(seed)
    waves = [
        np.cos(np.pi * random.uniform(0.5, 1) * np.linspace(0, 1, side) + random.uniform(0, 2 * np.pi))
        for side in shape
    ]
    field = waves[0][:, None] + waves[1][None]
    return 1 + reach * field / np.abs(field).max()


CHANGES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "brightness × 0.90": lambda image, _: image * 0.9,
    "brightness × 0.95": lambda image, _: image * 0.95,
    "brightness × 1.10": lambda image, _: image * 1.1,
    "smooth field, ± 10 %": lambda image, seed: image * smooth_field(image.shape, 0.1, seed),
    "× 0.90 and field": lambda image, seed: 0.9 * image * smooth_field(image.shape, 0.1, seed),
    "padded by 40": lambda image, _: np.pad(image, 40),
    "noise of 1 %": lambda image, seed: image + np.random.default_rng(seed).normal(0, 0.01, image.shape),
}
"""Changes of an image, from its values and a seed, that keep the anatomy."""


def against_changes(slices: list[Slice], data: str) -> Iterator[dict[str, Any]]:
    """Yield the relative change of each quantity under changes of the image that keep the anatomy."""
    chosen = [one.image for one in slices if one.position == CHANGED_AT]
    ways = {name: [classify] * len(chosen) for name, classify in ESTIMATORS.items()}
    ways["k-means, centres kept (0.1.0)"] = [kept_centres(image) for image in chosen]
    for name, fitted in ways.items():
        before = [fit(image) for fit, image in zip(fitted, chosen, strict=True)]
        for change, apply in CHANGES.items():
            after = [fit(apply(image, seed)) for seed, (fit, image) in enumerate(zip(fitted, chosen, strict=True))]
            for quantity, measured in QUANTITIES.items():
                start = np.array([measured(some) for some in before])
                moved = np.array([measured(some) for some in after]) - start
                # Ventricles of a few pixels have no meaningful relative change: theirs are shares of the head.
                relative = moved / start if quantity == "BPF" else moved
                yield {
                    "study": "change", "data": data, "estimator": name, "quantity": quantity, "change": change,
                    "n": len(chosen), "mean": float(relative.mean()), "largest": float(np.abs(relative).max()),
                    "before": float(start.mean()), "after": float((start + moved).mean()),
                }  # fmt: skip


def against_age(adults: list[tuple[Slice, float]]) -> Iterator[dict[str, Any]]:
    """Yield the rank correlation of each quantity with age."""
    for name, classify in ESTIMATORS.items():
        classes = [classify(one.image) for one, _ in adults]
        for quantity, measured in QUANTITIES.items():
            for position in POSITIONS:
                chosen = [
                    (measured(some), age)
                    for some, (one, age) in zip(classes, adults, strict=True)
                    if one.position == position
                ]
                found, ages = np.array(chosen).T
                result = stats.spearmanr(found, ages)
                yield {
                    "study": "age", "data": "adults", "estimator": name, "quantity": quantity, "position": position,
                    "n": len(ages), "spearman": float(result.statistic), "p": float(result.pvalue),
                    "mean": float(found.mean()),
                }  # fmt: skip


def against_projection(folder: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the agreement of projected images and of their reconstructions with the truth."""
    from zoo.tasks.projections import Projections

    stored = Projections.read(folder)
    known = {row["subject"]: int(row["subject"].split("-")[1]) - 1 for row in stored.rows}
    subjects = {name: phantom.make_subject(number, seed, SPACING_MM) for name, number in known.items()}
    ventricles = {name: warped_ventricles(subjects[name], number, seed) for name, number in known.items()}
    truth = [
        truth_of(
            subjects[row["subject"]].tissue[:, :, row["slice"]], ventricles[row["subject"]][:, :, row["slice"]]
        )
        for row in stored.rows
    ]  # fmt: skip
    images = {"projected": stored.image, "reconstruction": stored.reconstruction.clamp(-1, 1)}
    for name, classify in ESTIMATORS.items():
        classes = {which: [classify((one[0].numpy() + 1) / 2) for one in some] for which, some in images.items()}
        for quantity, measured in QUANTITIES.items():
            found = {which: np.array([measured(one) for one in some]) for which, some in classes.items()}
            right = np.array([one[quantity] for one in truth])
            # Slices of a subject are not independent, so agreement is computed on subjects' means.
            owners = np.array([row["subject"] for row in stored.rows])
            means = [
                np.array([values[owners == owner].mean() for owner in known])
                for values in (*found.values(), right, found["reconstruction"] - found["projected"])
            ]
            lost = mean_interval(means[3].tolist())
            yield {
                "study": "projection", "data": "phantom", "estimator": name, "quantity": quantity,
                "images": len(owners), "projected": agreement(means[0], means[2]),
                "reconstruction": agreement(means[1], means[2]),
                "moved": lost.mean, "moved_low": lost.low, "moved_high": lost.high,
            }  # fmt: skip


if __name__ == "__main__":
    main()
