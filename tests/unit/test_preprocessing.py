"""Intensities: to [-1, 1] and back, clamped at both ends, and images that cannot be scaled are refused."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import DataError
from zoo.imaging.preprocessing import Intensity, fit_intensity


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


def test_one_bright_vessel_moves_the_maximum_but_not_the_percentile() -> None:
    values = np.random.default_rng(0).uniform(0, 100, (20, 20, 20)).astype(np.float32)
    vessel = values.copy()
    vessel[3, 4, 5] = 5000
    assert fit_intensity(vessel, "max").high == 5000
    assert fit_intensity(vessel).high == pytest.approx(fit_intensity(values).high, rel=1e-3)
    assert fit_intensity(values).high == pytest.approx(99.5, abs=0.5)
    assert fit_intensity(values, "percentile", 50).high == pytest.approx(50, abs=2)


def test_constants_survive_json() -> None:
    intensity = fit_intensity(np.linspace(0, 1234.5678, 777), noise_floor=0.25)
    assert intensity.floor == 0.25
    assert Intensity.from_json(json.loads(json.dumps(intensity.to_json()))) == intensity


@pytest.mark.parametrize(
    ("scaling", "named"), [("max", "its maximum is 0.005"), ("percentile", "its 99.5th percentile is 0.005")]
)
def test_an_empty_image_is_refused(scaling: Literal["percentile", "max"], named: str) -> None:
    with pytest.raises(DataError, match=f"The image is empty: {named}"):
        fit_intensity(np.full((4, 4, 4), 0.005), scaling)


def test_a_standardised_image_is_refused_but_ringing_is_not() -> None:
    with pytest.raises(DataError, match=r"50% of the voxels are negative, down to -3; .* before it was standardised"):
        fit_intensity(np.linspace(-3, 3, 1000))
    ringing = np.linspace(0, 100, 1000)
    ringing[:40] = -5  # 4 % of the voxels, as cubic interpolation leaves around a bright skull
    assert fit_intensity(ringing, "max").high == 100
    ringing[:60] = -5
    with pytest.raises(DataError, match="6% of the voxels are negative"):
        fit_intensity(ringing, "max")
