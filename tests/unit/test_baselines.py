"""The classic fillers do what their papers say."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.restoration import inpaint_biharmonic

from zoo.errors import DataError
from zoo_lesion_diffusion.baselines import biharmonic_fill, neighbour_fill


def _image() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    i, j, k = np.meshgrid(np.arange(40), np.arange(36), np.arange(5), indexing="ij")
    image = (100 + 2 * i + 3 * j + k + rng.normal(0, 1, i.shape)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[10:14, 12:17, 1:3] = True
    mask[20:22, 30:36, 2] = True  # at the edge
    mask[16:18, 18:20, 2] = True  # its rim meets the first hole's
    return image, mask


def test_biharmonic_gives_the_whole_slices_values() -> None:
    image, mask = _image()
    filled = biharmonic_fill(image, mask)
    for index in (1, 2):
        whole = inpaint_biharmonic(*(np.ascontiguousarray(array[:, :, index]) for array in (image.astype(float), mask)))
        assert np.allclose(filled[:, :, index], whole, atol=0.05)
    assert np.array_equal(filled[~mask], image[~mask])
    assert filled.dtype == image.dtype


def test_biharmonic_fills_each_hole_once() -> None:
    rng = np.random.default_rng(3)
    i, j = np.meshgrid(np.arange(70.0), np.arange(70.0), indexing="ij")
    image = (100 + 40 * np.sin(i / 9) + 30 * np.cos(j / 7) + rng.normal(0, 1, i.shape))[..., None]
    mask = np.zeros(image.shape, bool)
    mask[np.arange(10, 50), np.arange(10, 50)] = True  # a diagonal, whose box holds the other hole
    mask[12:22, 34:48] = True
    whole = inpaint_biharmonic(np.ascontiguousarray(image[..., 0]), np.ascontiguousarray(mask[..., 0]))
    assert np.abs(biharmonic_fill(image, mask)[..., 0] - whole).max() < 3


def test_slices_without_white_matter_take_the_volumes() -> None:
    image = np.random.default_rng(0).normal(700, 10, (20, 20, 2))
    mask = np.zeros(image.shape, bool)
    mask[5:8, 5:8] = True
    white = np.ones(image.shape, bool)
    white[..., 1] = False
    filled = neighbour_fill(image, mask, white, np.random.default_rng(0))
    assert filled[..., 1][mask[..., 1]].mean() == pytest.approx(700, abs=10)


def test_biharmonic_continues_a_plane() -> None:
    i, j = np.meshgrid(np.arange(30.0), np.arange(30.0), indexing="ij")
    image = (5 + 2 * i - j)[..., None]
    mask = np.zeros(image.shape, bool)
    mask[12:17, 10:16] = True
    assert np.allclose(biharmonic_fill(np.where(mask, 0, image), mask), image, atol=1e-6)


def test_neighbours_have_the_slices_mean_and_half_its_spread() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(500, 40, (60, 60, 2))
    image[..., 1] += 100
    white = np.ones(image.shape, bool)
    mask = np.zeros(image.shape, bool)
    mask[10:50, 10:50] = True
    filled = neighbour_fill(image, mask, white, np.random.default_rng(2))
    for index, mean in ((0, 500), (1, 600)):
        values = filled[10:50, 10:50, index]
        assert values.mean() == pytest.approx(mean, abs=5)
        assert values.std() == pytest.approx(20, abs=2)
    assert np.array_equal(filled[~mask], image[~mask])
    assert np.array_equal(filled, neighbour_fill(image, mask, white, np.random.default_rng(2)))


def test_neighbours_without_a_segmentation_take_the_bright_ring() -> None:
    image = np.full((30, 30, 3), 800.0)
    image[:, :14] = 300
    mask = np.zeros(image.shape, bool)
    mask[14:17, 14:17, 1] = True
    filled = neighbour_fill(image, mask, None, np.random.default_rng(0))
    assert np.allclose(filled[mask], 800)


def test_no_white_matter_to_fill_from() -> None:
    image, mask = _image()
    with pytest.raises(DataError, match="no white matter besides the lesions"):
        neighbour_fill(image, mask, mask, np.random.default_rng(0))
