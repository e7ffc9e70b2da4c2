"""Measures of the course of contrast agent."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.metrics.kinetics import curve_class, hot_curves, late_change, measure_kinetics

TIMES = (70.0, 140.0, 210.0, 280.0)
BRIGHT = (1.0, 3.0, 2.5, 2.2, 2.0)
NOISE = 0.004


def _series(side: int = 48, depth: int | None = None) -> np.ndarray:
    """Return one image of still tissue with a lesion in the middle and a vessel at its edge, ``[1, 5, *spatial]``."""
    shape = (side, side) if depth is None else (side, side, depth)
    series = np.full((1, 5, *shape), 0.5)
    middle = slice(side // 2 - 6, side // 2 + 6)
    lesion = (middle, middle) if depth is None else (middle, middle, slice(None))
    vessel = (slice(2, 8), slice(2, 8))
    for time, factor in enumerate(BRIGHT):
        series[0, time][lesion] = 0.2 * factor
        series[0, time][vessel] = 0.2 + 0.3 * time
    return series + np.random.default_rng(0).normal(0, NOISE, series.shape)


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [((1, 2, 2.5, 2.7, 3), "persistent"), ((1, 2, 2.5, 2.5, 2.4), "plateau"), ((1, 3, 2.5, 2, 1.8), "wash-out"),
     ((1, 2, 2.6), "plateau")],
)  # fmt: skip
def test_class_of_a_curve(curve: tuple[float, ...], wanted: str) -> None:
    assert curve_class(late_change(np.array(curve, float))) == wanted


@pytest.mark.parametrize("depth", [None, 8])
def test_hot_region_is_the_lesion_in_the_middle(depth: int | None) -> None:
    curve = hot_curves(_series(depth=depth))[0]
    assert curve / curve[0] == pytest.approx(BRIGHT, rel=0.05)


def test_hot_region_depends_neither_on_brightness_nor_on_padding() -> None:
    series = _series()
    plain = hot_curves(series)
    assert hot_curves(7 * series) == pytest.approx(7 * plain)
    blank = series.copy()
    blank[:, :, :4], blank[:, :, :, -10:] = 0, 0
    assert hot_curves(blank) == pytest.approx(plain)


def test_slopes_are_shares_per_minute() -> None:
    found = measure_kinetics(_series(), TIMES)
    assert found.wash_in[0] == pytest.approx(2.0 / (70 / 60), rel=0.05)
    assert found.wash_out[0] == pytest.approx(-1.0 / (210 / 60), rel=0.1)
    assert found.late_change[0] == pytest.approx(-1 / 3, rel=0.05)
    assert found.first_step_largest.tolist() == [True]
    assert found.curve_class.tolist() == ["wash-out"]
    assert found.noise[0] == pytest.approx(NOISE * 2**0.5, rel=0.1)


def test_tissue_that_falls_beyond_noise_is_darker() -> None:
    series = _series()
    assert measure_kinetics(series, TIMES).darker[0] < 0.005
    wrong = series.copy()
    wrong[:, 1, :12] -= 0.2  # a quarter of the image
    assert measure_kinetics(wrong, TIMES).darker[0] == pytest.approx(0.25, abs=0.02)
    assert measure_kinetics(wrong, TIMES, noise=0.1).darker[0] < 0.02


def test_an_image_out_of_line_is_a_jump() -> None:
    steady, wrong = np.repeat(_series(), 2, axis=0)
    wrong = wrong.copy()
    wrong[3] += 0.2
    smooth, jumping = measure_kinetics(np.stack([steady, wrong]), TIMES).jumps
    assert jumping > 5 * smooth
    even = np.stack([1.0 + 0.01 * np.array([0, *TIMES])] * 36, axis=1).reshape(1, 5, 6, 6)
    assert measure_kinetics(even, TIMES).jumps == pytest.approx(0, abs=1e-9)


def test_an_image_without_signal_has_no_slopes() -> None:
    found = measure_kinetics(np.zeros((1, 5, 12, 12)), TIMES)
    assert np.isnan([found.wash_in[0], found.wash_out[0], found.late_change[0], found.darker[0], found.jumps[0]]).all()
