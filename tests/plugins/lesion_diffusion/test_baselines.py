"""The classic fillers follow their papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic

from zoo.config import MethodConfig
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.registry import registry
from zoo.tasks import FillOptions
from zoo_lesion_diffusion.baselines import biharmonic_2d3d, biharmonic_fill, biharmonic_fill_3d, neighbour_fill


def _image() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    i, j, k = np.meshgrid(np.arange(40), np.arange(36), np.arange(5), indexing="ij")
    image = (100 + 2 * i + 3 * j + k + rng.normal(0, 1, i.shape)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[10:14, 12:17, 1:3] = True
    mask[20:22, 30:36, 2] = True  # at the edge
    mask[16:18, 18:20, 2] = True  # its rim meets the first hole's
    return image, mask


def _biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return `biharmonic_fill` of one channel ``[i, j, k]``."""
    return np.moveaxis(biharmonic_fill(np.moveaxis(image, 2, 0)[None], np.moveaxis(mask, 2, 0))[0], 0, 2)


def _neighbour(image: np.ndarray, mask: np.ndarray, white: np.ndarray | None, seed: int) -> np.ndarray:
    """Return `neighbour_fill` of one channel ``[i, j, k]``."""
    tissue = None if white is None else np.moveaxis(white, 2, 0)
    filled = neighbour_fill(
        np.moveaxis(image, 2, 0)[None], np.moveaxis(mask, 2, 0), tissue, np.random.default_rng(seed)
    )
    return np.moveaxis(filled[0], 0, 2)


def test_biharmonic_equals_scikit_images() -> None:
    image, mask = _image()
    mask[0:3, 0:2, 1] = True  # a corner
    filled = _biharmonic(image.astype(np.float64), mask)
    for index in (1, 2):
        whole = inpaint_biharmonic(*(np.ascontiguousarray(array[:, :, index]) for array in (image.astype(float), mask)))
        inner = np.s_[3:-3, 3:-3]  # at the edge scikit-image mirrors each stencil, not the image
        assert np.allclose(filled[:, :, index][inner], whole[inner], atol=1e-8)
    assert np.array_equal(filled[~mask], image[~mask])


def test_biharmonic_fills_each_channel_and_keeps_the_type() -> None:
    image, mask = _image()
    together = biharmonic_fill(np.moveaxis(np.stack([image, -image]), 3, 1), np.moveaxis(mask, 2, 0))
    assert together.dtype == np.float32
    assert np.array_equal(np.moveaxis(together[0], 0, 2), _biharmonic(image, mask))
    assert np.allclose(together[0], -together[1])


def test_biharmonic_in_three_dimensions_equals_scikit_images() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (1, 14, 16, 15))
    mask = np.zeros(image.shape[1:], bool)
    mask[4:7, 4:8, 5:9] = True
    mask[8, 9:11, 5:7] = True  # another hole, whose equations share voxels with the first's
    mask[10:12, 4:6, 9:11] = True
    filled = biharmonic_fill_3d(image, mask)
    assert np.allclose(filled[0], inpaint_biharmonic(np.where(mask, 0, image[0]), mask), atol=1e-4)
    assert np.array_equal(filled[:, ~mask], image[:, ~mask])
    with pytest.raises(DataError, match="covers all of the image"):
        biharmonic_fill_3d(image, np.ones_like(mask))


def test_the_mean_of_both_fills_is_a_method_and_keeps_known_voxels() -> None:
    image, mask = _image()
    method = registry().methods["biharmonic-2d3d-filling"]
    assert resolve(method.task("fill").run) is biharmonic_2d3d
    volume, hole = torch.from_numpy(image)[None], torch.from_numpy(mask)
    filled = biharmonic_2d3d({}, MethodConfig(), volume, hole, FillOptions())
    flat = _biharmonic(image, mask)
    solid = np.moveaxis(biharmonic_fill_3d(np.moveaxis(image, 2, 0)[None], np.moveaxis(mask, 2, 0))[0], 0, 2)
    assert filled.dtype == torch.float32
    assert np.allclose(filled[0].numpy()[mask], (flat + solid)[mask] / 2)
    assert np.array_equal(filled[0].numpy()[~mask], image[~mask])


def test_half_faded_slices_are_no_neighbours_of_the_3d_fill() -> None:
    image = np.full((20, 20, 8), 0.4, np.float32)
    image[..., 0] = image[..., 7] = -0.3  # half as bright
    mask = np.zeros(image.shape, bool)
    mask[6:12, 6:12, 5:7] = True
    hole = torch.from_numpy(mask)
    filled = biharmonic_2d3d({}, MethodConfig(), torch.from_numpy(image)[None], hole, FillOptions())
    assert torch.allclose(filled[0][hole], torch.tensor(0.4), atol=1e-4)


def test_a_slice_without_known_voxels_is_refused() -> None:
    mask = np.zeros((3, 4, 5), bool)
    mask[1] = True
    with pytest.raises(DataError, match="all of slice 1"):
        biharmonic_fill(np.zeros((1, 3, 4, 5)), mask)


def test_slices_without_white_matter_take_that_of_the_volume() -> None:
    image = np.random.default_rng(0).normal(700, 10, (20, 20, 2))
    mask = np.zeros(image.shape, bool)
    mask[5:8, 5:8] = True
    white = np.ones(image.shape, bool)
    white[..., 1] = False
    filled = _neighbour(image, mask, white, 0)
    assert filled[..., 1][mask[..., 1]].mean() == pytest.approx(700, abs=10)


def test_biharmonic_continues_a_plane() -> None:
    i, j = np.meshgrid(np.arange(30.0), np.arange(30.0), indexing="ij")
    image = (5 + 2 * i - j)[..., None]
    mask = np.zeros(image.shape, bool)
    mask[12:17, 10:16] = True
    assert np.allclose(_biharmonic(np.where(mask, 0, image), mask), image, atol=1e-6)


def test_neighbours_have_the_slices_mean_and_half_its_deviation() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(500, 40, (60, 60, 2))
    image[..., 1] += 100
    white = np.ones(image.shape, bool)
    mask = np.zeros(image.shape, bool)
    mask[10:50, 10:50] = True
    filled = _neighbour(image, mask, white, 2)
    for index, mean in ((0, 500), (1, 600)):
        values = filled[10:50, 10:50, index]
        assert values.mean() == pytest.approx(mean, abs=5)
        assert values.std() == pytest.approx(20, abs=2)
    assert np.array_equal(filled[~mask], image[~mask])
    assert np.array_equal(filled, _neighbour(image, mask, white, 2))


def test_neighbours_without_a_segmentation_take_the_bright_ring() -> None:
    image = np.full((30, 30, 3), 800.0)
    image[:, :14] = 300
    mask = np.zeros(image.shape, bool)
    mask[14:17, 14:17, 1] = True
    filled = _neighbour(image, mask, None, 0)
    assert np.allclose(filled[mask], 800)


def test_an_image_without_white_matter_is_refused() -> None:
    image, mask = _image()
    with pytest.raises(DataError, match="no white matter outside the lesions"):
        _neighbour(image, mask, mask, 0)
