"""Parenchymal fractions, ventricles and tests of their change, on slices whose tissues are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from zoo.errors import DataError
from zoo.metrics.bpf import bpf_along, classify, fit_centres, parenchymal_fraction
from zoo.metrics.profiles import find_ventricles, profiles_through_ventricle, ventricle_share
from zoo.metrics.statistics import bootstrap_interval, holm, paired_tests

LEVELS = (-1.0, -0.6, 0.1, 0.7)


def _slice(ventricle: float = 10, noise: float = 0.04, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a round head [90, 100] with a ventricle of a radius, and its tissues: 0 to 3."""
    i, j = np.mgrid[:90, :100]
    radius = np.hypot(i - 44, j - 52)
    tissue = np.select([radius < ventricle, radius < 27, radius < 34, radius < 38], [1, 3, 2, 1], 0)
    image = np.array(LEVELS)[tissue] + np.random.default_rng(seed).normal(0, noise, tissue.shape) * (tissue > 0)
    return image, tissue


def test_the_fraction_of_a_known_slice() -> None:
    image, tissue = _slice()
    truth = (tissue >= 2).sum() / (tissue >= 1).sum()
    centres = fit_centres(image)
    assert centres == pytest.approx(LEVELS, abs=0.02)
    assert parenchymal_fraction(classify(image, centres)) == pytest.approx(truth, abs=0.002)
    assert np.array_equal(fit_centres(image), centres)


def test_centres_of_the_baseline_are_kept() -> None:
    image, _ = _slice()
    wider, truth = _slice(ventricle=14)
    found = bpf_along(np.stack([wider, image, image + 0.05]), baseline=1)
    assert found[0] == pytest.approx((truth >= 2).sum() / (truth >= 1).sum(), abs=0.002)
    assert found[0] < found[1] - 0.03
    assert found[2] == pytest.approx(found[1], abs=0.002)  # a small shift of intensities makes no atrophy


def test_images_that_cannot_be_clustered_are_refused() -> None:
    with pytest.raises(DataError, match="3 different intensities"):
        fit_centres(np.array([[0.0, 1.0], [2.0, 2.0]]))
    with pytest.raises(DataError, match="NaN"):
        fit_centres(np.full((4, 4), np.nan))
    assert np.isnan(parenchymal_fraction(np.zeros((3, 3), np.uint8)))


def test_the_ventricle_is_found_and_the_rim_is_not() -> None:
    image, tissue = _slice()
    classes = classify(image, fit_centres(image))
    ventricles = find_ventricles(classes)
    i, j = np.mgrid[:90, :100]
    truth = np.hypot(i - 44, j - 52) < 10
    assert (ventricles & truth).sum() / truth.sum() > 0.98
    assert (ventricles & ~truth).sum() < 5
    assert ventricle_share(classes) == pytest.approx(truth.sum() / (tissue > 0).sum(), abs=0.005)
    profiles = profiles_through_ventricle(np.stack([image, image + 1]), classes)
    assert profiles.row.shape == (2, 90)
    assert profiles.column.shape == (2, 100)
    assert np.hypot(profiles.through[0] - 44, profiles.through[1] - 52) < 3
    assert np.array_equal(profiles.row[0], image[:, profiles.through[1]])
    assert np.array_equal(profiles.column[1], image[profiles.through[0]] + 1)
    solid, _ = _slice(ventricle=0)
    with pytest.raises(DataError, match="No ventricle"):
        profiles_through_ventricle(solid[None], classify(solid, fit_centres(solid)))


def test_paired_tests_are_students_and_holms() -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=(30, 1)) + random.normal([0, 0.1, 0.8], 0.5, size=(30, 3))
    found = paired_tests(values, baseline=0)
    assert found[0] is None
    p = [stats.ttest_rel(values[:, column], values[:, 0]).pvalue for column in (1, 2)]
    for test, expected in zip(found[1:], p, strict=True):
        assert test is not None
        assert test.p == pytest.approx(expected, rel=1e-9)
        assert test.change.n == 30
    assert found[2] is not None
    assert found[2].holm == pytest.approx(min(1, 2 * min(p)))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired_tests(values[:1], baseline=0)[1].p is None  # type: ignore[union-attr]
    with pytest.raises(DataError, match="NaN"):
        paired_tests(np.array([[0.0, np.nan]]), baseline=0)


def test_the_bootstrap_redraws_subjects() -> None:
    subjects = [str(number) for number in range(50) for _ in range(10)]
    values = np.repeat(np.random.default_rng(3).normal(size=50), 10)
    interval = bootstrap_interval(lambda drawn: float(values[drawn].mean()), subjects)
    assert interval is not None
    reach = 1.96 * values[::10].std(ddof=1) / 50**0.5
    assert interval[1] - interval[0] == pytest.approx(2 * reach, rel=0.15)
    assert bootstrap_interval(lambda drawn: 1.0, ["one", "one"]) is None
