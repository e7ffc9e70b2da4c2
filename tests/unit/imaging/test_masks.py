"""Masks: growth within white matter, circles, lesions of one subject on another."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from zoo.imaging.geometry import Grid
from zoo.imaging.masks import circle, dilate_within, lay_lesions


def test_dilation_stays_in_white_matter() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    white = np.zeros_like(mask)
    white[4:] = True
    grown = dilate_within(mask, white, 1)
    assert grown.sum() == 2 * 9
    assert dilate_within(mask, white, 0) is mask
    assert dilate_within(mask, ~white, 2).sum() == 1 + 2 * 25


def test_circle_is_strict() -> None:
    assert circle((5, 5), (2, 2), 1).sum() == 1
    assert circle((5, 5), (2, 2), 1.01).sum() == 5
    assert circle((4, 8), (0, 7), 1.5)[0, 7]


def test_dilation_keeps_the_lesion_and_adds_white_matter_only() -> None:
    rng = np.random.default_rng(0)
    lesion, white = rng.random((12, 13, 14)) < 0.02, rng.random((12, 13, 14)) < 0.6
    for voxels in (1, 2, 3):
        grown = dilate_within(lesion, white, voxels)
        assert grown[lesion].all()
        assert white[grown & ~lesion].all()
        near = ndimage.distance_transform_cdt(~lesion, "chessboard") <= voxels
        assert np.array_equal(grown, lesion | (near & white))


def test_lesions_of_another_subject_are_cut_to_white_matter_and_numbered() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[2:4, 2:4, 2:4] = True
    mask[7, 7, 5:7] = True
    mask[0, 0, 9] = True  # not in white matter
    shifted = np.eye(4)
    shifted[:3, 3] = (1, 0, 0)  # the mask lies one voxel further right in the world
    white = np.ones((10, 10, 10), bool)
    white[9] = False
    laid = lay_lesions(mask, shifted, Grid((10, 10, 10), np.eye(4)), white)
    assert len(np.unique(laid.labels)) == 2
    expected = np.roll(mask, 1, axis=0)
    expected[:, :, 9] = False
    assert np.array_equal(laid.as_mask((10, 10, 10)), np.moveaxis(expected, 2, 0))
    assert set(laid.between(5, 7).voxels[:, 0]) == {5, 6}
    first = laid.only(np.array([1]))
    assert len(first.voxels) == 8
    assert set(first.labels) == {1}


def test_lesions_that_touch_at_an_edge_only_are_two() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 1, 1] = mask[2, 2, 1] = mask[2, 2, 2] = True
    laid = lay_lesions(mask, np.eye(4), Grid((6, 6, 6), np.eye(4)), np.ones((6, 6, 6), bool))
    assert sorted(np.bincount(laid.labels).tolist()) == [0, 1, 2]
    assert laid.voxels.dtype == laid.labels.dtype == np.int32
    assert laid.voxels.tolist() == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]


def test_parts_of_laid_lesions() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((8, 9, 10)) < 0.1
    laid = lay_lesions(mask, np.eye(4), Grid(mask.shape, np.eye(4)), np.ones((10, 8, 9), bool))
    slices_first = np.moveaxis(mask, 2, 0)
    part = np.zeros_like(slices_first)
    part[3:6] = slices_first[3:6]
    assert np.array_equal(laid.between(3, 6).as_mask(part.shape), part)
    assert len(laid.between(6, 6).voxels) == len(laid.between(20, 30).labels) == 0
    assert not laid.between(20, 30).as_mask(part.shape).any()

    numbered, count = ndimage.label(slices_first)
    chosen = np.array([2, count])
    assert np.array_equal(laid.only(chosen).as_mask(part.shape), np.isin(numbered, chosen))
    both = laid.only(chosen).between(0, 5)
    assert np.array_equal(both.as_mask(part.shape)[:5], np.isin(numbered, chosen)[:5])


def test_lesions_land_by_world_coordinates_on_another_spacing() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[4, 6, 2] = True  # at (4, 6, 2) mm
    coarse = Grid((5, 5, 5), np.diag([2.0, 2.0, 2.0, 1.0]))
    laid = lay_lesions(mask, np.eye(4), coarse, np.ones((5, 5, 5), bool))
    assert laid.voxels.tolist() == [[1, 2, 3]]
    nothing = lay_lesions(mask, np.eye(4), coarse, np.zeros((5, 5, 5), bool))
    assert nothing.voxels.shape == (0, 3)
