"""Scores of one set of images against another of the same size: distances, neighbours, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.metrics.distances import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    nearest_neighbour_correct,
    precision_recall,
)
from zoo.metrics.statistics import grouped_mean_interval, jackknife_interval, parts_left_out
from zoo_realism.views import WHOLE

NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""

Better = Literal["higher", "lower", "nearer 0.5"]

_BETTER: Mapping[str, Better] = {
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "1-nn real": "nearer 0.5",
    "1-nn generated": "nearer 0.5",
}


@dataclass(frozen=True)
class Images:
    """Some images by their features.

    Attributes:
        features: ``[N, F]`` by key, see `Views.features`.
        owners: The subject of each image; a generated image has a name of its own.
        generated: Whether they are generated.
    """

    features: Mapping[str, Tensor]
    owners: tuple[str, ...]
    generated: bool = False

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, rows: Sequence[int] | np.ndarray) -> Images:
        """Return the images of some rows."""
        chosen = [int(row) for row in rows]
        return Images(
            {key: some[chosen] for key, some in self.features.items()},
            tuple(self.owners[row] for row in chosen),
            self.generated,
        )

    @property
    def groups(self) -> np.ndarray:
        """The owner of each image as a number."""
        numbers: np.ndarray = np.unique(self.owners, return_inverse=True)[1]
        return numbers


Draws = Sequence[tuple[Images, Images]]
"""Pairs of a real set and of the set that is compared with it, all of one size."""


def compare(draws: Draws, report: Callable[[], None]) -> dict[str, Score]:
    """Return the scores of sets compared with real ones, by metric: means over the draws.

    Args:
        draws: Each a real set, and a generated one or one of other real subjects.
        report: Called after each draw.
    """
    distances: dict[str, list[float]] = {}
    values: dict[str, list[np.ndarray]] = {}
    owners: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for real, other in draws:
        for metric, distance, key in _distances(real):
            distances.setdefault(metric, []).append(distance(real.features[key], other.features[key]))
        for measure in (_precision_recall, _density_coverage, _neighbours):
            try:
                measured = measure(real, other)
            except DataError as error:
                missing |= dict.fromkeys(_METRICS[measure], str(error))
                continue
            for metric, (found, of) in measured.items():
                values.setdefault(metric, []).append(found)
                owners.setdefault(metric, []).extend(of)
        report()
    first, against = draws[0]
    subjects, images = len({owner for one in draws[0] if not one.generated for owner in one.owners}), len(first)
    scores: dict[str, Score] = {}
    for metric, distance, key in _distances(first):
        mean = float(np.mean(distances[metric]))
        note = _rank_note(first.features[key]) if distance is frechet_distance else ""
        scores[metric] = Score(
            value=mean,
            unit="",
            better="lower",
            n=subjects,
            images=images,
            ci=_interval(mean, first, against, distance, key),
            note="; ".join(filter(None, (_spread_note(distances[metric]), note))),
        )
    for metric, better in _BETTER.items():
        if metric in missing:
            scores[metric] = Score(value=None, unit="", better=better, n=subjects, images=images, note=missing[metric])
        else:
            per_draw = [float(found.mean()) for found in values[metric]]
            scores[metric] = mean_score(
                np.concatenate(values[metric]), owners[metric], better, subjects, images, _spread_note(per_draw)
            )
    return scores


def mean_score(
    values: np.ndarray, owners: Sequence[str], better: Better, subjects: int, images: int, note: str = ""
) -> Score:
    """Return the mean of values of single images with an interval that counts their owners.

    Args:
        values: ``[N]``, numbers or truth values.
        owners: The owner of each.
        better: Which values are better.
        subjects, images: Numbers of the score.
        note: What limits it.
    """
    interval = grouped_mean_interval(values, owners)
    bounds = None if interval.low is None or interval.high is None else (interval.low, interval.high)
    return Score(value=interval.mean, unit="", better=better, n=subjects, images=images, ci=bounds, note=note)


Distance = Callable[[Tensor, Tensor], float]
Values = Mapping[str, tuple[np.ndarray, Sequence[str]]]
"""A value per image and the owner of each, by metric."""


def _distances(images: Images) -> list[tuple[str, Distance, str]]:
    """Return each distance with its metric's name and the features that it compares."""
    channels = [key for key in images.features if key != WHOLE]
    return [
        ("frechet", frechet_distance, WHOLE),
        ("kernel", kernel_distance, WHOLE),
        *((f"frechet {channel}", frechet_distance, channel) for channel in channels),
    ]


def _interval(value: float, real: Images, other: Images, distance: Distance, key: str) -> tuple[float, float] | None:
    """Return the interval of a distance; ``None`` for few subjects or generated images.

    Each side has a jackknife of its own, as it has its own number of subjects; their variances add.
    """
    one, two = real.features[key], other.features[key]
    sides = (
        [distance(one[rows], two) for rows in parts_left_out(real.owners) if len(rows) > 1],
        [distance(one, two[rows]) for rows in parts_left_out(other.owners) if len(rows) > 1],
    )
    intervals = [jackknife_interval(value, left_out) for left_out in sides]
    reaches = [(found[1] - found[0]) / 2 for found in intervals if found]
    if len(reaches) < len(sides):
        return None
    reach = float(np.hypot(reaches[0], reaches[1]))
    return max(value - reach, 0.0) if distance is frechet_distance else value - reach, value + reach


def _precision_recall(real: Images, other: Images) -> Values:
    precise, recalled = precision_recall(real.features[WHOLE], other.features[WHOLE], NEIGHBOURS)
    return {"precision": (precise.numpy(), other.owners), "recall": (recalled.numpy(), real.owners)}


def _density_coverage(real: Images, other: Images) -> Values:
    dense, covered = density_coverage(real.features[WHOLE], other.features[WHOLE], NEIGHBOURS)
    return {"density": (dense.numpy(), other.owners), "coverage": (covered.numpy(), real.owners)}


def _neighbours(real: Images, other: Images) -> Values:
    """Images of one subject are no neighbours of each other, on both sides."""
    one, two = real.features[WHOLE], other.features[WHOLE]
    of_real, of_other = nearest_neighbour_correct(one, two, real.groups)
    if not other.generated:
        of_other, _ = nearest_neighbour_correct(two, one, other.groups)
    return {"1-nn real": (of_real.numpy(), real.owners), "1-nn generated": (of_other.numpy(), other.owners)}


_METRICS = {
    _precision_recall: ("precision", "recall"),
    _density_coverage: ("density", "coverage"),
    _neighbours: ("1-nn real", "1-nn generated"),
}


def _rank_note(features: Tensor) -> str:
    count, width = features.shape
    if count > width:
        return ""
    return (
        f"WARNING: fewer images than the {width} features, so covariances have no full rank and the distance is too "
        "high; compare only values of the same number of images"
    )


def _spread_note(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"mean of {len(values)} draws, standard deviation between draws {np.std(values, ddof=1):.3g}"
