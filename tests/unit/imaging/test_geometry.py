"""Grids: conform like nibabel, bit-exact where nothing has to be interpolated."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import conform, resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

from zoo.imaging.geometry import Grid, model_grid, to_grid, to_native

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
    assert np.allclose(grid.affine[:3, :3], expected.affine[:3, :3], atol=1e-4)
    # nibabel takes voxel (n - 1) // 2 for the middle of either grid, which is off by half a voxel where n is even.
    farthest = (np.linalg.norm(spacing) + np.linalg.norm([wanted] * 3)) / 2
    assert np.linalg.norm(grid.affine[:3, 3] - expected.affine[:3, 3]) <= farthest + 1e-4


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


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(-30, 30)] * 3), st.sampled_from(["constant", "nearest"]))
def test_moving_equals_interpolating(seed: int, shift: tuple[int, int, int], beyond: str) -> None:
    rng = np.random.default_rng(seed)
    data = rng.random(SHAPE).astype(np.float32)
    turn = np.eye(4)
    turn[:3, :3] = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    turn[:3, 3] = np.array(shift) // rng.integers(1, 5)
    shape = (11, 8, 13)
    if beyond == "constant":
        moved = to_grid(data, np.eye(4), Grid(shape, turn), fill=-7)
    else:
        moved = to_native(data, Grid(SHAPE, np.eye(4)), shape, turn)
    expected = ndimage.affine_transform(data, turn[:3, :3], turn[:3, 3], shape, order=1, mode=beyond, cval=-7)
    assert np.allclose(moved, expected, atol=1e-6)
    assert np.isin(moved, [*data.ravel(), -7]).all()


def test_moving_keeps_the_type() -> None:
    for dtype in (bool, np.int16, np.float64):
        data = (np.random.default_rng(0).random(SHAPE) * 3).astype(dtype)
        affine = _affine(5, (1.0, 1.0, 1.0), 0.1)
        grid = model_grid(SHAPE, affine, 1.0)
        there = to_grid(data, affine, grid)
        assert there.dtype == dtype
        assert np.array_equal(to_native(there, grid, SHAPE, affine), data)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), spacings, spacings)
def test_resampling_goes_by_world_coordinates(seed: int, first: tuple, second: tuple) -> None:
    data = np.random.default_rng(seed).random(SHAPE)
    source, target = _affine(seed, first, 0.2), _affine(seed + 1, second, 0.2)
    target[:3, 3] = source[:3, :3] @ np.array(SHAPE) / 2 + source[:3, 3] - target[:3, :3] @ (4, 4, 4)  # same centre
    grid = Grid((8, 9, 7), target)
    expected = resample_from_to(nibabel.Nifti1Image(data, source), (grid.shape, grid.affine), order=1)
    between = _between_centres(source, grid)
    assert between.any()
    assert np.allclose(to_grid(data, source, grid)[between], expected.get_fdata()[between], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), spacings)
def test_model_grid_keeps_the_field_of_view(seed: int, spacing: tuple) -> None:
    affine = _affine(seed, spacing, 0.2)
    grid = model_grid(SHAPE, affine, 1.0)
    centres = [a @ [*(np.array(s) - 1) / 2, 1] for a, s in ((affine, SHAPE), (grid.affine, grid.shape))]
    assert np.allclose(centres[0], centres[1], atol=1e-6)
    turned = np.abs(nibabel.orientations.io_orientation(affine)[:, 0]).astype(int)
    extent = np.empty(3)
    extent[turned] = np.array(SHAPE) * spacing
    assert np.abs(np.array(grid.shape) - extent).max() <= 0.5 + 1e-6


def test_labels_stay_labels_between_unrelated_grids() -> None:
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.float32)
    grid = Grid((8, 8, 8), _affine(3, (1.3, 1.3, 1.3), 0.2))
    grid.affine[:3, 3] = 0
    source = _affine(4, (1.0, 1.0, 1.0), 0.1)
    source[:3, 3] = 0
    there = to_grid(labels, source, grid, order=0)
    assert set(np.unique(there)) <= {0, 1, 2, 3, 4}
    expected = resample_from_to(nibabel.Nifti1Image(labels, source), (grid.shape, grid.affine), order=0)
    between = _between_centres(source, grid)
    assert np.array_equal(there[between], expected.get_fdata()[between])


def _between_centres(affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the voxels of a grid that lie between an image's centres; past the outermost nibabel mixes in zeros."""
    ones = nibabel.Nifti1Image(np.ones(SHAPE), affine)
    return resample_from_to(ones, (grid.shape, grid.affine), order=1).get_fdata() > 1 - 1e-9


def test_edges_of_a_resampled_image_do_not_fade() -> None:
    affine = _affine(1, (0.7, 0.7, 2.5), 0.1)
    data = np.full(SHAPE, 100, np.float32)
    grid = model_grid(SHAPE, affine, 1.0)
    back = to_native(np.full(grid.shape, 100, np.float32), grid, SHAPE, affine)
    assert np.allclose(back, data)


def _ramp(grid: Grid) -> np.ndarray:
    """Return 500 + x + y + z in world coordinates."""
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return 500 + nibabel.affines.apply_affine(grid.affine, voxels).sum(axis=-1)


@pytest.mark.parametrize("spacing_mm", [2.0, 3.0])
def test_a_downsampled_image_has_no_dark_rim(spacing_mm: float) -> None:
    native = Grid((21, 24, 19), _affine(2, (0.9, 1.0, 1.1), 0.2))
    grid = model_grid(native.shape, native.affine, spacing_mm)
    back, expected = to_native(_ramp(grid), grid, native.shape, native.affine), _ramp(native)
    inner = (slice(5, -5),) * 3
    assert np.allclose(back[inner], expected[inner], atol=1e-6)  # trilinear is exact on a ramp
    # Beyond the outermost centres the nearest value is at most one voxel of the model along each axis away.
    assert 0 < np.abs(back - expected).max() < 3 * np.sqrt(3) * spacing_mm


@pytest.mark.parametrize("model_mm", [0.7, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_a_constant_image_comes_back_constant(model_mm: float) -> None:
    for thickness in (0.5, 1.0, 1.3, 2.0, 3.0, 4.0, 5.5, 7.0):
        for count in (1, 2, 3, 4, 7, 12, 18, 19):
            affine = np.diag([1.0, 1.0, thickness, 1.0])
            affine[:3, 3] = 3.3, -7.1, 0.4
            image = np.full((5, 4, count), 1000.0, np.float32)
            grid = model_grid(image.shape, affine, model_mm)
            there = to_grid(image, affine, grid)
            assert np.allclose(there, 1000), (thickness, count)
            assert np.allclose(to_native(there, grid, image.shape, affine), 1000), (thickness, count)


def test_an_oblique_constant_image_comes_back_constant() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (12, -7, 25), degrees=True).as_matrix() * (0.9, 0.9, 3.5)
    image = np.full((12, 9, 5), 1000.0, np.float32)
    grid = model_grid(image.shape, affine, 2.0)
    there = to_grid(image, affine, grid)
    assert np.allclose(there, 1000)
    assert np.allclose(to_native(there, grid, image.shape, affine), 1000)


@pytest.mark.parametrize("order", [0, 1])
def test_the_field_of_view_ends_half_a_voxel_past_the_outermost_centres(order: int) -> None:
    image = np.array([2.0, 4.0]).reshape(1, 1, 2)
    fine = np.diag([1.0, 1.0, 0.2, 1.0])
    fine[2, 3] = -0.95
    row = to_grid(image, np.eye(4), Grid((1, 1, 16), fine), order=order, fill=-1)[0, 0]
    places = -0.95 + 0.2 * np.arange(16)
    outside = (places < -0.5) | (places > 1.5)
    assert (row[outside] == -1).all()
    assert (row[(places < 0) & ~outside] == 2).all()
    assert (row[(places > 1) & ~outside] == 4).all()


def test_the_outermost_slice_is_seen_whole() -> None:
    image = np.zeros((6, 6, 4), np.float32)
    image[:, :, 0] = 900
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    grid = model_grid(image.shape, affine, 1.0)
    there = to_grid(image, affine, grid)
    assert np.allclose(there[:, :, :2], 900)
    assert np.allclose(to_native(there, grid, image.shape, affine)[:, :, 0], 900)


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 3.0), (2.0, 1.5, 1.0)])
def test_three_spacings_are_along_the_axes_of_the_model(wanted: tuple[float, float, float]) -> None:
    affine = np.array([[0.0, 0, -1.2, 30], [-1.1, 0, 0, 20], [0, 0.9, 0, -10], [0, 0, 0, 1]])  # stored as P, S, L
    shape = (40, 44, 36)
    grid = model_grid(shape, affine, wanted)
    assert grid.spacing_mm == pytest.approx(wanted)
    assert "".join(nibabel.aff2axcodes(grid.affine)) == "RAS"
    native_mm = (1.2, 1.1, 0.9)
    expected = [round(count * mm / size) for count, mm, size in zip((36, 40, 44), native_mm, wanted, strict=True)]
    assert list(grid.shape) == expected
    centre = affine @ [*((np.array(shape) - 1) / 2), 1]
    assert np.allclose(grid.affine @ [*((np.array(grid.shape) - 1) / 2), 1], centre)


def test_there_and_back_on_an_anisotropic_grid() -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    i, j, k = np.indices((24, 26, 30))
    image = (3 * i + 2 * j + k).astype(np.float32)  # trilinear interpolation is exact on a plane
    grid = model_grid(image.shape, affine, (1.0, 2.0, 3.0))
    back = to_native(to_grid(image, affine, grid), grid, image.shape, affine)
    inner = (slice(2, -2), slice(2, -2), slice(3, -3))
    assert np.abs(back - image)[inner].max() < 1e-3
    same = model_grid(image.shape, np.diag([1.0, 1.0, 3.0, 1.0]), (1.0, 1.0, 3.0))
    assert same.shape == image.shape


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), spacings, st.floats(0, 0.3), st.tuples(*[st.integers(1, 24)] * 3))
def test_a_matrix_covers_the_images_own_field_of_view(seed: int, spacing: tuple, tilt: float, matrix: tuple) -> None:
    affine = _affine(seed, spacing, tilt)
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), affine))
    grid = model_grid(SHAPE, affine, None, matrix)
    assert grid.shape == matrix
    for corner in ((0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 1)):
        edges = [grid.affine @ [*(np.array(corner) * grid.shape - 0.5), 1],
                 image.affine @ [*(np.array(corner) * image.shape - 0.5), 1]]  # fmt: skip
        assert np.allclose(*edges, atol=1e-6)
    assert np.allclose(np.array(grid.spacing_mm) * matrix, np.array(image.header.get_zooms()) * image.shape, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), spacings, st.floats(0, 0.3))
def test_a_matrix_that_is_the_images_own_moves_values_only(seed: int, spacing: tuple, tilt: float) -> None:
    affine = _affine(seed, spacing, tilt)
    data = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, affine))
    grid = model_grid(SHAPE, affine, None, turned.shape)
    assert np.array_equal(to_grid(data, affine, grid), np.asarray(turned.dataobj))


def test_a_matrix_of_one_voxel_more_is_not_taken_for_the_same() -> None:
    # The voxel sizes differ by less than 0.001 mm.
    assert model_grid((300, 300, 20), np.diag([0.25, 0.25, 3, 1]), None, (301, 300, 20)).shape == (301, 300, 20)
