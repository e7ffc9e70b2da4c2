"""MS-SSIM of pairs of images, in two and three dimensions."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import DataError
from zoo.metrics import diversity
from zoo.metrics.diversity import pair_ms_ssim, scales_of

SIZES = pytest.mark.parametrize("size", [(64, 64), (28, 24, 22)])


def _images(count: int, size: tuple[int, ...], channels: int = 2) -> torch.Tensor:
    smooth = torch.nn.functional.interpolate
    coarse = torch.rand(count, channels, *[side // 4 for side in size], generator=torch.Generator().manual_seed(1))
    return smooth(coarse, size) * 2 - 1


@SIZES
def test_equal_images_are_1_and_mixtures_lie_between(size: tuple[int, ...]) -> None:
    images = _images(2, size)
    images = torch.cat([images, 0.7 * images[:1] + 0.3 * images[1:]])
    same, mixed, other = pair_ms_ssim(images, torch.tensor([[0, 0], [0, 2], [0, 1]])).tolist()
    assert same == pytest.approx(1, abs=1e-5)
    assert 0 <= other < mixed < 0.99


@SIZES
def test_each_pair_is_measured_by_itself(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images = _images(4, size)
    pairs = torch.tensor([[0, 1], [2, 3], [1, 0]])
    together = pair_ms_ssim(images, pairs)
    assert torch.allclose(together[0], together[2], atol=1e-5)
    monkeypatch.setattr(diversity, "_BATCH", 2)
    assert torch.allclose(together, pair_ms_ssim(images, pairs), atol=1e-5)


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (16, 1), (32, 2), (64, 3), (90, 3), (98, 3), (99, 4), (175, 4), (176, 5), (256, 5)]
)
def test_small_images_have_fewer_scales(side: int, scales: int) -> None:
    assert scales_of((side, 300)) == scales
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert pair_ms_ssim(images, torch.tensor([[0, 0]])).tolist() == pytest.approx([1], abs=1e-5)


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(DataError, match="10 x 64 are too small for MS-SSIM; each side needs 11"):
        pair_ms_ssim(torch.zeros(2, 1, 10, 64), torch.tensor([[0, 1]]))


def test_no_pairs_have_no_values() -> None:
    assert pair_ms_ssim(_images(2, (64, 64)), torch.zeros(0, 2, dtype=torch.int64)).shape == (0,)
