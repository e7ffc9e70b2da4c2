"""Grids: conform like nibabel, bit-exact where nothing has to be interpolated."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import conform, resample_from_to

from zoo.imaging.geometry import Grid, model_grid, to_grid, to_native
from zoo.imaging.preprocessing import Intensity, fit_intensity

SHAPE = (9, 12, 10)


def _affine(seed: int, spacing: tuple[float, float, float], tilt: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(np.eye(3) + tilt * rng.normal(size=(3, 3)))
    permutation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation @ permutation @ np.diag(spacing)
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


spacings = st.tuples(*[st.floats(0.6, 4.0)] * 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), spacings, st.floats(0, 0.3), st.sampled_from([1.0, 2.0]))
def test_model_grid_is_nibabels_conform(seed: int, spacing: tuple, tilt: float, wanted: float) -> None:
    affine = _affine(seed, spacing, tilt)
    data = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    grid = model_grid(SHAPE, affine, wanted)
    assert "".join(nibabel.aff2axcodes(grid.affine)) == "RAS"
    assert np.allclose(grid.spacing_mm, wanted, atol=1e-3)
    expected = conform(nibabel.Nifti1Image(data, affine), grid.shape, (wanted,) * 3, order=1)
    assert np.allclose(grid.affine, expected.affine, atol=1e-4)
    assert np.allclose(to_grid(data, affine, grid), expected.get_fdata(), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.3))
def test_same_spacing_goes_there_and_back_bit_for_bit(seed: int, tilt: float) -> None:
    affine = _affine(seed, (1.0, 1.0, 1.0), tilt)
    data = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    grid = model_grid(SHAPE, affine, 1.0)
    there = to_grid(data, affine, grid)
    assert sorted(there.ravel()) == sorted(data.ravel())
    assert np.array_equal(to_native(there, grid, SHAPE, affine), data)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(-4, 4)] * 3))
def test_whole_voxel_shifts_are_moves(seed: int, shift: tuple[int, int, int]) -> None:
    affine = _affine(seed, (1.0, 1.0, 1.0), 0.0)
    data = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    target = np.eye(4)
    target[:3, 3] = np.round(affine[:3, 3]) + shift
    source = affine.copy()
    source[:3, 3] = np.round(affine[:3, 3])
    grid = Grid((11, 8, 13), target)
    expected = resample_from_to(nibabel.Nifti1Image(data, source), (grid.shape, grid.affine), order=0)
    assert np.array_equal(to_grid(data, source, grid, fill=0), expected.get_fdata(dtype=np.float32))


def test_labels_stay_labels_between_unrelated_grids() -> None:
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.float32)
    grid = Grid((8, 8, 8), _affine(3, (1.3, 1.3, 1.3), 0.2))
    grid.affine[:3, 3] = 0
    source = _affine(4, (1.0, 1.0, 1.0), 0.1)
    source[:3, 3] = 0
    there = to_grid(labels, source, grid, order=0)
    assert set(np.unique(there)) <= {0, 1, 2, 3, 4}
    expected = resample_from_to(nibabel.Nifti1Image(labels, source), (grid.shape, grid.affine), order=0)
    assert np.array_equal(there, expected.get_fdata())


def test_edges_of_a_resampled_image_do_not_fade() -> None:
    affine = _affine(1, (0.7, 0.7, 2.5), 0.1)
    data = np.full(SHAPE, 100, np.float32)
    grid = model_grid(SHAPE, affine, 1.0)
    back = to_native(np.full(grid.shape, 100, np.float32), grid, SHAPE, affine)
    assert np.allclose(back, data)


def test_intensities_come_back() -> None:
    values = np.random.default_rng(0).uniform(0, 900, (5, 6, 7)).astype(np.float32)
    intensity = fit_intensity(values, "max")
    encoded = intensity.encode(values)
    assert encoded.dtype == np.float32
    assert encoded.max() == 1
    assert encoded.min() >= -1
    assert np.allclose(intensity.decode(encoded), np.maximum(values, 0.01), rtol=1e-5, atol=1e-3)
    assert Intensity.from_json(intensity.to_json()) == intensity


def test_percentile_clamps_what_is_brighter() -> None:
    values = np.linspace(0, 100, 1001)
    intensity = fit_intensity(values, "percentile", 90)
    assert intensity.high == pytest.approx(90)
    assert intensity.encode(np.array([95.0, 90.0, 45.0, -3.0])).tolist() == pytest.approx([1, 1, 0, -0.99978], abs=1e-4)


def test_images_that_cannot_be_scaled() -> None:
    from zoo.errors import DataError

    with pytest.raises(DataError, match="image is empty"):
        fit_intensity(np.zeros((4, 4, 4)))
    with pytest.raises(DataError, match="of the voxels are negative, down to -3"):
        fit_intensity(np.linspace(-3, 3, 100))
