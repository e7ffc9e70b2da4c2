"""Parenchymal fractions, ventricles and tests of their change, on slices whose tissues are known."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage, stats

from zoo.errors import DataError
from zoo.imaging.phantom import CSF
from zoo.metrics.bpf import FLUID, GREY, WHITE, by_kmeans, by_levels, find_head, parenchymal_fraction
from zoo.metrics.profiles import find_ventricles, profiles_through_ventricle, ventricle_share
from zoo.metrics.statistics import bootstrap_interval, holm, paired_tests

LEVELS = (0.0, 0.2, 0.55, 0.85)
_FRACTION_TOLERANCE = 0.005
"""Share of itself by which a fraction may move when only brightness does."""


def _slice(ventricle: float = 10, noise: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a round head [90, 100] with a ventricle of a radius, and its tissues: 0 to 3."""
    i, j = np.mgrid[:90, :100]
    radius = np.hypot(i - 44, j - 52)
    tissue = np.select([radius < ventricle, radius < 27, radius < 34, radius < 38], [1, 3, 2, 1], 0)
    image = np.array(LEVELS)[tissue] + np.random.default_rng(seed).normal(0, noise, tissue.shape) * (tissue > 0)
    return image, tissue


@pytest.fixture(scope="module")
def slices(phantom: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Slices of five phantoms through the ventricles, about 0 to 1, each with its labels."""
    found = []
    for path in sorted(phantom.glob("sub-*/anat/*_T1w.nii.gz")):
        subject = path.name.split("_")[0]
        image = nibabel.load(path).get_fdata() / 900
        label = nibabel.load(phantom / f"derivatives/tissue/{subject}/anat/{subject}_dseg.nii.gz").get_fdata()
        held = np.flatnonzero(label.any(axis=(0, 1)))
        for position in (0.5, 0.58, 0.66):
            index = round(held[0] + position * (held[-1] - held[0]))
            found.append((image[:, :, index], label[:, :, index]))
    return found


def _smooth_field(shape: tuple[int, ...], reach: float) -> np.ndarray:
    """Return a field that is bright at one corner and dark at another, from 1 - reach to 1 + reach."""
    i, j = np.meshgrid(*(np.linspace(0, 1, side) for side in shape), indexing="ij")
    return 1 + reach * np.cos(np.pi * (0.7 * i + 0.3 * j)) * np.cos(np.pi * 0.4 * j)


def _fraction(image: np.ndarray) -> float:
    return parenchymal_fraction(by_levels(image))


def test_the_fraction_of_a_known_slice() -> None:
    image, tissue = _slice()
    truth = (tissue >= 2).sum() / (tissue >= 1).sum()
    assert _fraction(image) == pytest.approx(truth, abs=0.002)
    assert (by_levels(image) == tissue).mean() > 0.99
    wider, truth = _slice(ventricle=14)
    assert _fraction(wider) == pytest.approx((truth >= 2).sum() / (truth >= 1).sum(), abs=0.002)


@pytest.mark.parametrize("gain", [0.9, 0.97, 1.1])
@pytest.mark.parametrize("reach", [0.0, 0.1])
def test_brightness_is_no_atrophy(slices, gain: float, reach: float) -> None:
    for image, _ in slices[::2]:
        brighter = image * gain * _smooth_field(image.shape, reach)
        assert _fraction(brighter) == pytest.approx(_fraction(image), rel=_FRACTION_TOLERANCE)
        classes, now = by_levels(image), by_levels(brighter)
        assert ventricle_share(now) == pytest.approx(ventricle_share(classes), abs=0.002)


def test_padding_changes_nothing(slices) -> None:
    for image, _ in slices[:3]:
        assert np.array_equal(by_levels(np.pad(image, 20))[20:-20, 20:-20], by_levels(image))
        assert ventricle_share(by_levels(np.pad(image, ((40, 0), (0, 7))))) == ventricle_share(by_levels(image))


def test_the_fraction_follows_the_truth_where_kmeans_does_not(slices) -> None:
    truth = [(label > 1).sum() / (label > 0).sum() for _, label in slices]
    levels = [_fraction(image) for image, _ in slices]
    kmeans = [parenchymal_fraction(by_kmeans(image)) for image, _ in slices]
    assert np.corrcoef(levels, truth)[0, 1] > 0.9
    assert abs(np.mean(levels) - np.mean(truth)) < 0.03  # at 4 mm most fluid is partial volume
    assert np.corrcoef(kmeans, truth)[0, 1] < 0.5
    assert np.mean(kmeans) < np.mean(truth) - 0.05  # cortex in the cluster of fluid


def test_ventricles_follow_the_truth(slices) -> None:
    found = [ventricle_share(by_levels(image)) for image, _ in slices]
    truth = []
    for _, label in slices:
        deep = ndimage.distance_transform_edt(np.pad(label > 0, 1))[1:-1, 1:-1] > 5
        i, _ = np.indices(label.shape)
        truth.append(((label == CSF) & deep & (abs(i - label.shape[0] / 2) < 8)).sum() / (label > 0).sum())
    assert np.corrcoef(found, truth)[0, 1] > 0.9


def test_the_papers_clusters() -> None:
    image, tissue = _slice()
    classes = by_kmeans(image)
    assert (classes == tissue).mean() > 0.99
    assert np.array_equal(by_kmeans(image), classes)
    assert np.array_equal(by_kmeans(2 * image - 1), classes)  # each image by itself: units do not matter
    with pytest.raises(DataError, match="3 distinct intensities"):
        by_kmeans(np.array([[0.0, 1.0], [2.0, 2.0]]))


def test_images_without_tissue() -> None:
    for tissue in (by_levels, by_kmeans):
        with pytest.raises(DataError, match="NaN"):
            tissue(np.full((4, 4), np.nan))
    nothing = by_levels(np.zeros((8, 9)))
    assert not nothing.any()
    assert np.isnan(parenchymal_fraction(nothing))
    assert np.isnan(ventricle_share(nothing))
    flat, _ = _slice()
    assert _fraction((flat > 0.1) * 0.7) > 0.8  # one grey level: the filled ventricle is still fluid


def test_the_head_is_the_filled_outline() -> None:
    image, tissue = _slice()
    image[44:60, 45:60] = 0.01  # fluid as dark as the background
    image[5, 5] = 3.0  # a bright speck
    head = find_head(image)
    assert (head == (tissue >= 1)).mean() > 0.95
    assert head[50, 52]
    assert not head[5, 5]


def test_the_ventricle_is_found_and_the_rim_is_not() -> None:
    image, tissue = _slice()
    classes = by_levels(image)
    assert set(np.unique(classes)) == {0, FLUID, GREY, WHITE}
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
        profiles_through_ventricle(solid[None], by_levels(solid))


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
