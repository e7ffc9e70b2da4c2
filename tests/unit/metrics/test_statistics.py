"""Intervals over groups of samples hold what they promise, and no subject is drawn twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.errors import DataError
from zoo.metrics.distances import frechet_distance
from zoo.metrics.statistics import grouped_mean_interval, jackknife_interval, parts_left_out


def test_independent_truth_values_have_the_exact_binomial_interval() -> None:
    values = np.arange(2000) % 4 == 0
    found = grouped_mean_interval(values, np.arange(2000))
    exact = stats.binomtest(500, 2000).proportion_ci()
    assert (found.mean, found.n) == (0.25, 2000)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=5e-4)


def test_agreement_within_groups_widens_the_interval() -> None:
    values = np.arange(20).repeat(10) % 2 == 0
    clustered = grouped_mean_interval(values, np.arange(20).repeat(10))
    independent = grouped_mean_interval(values, np.arange(200))
    assert clustered.n == 20
    assert clustered.high - clustered.low > 2.5 * (independent.high - independent.low)


@pytest.mark.parametrize("value", [True, False])
def test_values_that_all_agree_are_not_certain(value: bool) -> None:
    found = grouped_mean_interval(np.full(100, value), np.arange(10).repeat(10))
    exact = stats.binomtest(10 * value, 10).proportion_ci()  # ten groups, not a hundred samples
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_numbers_of_one_sample_a_group_have_students_interval() -> None:
    values = np.random.default_rng(1).normal(2, 1, 30)
    found = grouped_mean_interval(values, [f"sub-{number}" for number in range(30)])
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))


def test_intervals_over_groups_hold_the_truth_as_often_as_they_promise() -> None:
    random, held = np.random.default_rng(2), 0
    for _ in range(400):
        groups = np.arange(15).repeat(random.integers(1, 30, 15))
        shares = random.beta(0.8 * 4, 0.2 * 4, 15)  # correlation within a group: 0.2
        found = grouped_mean_interval(random.random(len(groups)) < shares[groups], groups)
        held += found.low <= 0.8 <= found.high
    assert held / 400 == pytest.approx(0.95, abs=0.04)


def test_few_groups_have_no_interval() -> None:
    found = grouped_mean_interval(np.array([True, False, True, True]), [0, 0, 1, 2])
    assert (found.mean, found.low, found.high, found.n) == (0.75, None, None, 3)


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [([], [], "a group for each value"), ([1.0, 2.0], [1], "a group for each value"), ([np.nan], [1], "NaN")],
)
def test_wrong_values_are_refused(values: list[float], groups: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        grouped_mean_interval(np.array(values), groups)


# --- The jackknife. ---


@pytest.mark.parametrize("subjects", [3, 20, 27, 60])
def test_each_subject_is_left_out_once_and_whole(subjects: int) -> None:
    owners = np.array([f"sub-{number}" for number in range(subjects)]).repeat(
        np.random.default_rng(1).integers(1, 9, subjects)
    )
    kept = parts_left_out(owners)
    out = [set(range(len(owners))) - set(rows.tolist()) for rows in kept]
    assert len(kept) <= 20
    assert sorted(index for part in out for index in part) == list(range(len(owners)))
    names = [{owners[index] for index in part} for part in out]
    assert sum(map(len, names)) == subjects
    assert max(map(len, out)) - min(map(len, out)) <= 8


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, 12)
    left_out = [values[rows].mean() for rows in parts_left_out(np.arange(12))]
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert jackknife_interval(values.mean(), left_out) == pytest.approx((low, high))


def test_few_parts_have_no_interval() -> None:
    assert jackknife_interval(1.0, [1.0, 1.1, 0.9, 1.0]) is None


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_interval_of_a_frechet_distance_holds_the_expected_one(shift: float) -> None:
    random = torch.Generator().manual_seed(4)
    sets = [(torch.randn(60, 8, generator=random), torch.randn(60, 8, generator=random) + shift) for _ in range(80)]
    values = [frechet_distance(*some) for some in sets]
    kept = parts_left_out(np.arange(60))
    intervals = [
        jackknife_interval(value, [frechet_distance(real[rows], generated[rows]) for rows in kept])
        for value, (real, generated) in zip(values, sets, strict=True)
    ]
    held = [low <= np.mean(values) <= high for low, high in intervals]
    assert np.mean(held) >= 0.9
    assert np.mean([high - low for low, high in intervals]) < 6 * np.std(values)  # 4 would be exact
