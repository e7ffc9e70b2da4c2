"""Intensities: to [-1, 1] and back, clamped at both ends, and images that cannot be scaled are refused."""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zoo.config import DataConfig, Scale
from zoo.errors import DataError
from zoo.imaging.phantom import WHITE, PhantomSubject, make_subject
from zoo.imaging.preprocessing import Intensity, fit_intensity, output_intensity, scale_intensity

Scaling: TypeAlias = Literal["head", "percentile", "max"]


@settings(max_examples=50, deadline=None)
@given(st.floats(0.5, 1e5), st.floats(0, 0.01))
def test_values_between_the_bounds_come_back(high: float, floor: float) -> None:
    intensity = Intensity(floor, high)
    values = np.linspace(0.01, high, 301).astype(np.float32)
    encoded = intensity.encode(values)
    assert encoded.dtype == intensity.decode(encoded).dtype == np.float32
    # float32 near 1 has steps of 2**-23, which decoding multiplies by high / 2.
    assert np.abs(intensity.decode(encoded) - values).max() <= 2e-7 * high


@settings(max_examples=100, deadline=None)
@given(st.floats(0.5, 1e5))
def test_encoded_values_never_leave_the_range(high: float) -> None:
    encoded = Intensity(0.0, high).encode(np.array([-5, 0, high, 3 * high], np.float32))
    assert encoded[[0, 1, 3]].tolist() == [-1, -1, 1]
    assert encoded.max() == 1


def test_known_values_of_floor_and_clamp() -> None:
    encoded = Intensity(floor=10, high=200).encode(np.array([-40.0, 0.0, 10.0, 100.0, 200.0, 5000.0]))
    assert encoded.tolist() == pytest.approx([-0.9, -0.9, -0.9, 0, 1, 1])
    assert Intensity(10, 200).decode(encoded).tolist() == pytest.approx([10, 10, 10, 100, 200, 200])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_the_type_of_the_values_does_not_matter(dtype: type) -> None:
    encoded = Intensity(0.01, 200).encode(np.array([0, 50, 200], dtype))
    assert encoded.tolist() == pytest.approx([-0.9999, -0.5, 1])


VOXEL = (1.0, 1.0, 1.0)


def test_one_bright_vessel_moves_the_maximum_but_not_the_percentile() -> None:
    values = np.random.default_rng(0).uniform(0, 100, (20, 20, 20)).astype(np.float32)
    vessel = values.copy()
    vessel[3, 4, 5] = 5000
    assert fit_intensity(vessel, VOXEL, "max").high == 5000
    assert fit_intensity(vessel, VOXEL, "percentile").high == pytest.approx(99.5, abs=0.5)
    assert fit_intensity(values, VOXEL, "percentile").high == pytest.approx(99.5, abs=0.5)
    assert fit_intensity(values, VOXEL, "percentile", 50).high == pytest.approx(50, abs=2)


def test_constants_survive_json() -> None:
    intensity = fit_intensity(np.linspace(0, 1234.5678, 777).reshape(7, 3, 37), VOXEL, noise_floor=0.25)
    assert intensity.floor == 0.25
    assert Intensity.from_json(json.loads(json.dumps(intensity.to_json()))) == intensity


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ("max", "its maximum is 0.005"),
        ("percentile", "its 99.5th percentile is 0.005"),
        ("head", "its 97th percentile in the middle of the head is 0.0053"),
    ],
)
def test_an_empty_image_is_refused(scaling: Scaling, named: str) -> None:
    with pytest.raises(DataError, match=f"The image is empty: {named}"):
        fit_intensity(np.full((4, 4, 4), 0.005), VOXEL, scaling)


def test_an_image_without_a_positive_voxel_is_refused() -> None:
    with pytest.raises(DataError, match="The image is empty: its maximum is 0"):
        fit_intensity(np.zeros((4, 4, 4)), VOXEL)


@pytest.mark.parametrize("scaling", ["head", "percentile", "max"])
def test_a_standardised_image_is_refused_whatever_surrounds_it(scaling: Scaling) -> None:
    standardised = np.random.default_rng(0).normal(0, 1, (20, 20, 20))
    with pytest.raises(DataError, match=r"\d\d% of the voxels that are not 0 .* before it was standardised"):
        fit_intensity(standardised, VOXEL, scaling)
    with pytest.raises(DataError, match="before it was standardised"):
        fit_intensity(np.pad(standardised, 15), VOXEL, scaling, percentile=99.9)


def test_ringing_is_no_standardisation() -> None:
    ringing = np.linspace(0, 100, 1000).reshape(10, 10, 10)
    ringing.flat[:40] = -5  # 4 % of the voxels, as cubic interpolation leaves around a bright skull
    assert fit_intensity(ringing, VOXEL, "max").high == 100
    ringing.flat[:60] = -5
    with pytest.raises(DataError, match="6% of the voxels"):
        fit_intensity(ringing, VOXEL, "max")


def test_a_block_on_nothing_is_a_head() -> None:
    image = np.zeros((12, 14, 9))
    image[3:9, 4:12, 2:7] = 50
    assert fit_intensity(image, VOXEL).high == pytest.approx(53)
    assert fit_intensity(image[:, :, 4:5], VOXEL).high == pytest.approx(53)
    assert fit_intensity(np.full((5, 5, 5), 50.0), VOXEL).high == pytest.approx(53)


SPACING = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def brain() -> PhantomSubject:
    return make_subject(0, seed=1, spacing_mm=4, group="MS")


@pytest.fixture(scope="module")
def with_skull(brain: PhantomSubject) -> np.ndarray:
    """A T1w with 8 mm of dark skull and 8 mm of scalp whose fat is thrice as bright as white matter, in noisy air."""
    rng = np.random.default_rng(0)
    inside = ndimage.binary_fill_holes(np.pad(brain.images["T1w"] > 50, 6))
    distance = ndimage.distance_transform_edt(~inside, SPACING)
    head = np.pad(brain.images["T1w"], 6).astype(np.float32)
    head[(distance > 0) & (distance <= 16)] = 60
    head[(distance > 8) & (distance <= 16)] = 2400
    return np.hypot(head + rng.normal(0, 10, head.shape), rng.normal(0, 10, head.shape))


def test_the_skull_does_not_move_the_scale(brain: PhantomSubject, with_skull: np.ndarray) -> None:
    alone = fit_intensity(brain.images["T1w"], SPACING).high
    assert fit_intensity(with_skull, SPACING).high == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR"])
def test_padding_does_not_move_the_scale(brain: PhantomSubject, contrast: str) -> None:
    image = brain.images[contrast]
    once = fit_intensity(image, SPACING)
    assert fit_intensity(np.pad(image, 40), SPACING) == once
    assert fit_intensity(np.pad(image, [(2 * size, size) for size in image.shape]), SPACING) == once


def test_noisy_air_and_a_cut_neck_do_not_move_the_scale(brain: PhantomSubject) -> None:
    rng = np.random.default_rng(0)
    image = brain.images["T1w"].astype(np.float32)
    once = fit_intensity(image, SPACING).high
    wide = np.pad(image, [(3 * size // 2, 3 * size // 2) for size in image.shape])  # four times a side
    noise = np.hypot(*rng.normal(0, 16, (2, *wide.shape)))
    assert fit_intensity(np.where(wide > 0, wide, noise), SPACING).high == pytest.approx(once, rel=0.01)
    assert fit_intensity(image[:, :, 12:], SPACING).high == pytest.approx(once, rel=0.02)


@pytest.mark.parametrize(("count", "level"), [(14, 8000), (10, 1e6)])
def test_a_few_bright_voxels_do_not_move_the_scale(brain: PhantomSubject, count: int, level: float) -> None:
    image = brain.images["T1w"].astype(np.float32)
    inside = np.argwhere(image > 0)
    bright = image.copy()
    bright[tuple(np.random.default_rng(0).choice(inside, count, replace=False).T)] = level
    assert fit_intensity(bright, SPACING).high == pytest.approx(fit_intensity(image, SPACING).high, rel=0.005)


def test_white_matter_is_bright_but_seldom_clamped(brain: PhantomSubject) -> None:
    image = brain.images["T1w"]
    white = image[brain.tissue == WHITE]
    encoded = fit_intensity(image, SPACING).encode(white)
    assert 0.5 < np.median(encoded) < 0.85
    assert np.mean(encoded == 1) < 0.01


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_is_scaled_like_the_head(brain: PhantomSubject, axis: int) -> None:
    image = brain.images["T1w"]
    middle = image.shape[axis] // 2
    slab = np.take(image, range(middle - 3, middle + 3), axis)
    assert fit_intensity(slab, SPACING).high == pytest.approx(fit_intensity(image, SPACING).high, rel=0.05)


def _round_trip(values: np.ndarray, data: DataConfig, channel: str = "PET") -> np.ndarray:
    """Scale, store as float16 as the cache does for contrasts, and go back."""
    _, intensity = scale_intensity(channel, {channel: values}, VOXEL, data)
    return intensity.decode(intensity.encode(values).astype(np.float16))


@pytest.mark.parametrize("low_high", [(0.0, 1.4e-3), (-3.0, 3.0), (-2e-4, 9e-4), (1000.0, 1001.0)])
def test_a_fixed_range_survives_half_precision(low_high: tuple[float, float]) -> None:
    low, high = low_high
    data = DataConfig(contrasts=("PET",), scales={"PET": Scale(range=low_high)})
    values = np.random.default_rng(0).uniform(low, high, (9, 8, 7)).astype(np.float32)
    assert np.abs(_round_trip(values, data) - values).max() < 1e-3 * (high - low)


def test_maps_below_the_noise_floor_are_kept() -> None:
    values = np.linspace(0, 1e-3, 100, dtype=np.float32).reshape(4, 5, 5)
    data = DataConfig(contrasts=("PET",), scales={"PET": Scale(unit="1/s", range=(0, 1e-3))})
    encoded = scale_intensity("PET", {"PET": values}, VOXEL, data)[1].encode(values)
    assert (encoded.min(), encoded.max()) == (-1, 1)
    assert encoded.flat[70] == pytest.approx(2 * values.flat[70] / 1e-3 - 1)


def test_contrasts_are_clamped_and_targets_are_not() -> None:
    values = np.array([-2.0, 0.0, 1.0, 4.0], np.float32)
    scales = {"DVR": Scale(range=(-1, 1))}
    contrast = scale_intensity("DVR", {"DVR": values}, VOXEL, DataConfig(contrasts=("DVR",), scales=scales))[1]
    target = scale_intensity("DVR", {"DVR": values}, VOXEL, DataConfig(targets=("DVR",), scales=scales))[1]
    assert contrast.encode(values).tolist() == [-1, 0, 1, 1]
    assert target.encode(values).tolist() == [-2, 0, 1, 4]
    assert target.decode(target.encode(values)).tolist() == values.tolist()
    assert Intensity.from_json(json.loads(json.dumps(target.to_json()))) == target


def test_a_series_shares_its_constants_and_a_difference_keeps_its_sign() -> None:
    before = np.linspace(0, 100, 1000, dtype=np.float32).reshape(10, 10, 10)
    after = 2 * before[::-1]
    data = DataConfig(
        contrasts=("pre", "post1", "sub"),
        derived={"sub": "post1 - pre"},
        scales={"post1": Scale(like="pre"), "sub": Scale(like="pre", signed=True)},
        scaling="max",
    )
    images = {"pre": before, "post1": after}
    scaled = {name: scale_intensity(name, images, VOXEL, data) for name in data.contrasts}
    assert [scaled[name][1].high for name in data.contrasts] == [100, 100, 100]
    assert scaled["post1"][1].encode(np.array(100.0)) == 1
    difference, intensity = scaled["sub"]
    assert np.array_equal(difference, after - before)
    assert intensity.encode(np.array([-100.0, 0.0, 50.0])).tolist() == [-1, 0, 0.5]


def test_a_signed_scale_without_a_range_is_found_by_absolute_values() -> None:
    values = np.linspace(-80, 40, 1000, dtype=np.float32).reshape(10, 10, 10)
    data = DataConfig(contrasts=("DVR",), scales={"DVR": Scale(signed=True)}, scaling="max")
    assert scale_intensity("DVR", {"DVR": values}, VOXEL, data)[1].encode(values).min() == -1
    assert scale_intensity("DVR", {"DVR": values}, VOXEL, data)[1].high == 80


def test_generated_values_come_back_in_the_unit_of_a_fixed_range() -> None:
    data = DataConfig(
        contrasts=("T1w", "PET", "DVR", "sub"),
        derived={"sub": "DVR - PET"},
        scales={
            "PET": Scale(unit="1/s", range=(0, 1.4e-3)), "DVR": Scale(range=(-2, 2)),
            "sub": Scale(like="PET", signed=True),
        },
    )  # fmt: skip
    ends = np.array([-1.0, 0.0, 1.0])
    found = {name: output_intensity(name, data) for name in data.contrasts}
    assert {name: unit for name, (_, unit) in found.items()} == {
        "T1w": "arbitrary, 0 to 1", "PET": "1/s", "DVR": "arbitrary, -2 to 2", "sub": "1/s"
    }  # fmt: skip
    written = {name: intensity.decode(ends).tolist() for name, (intensity, _) in found.items()}
    assert written["T1w"] == [0, 0.5, 1]
    assert written["PET"] == pytest.approx([0, 7e-4, 1.4e-3])
    assert written["DVR"] == [-2, 0, 2]
    assert written["sub"] == pytest.approx([-1.4e-3, 0, 1.4e-3])


def test_small_and_signed_maps_without_a_scale_are_refused_with_the_setting_that_helps() -> None:
    with pytest.raises(DataError, match=r"is 0.0007. A map of small values needs a range: data.scales.CHANNEL.range"):
        fit_intensity(np.full((4, 4, 4), 7e-4), VOXEL, "max")
    with pytest.raises(DataError, match=r"a signed map a scale for negative values: data.scales.CHANNEL.signed=true"):
        fit_intensity(np.linspace(-1, 1, 64).reshape(4, 4, 4), VOXEL, "max")
