"""Masks: growth within white matter, circles, lesions of one subject on another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from zoo.errors import DataError
from zoo.imaging.geometry import Grid
from zoo.imaging.masks import circle, dilate_within, estimate_white_matter, lay_lesions


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


def test_white_matter_is_estimated_with_the_rim_of_lesions() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((40, 40, 12))
    image[4:36, 4:36] = 300  # fluid
    image[7:33, 7:33] = 550  # grey
    image[10:30, 10:30] = 800  # white
    lesion = np.zeros(image.shape, bool)
    lesion[18:22, 18:22, 4:8] = True
    rim = ndimage.binary_dilation(lesion, np.ones((3, 3, 3)))
    image[rim] = 600
    image[lesion] = 450
    white = estimate_white_matter(image + rng.normal(0, 10, image.shape), lesion)
    assert white[rim].all()
    assert not white[image == 300].any()
    assert white[image == 800].mean() > 0.95
    with pytest.raises(DataError, match="--wm FILE"):
        estimate_white_matter(np.zeros((5, 5, 5)), np.zeros((5, 5, 5), bool))


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
