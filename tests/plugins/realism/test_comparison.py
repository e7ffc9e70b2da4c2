"""Scores of one set of images against another: known answers on drawn features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.descriptors import Score
from zoo.metrics.distances import frechet_distance
from zoo_realism.comparison import Images, compare
from zoo_realism.views import WHOLE

SIZE, WIDTH = 300, 8


def _features(seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _real(seed: int, size: int = SIZE, subjects: int = 30) -> Images:
    return Images({WHOLE: _features(seed, size)}, tuple(f"sub-{row % subjects}" for row in range(size)))


def _generated(features: torch.Tensor) -> Images:
    return Images({WHOLE: features}, tuple(f"generated {row}" for row in range(len(features))), generated=True)


def _compare(*draws: tuple[Images, Images]) -> dict[str, Score]:
    return compare(draws, lambda: None)


def test_equal_distributions_cannot_be_told_apart() -> None:
    scores = _compare((_real(0), _generated(_features(1))))
    floor = _compare((_real(0), _real(2)))
    for metric in ("1-nn real", "1-nn generated"):
        assert scores[metric].value == pytest.approx(0.5, abs=0.08)
        assert scores[metric].ci[0] < 0.5 < scores[metric].ci[1]
    assert scores["frechet"].value == pytest.approx(floor["frechet"].value, rel=0.5)
    assert abs(scores["kernel"].value) < 0.1
    assert scores["precision"].value > 0.9
    assert scores["coverage"].value > 0.9


def test_shifted_images_are_far() -> None:
    near = _compare((_real(0), _generated(_features(1))))
    far = _compare((_real(0), _generated(_features(1) + 4)))
    assert far["frechet"].value > 50 * near["frechet"].value
    assert far["kernel"].ci[0] > near["kernel"].ci[1]
    assert far["1-nn real"].value == far["1-nn generated"].value == 1
    assert far["precision"].value == far["coverage"].value == 0


def test_copies_lie_closer_to_real_images_than_to_each_other() -> None:
    real = _real(0)
    copied = _compare((real, _generated(real.features[WHOLE] + 0.01 * _features(1))))
    assert copied["1-nn real"].value < 0.05
    assert copied["1-nn generated"].value < 0.05


def test_images_of_one_subject_are_no_neighbours_of_each_other() -> None:
    # All images of a subject are alike, so each would find its like in its own set.
    features = _features(3, 200).repeat_interleave(5, dim=0) + 0.01 * _features(4, 1000)
    owners = tuple(f"sub-{row // 5}" for row in range(1000))
    first, second = (Images({WHOLE: features[rows]}, owners[rows]) for rows in (slice(0, 500), slice(500, 1000)))
    scores = _compare((first, second))
    assert 0.35 < scores["1-nn real"].value < 0.65
    assert 0.35 < scores["1-nn generated"].value < 0.65


def test_the_interval_of_a_distance_holds_the_values_of_other_samples() -> None:
    score = _compare((_real(0), _generated(_features(1))))["frechet"]
    others = [frechet_distance(_features(seed), _features(seed + 1)) for seed in range(10, 50, 2)]
    inside = [score.ci[0] < value < score.ci[1] for value in others]
    assert np.mean(inside) > 0.75


def test_several_draws_give_their_mean_and_spread() -> None:
    draws = [(_real(seed), _generated(_features(seed + 1))) for seed in (0, 10, 20)]
    several, each = _compare(*draws), [_compare(draw) for draw in draws]
    for metric in ("frechet", "1-nn real", "density"):
        values = [one[metric].value for one in each]
        assert several[metric].value == pytest.approx(np.mean(values))
        assert f"mean of 3 draws, standard deviation between draws {np.std(values, ddof=1):.3g}" in several[metric].note
    assert not each[0]["frechet"].note


def test_a_score_has_its_numbers() -> None:
    score = _compare((_real(0), _generated(_features(1))))["frechet"]
    assert (score.n, score.images) == (30, SIZE)
    floor = _compare(
        (_real(0, 100, 10), Images({WHOLE: _features(1, 100)}, tuple(f"other-{n % 9}" for n in range(100))))
    )
    assert (floor["frechet"].n, floor["frechet"].images) == (19, 100)


@pytest.mark.parametrize(("size", "warned"), [(WIDTH, True), (WIDTH + 1, False)])
def test_fewer_images_than_features_are_warned_of(size: int, warned: bool) -> None:
    scores = _compare((_real(0, size), _generated(_features(1, size))))
    assert ("WARNING: fewer images than the 8 features" in scores["frechet"].note) == warned
    assert not scores["kernel"].note


def test_few_subjects_have_no_interval() -> None:
    scores = _compare((_real(0, subjects=4), _generated(_features(1))))
    assert all(scores[metric].ci is None for metric in ("frechet", "kernel", "recall", "coverage", "1-nn real"))


def test_a_single_subject_has_no_neighbours() -> None:
    scores = _compare((_real(0, subjects=1), _generated(_features(1))))
    assert scores["1-nn real"].value is None
    assert "subject" in scores["1-nn real"].note
    assert scores["frechet"].value is not None


def test_each_channel_has_a_distance_of_its_own() -> None:
    real, generated = _features(0), _features(1)
    moved = generated.clone()
    moved[:, 4:] += 3
    real_images = Images({WHOLE: real, "T1w": real[:, :4], "FLAIR": real[:, 4:]}, _real(0).owners)
    moved_images = Images({WHOLE: moved, "T1w": moved[:, :4], "FLAIR": moved[:, 4:]}, _generated(moved).owners, True)
    scores = _compare((real_images, moved_images))
    assert scores["frechet FLAIR"].value > 20 * scores["frechet T1w"].value
    assert scores["frechet FLAIR"].value < scores["frechet"].value
