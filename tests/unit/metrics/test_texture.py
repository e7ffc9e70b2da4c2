"""Texture features are those named, follow texture, and stay put under what does not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from zoo.metrics.distances import frechet_distance
from zoo.metrics.features import feature_scale
from zoo.metrics.texture import COUNT, texture_of

SIZES = pytest.mark.parametrize("size", [(32, 28), (16, 14, 12)])


def _tissue(count: int, seed: int, size: tuple[int, ...] = (32, 28)) -> np.ndarray:
    """Return images of different texture, brightness and contrast, each with a background along one side."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse, fine = (gaussian_filter(random.normal(size=size), random.uniform(*r)) for r in ((2, 3), (0.4, 0.8)))
        texture = coarse / coarse.std() + random.uniform(0.2, 0.5) * fine / fine.std()
        image = random.uniform(-0.2, 0.2) + random.uniform(0.1, 0.2) * texture
        image[: random.integers(size[0] // 4)] = -1
        images.append(image)
    return np.clip(images, -1, 1)


def _distance(real: np.ndarray, other: np.ndarray) -> float:
    one, second = torch.from_numpy(real), torch.from_numpy(other)
    scale = feature_scale(one)
    return frechet_distance(one / scale, second / scale)


@SIZES
def test_a_chequered_image_has_the_contrast_of_its_pairs(size: tuple[int, ...]) -> None:
    side = 10
    chequered = np.where(np.indices((side,) * len(size)).sum(0) % 2, 0.5, -0.5)
    padded = np.pad(chequered, 3, constant_values=-1)
    features = texture_of(np.stack([padded]))[0]
    # Neighbours along an axis differ by all 31 steps, neighbours across a corner are equal.
    share = 2 * side * (side - 1) / (2 * side * (side - 1) + 2 * (side - 1) ** 2)
    assert np.expm1(features[9]) == pytest.approx(31**2 * share)
    assert features[:2] == pytest.approx([0, 0.5])  # mean and standard deviation
    assert np.expm1(features[3]) == pytest.approx(1)  # kurtosis of two equally frequent values
    assert features[4:9] == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-9)


@SIZES
def test_flat_and_empty_images_have_finite_features(size: tuple[int, ...]) -> None:
    empty, flat = np.full(size, -1.0), np.full(size, 0.3)
    single, few, corner = empty.copy(), empty.copy(), flat.copy()
    single[(3,) * len(size)] = 0.5
    few[(slice(None, None, 9),) * len(size)] = 0.5  # no two voxels four or fewer steps apart
    corner[(0,) * len(size)] = 1
    features = texture_of(np.stack([empty, flat, single, few, corner]))
    assert features.shape == (5, COUNT)
    assert np.isfinite(features).all()
    noise = 1e-4 * np.random.default_rng(0).normal(size=size)
    assert np.abs(texture_of((flat + noise)[None]) - features[1]).max() < 0.01


@SIZES
def test_the_orientation_of_an_image_does_not_matter(size: tuple[int, ...]) -> None:
    images = _tissue(3, 1, size)
    turned = np.moveaxis(images, 1, -1)
    assert texture_of(np.flip(turned, -1)) == pytest.approx(texture_of(images), abs=1e-9)


@SIZES
def test_an_image_has_the_same_features_alone_and_among_others(size: tuple[int, ...]) -> None:
    images = _tissue(4, 2, size)
    assert np.array_equal(texture_of(images)[2], texture_of(images[2:3])[0])


@SIZES
def test_padding_changes_nothing(size: tuple[int, ...]) -> None:
    images = _tissue(3, 3, size)
    padded = np.pad(images, [(0, 0), *[(5, 9)] * len(size)], constant_values=-1)
    assert texture_of(padded) == pytest.approx(texture_of(images), abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "most"),
    [
        (lambda images: (images + 1) * 0.98 - 1, 0.35),
        (lambda images: (images + 1) * 1.02 - 1, 0.35),
        (lambda images: images.astype(np.float16), 0.05),
        (lambda images: np.rint((images + 1) * 127.5) / 127.5 - 1, 0.25),
        (lambda images: np.where(images > -1, images, -0.95), 1e-9),
    ],
    ids=["darker", "brighter", "float16", "8 bit", "background"],
)
def test_what_is_not_texture_moves_features_less_than_images_differ(changed, most) -> None:
    images = _tissue(40, 4)
    features = texture_of(images)
    moved = np.abs(texture_of(changed(images)) - features).mean(0) / np.maximum(features.std(0), 0.01)
    assert moved.max() < most
    assert np.median(moved) < most / 3 or most < 1e-6


@SIZES
@pytest.mark.parametrize(
    "changed",
    [
        lambda images: gaussian_filter(images, (0, *[0.7] * (images.ndim - 1))),
        lambda images: images + np.random.default_rng(8).normal(0, 0.08, images.shape),
        lambda images: np.round(images * 5) / 5,
        lambda images: np.repeat(images[:4], 15, axis=0),
    ],
    ids=["blur", "noise", "few grey levels", "no variety"],
)
def test_what_is_texture_moves_the_distance_above_that_of_real_halves(changed, size: tuple[int, ...]) -> None:
    real, other = _tissue(60, 5, size), _tissue(60, 6, size)
    features, others = texture_of(real), texture_of(other)
    assert _distance(features, texture_of(changed(other))) > 2 * _distance(features, others)


def test_the_zero_of_a_signed_channel_is_not_split_by_noise() -> None:
    images = np.where(_tissue(20, 7) > 0, 2 * _tissue(20, 8), 0)  # change in places, none elsewhere
    noise = np.random.default_rng(9).normal(0, 1e-4, images.shape)
    features = texture_of(images)
    moved = np.abs(texture_of(images + noise) - features).mean(0) / np.maximum(features.std(0), 0.01)
    assert moved.max() < 0.05


def test_a_channel_without_background_is_measured_whole() -> None:
    images = np.random.default_rng(10).uniform(-0.8, 0.8, (2, 20, 20))
    features = texture_of(images)
    assert features[:, 0] == pytest.approx(images.mean((1, 2)))
    assert features[:, 1] == pytest.approx(images.std((1, 2)))
