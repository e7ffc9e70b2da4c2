"""Metrics against scikit-image and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import structural_similarity

from zoo.errors import DataError
from zoo.metrics.image import MAX_PSNR, inpainting_metrics, masked_mean, ssim_map
from zoo.metrics.lpips import load_lpips
from zoo.metrics.statistics import mean_interval


@pytest.mark.parametrize("shape", [(17, 23), (9, 12, 10)])
def test_ssim_is_scikit_images(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, shape)
    second = np.clip(first + rng.normal(0, 0.2, shape), -1, 1)
    _, expected = structural_similarity(first, second, data_range=2, win_size=7, full=True)
    ours = ssim_map(torch.from_numpy(first)[None, None], torch.from_numpy(second)[None, None])
    assert np.allclose(ours[0, 0].numpy(), expected, atol=1e-8)


def test_inpainting_metrics_by_hand() -> None:
    truth = torch.zeros(2, 1, 10, 10)
    filled = truth.clone()
    mask = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    mask[:, :, 2:4, 2:4] = True
    filled[0][mask[0]] = 0.2
    measured = inpainting_metrics(filled, truth, mask)
    assert measured["mse_in"].tolist() == pytest.approx([0.04, 0])
    assert measured["mse_out"].tolist() == [0, 0]
    assert measured["mse_full"].tolist() == pytest.approx([0.04 * 4 / 100, 0])
    assert measured["psnr_in"].tolist() == pytest.approx([20, MAX_PSNR])  # 10 log10(4 / 0.04)
    assert measured["ssim_full"][1] == pytest.approx(1)
    assert measured["ssim_in"][0] < measured["ssim_out"][0] < 1
    assert masked_mean(filled[:1], mask[:1]).item() == pytest.approx(0.2)


def test_parts_of_the_mask_are_measured_alone() -> None:
    truth = torch.zeros(2, 1, 10, 10)
    filled = truth.clone()
    mask, part = torch.zeros(2, 2, 1, 10, 10, dtype=torch.bool)
    mask[:, :, 2:4, 2:4] = True
    part[0, :, 2, 2] = True
    filled[0, 0, 2, 2] = 0.2
    measured = inpainting_metrics(filled, truth, mask, {"small": part})
    assert measured["mse_in"].tolist() == pytest.approx([0.01, 0])
    assert measured["mse_small"].tolist() == pytest.approx([0.04, float("nan")], nan_ok=True)
    assert measured["psnr_small"][0] == pytest.approx(20)
    assert measured["ssim_small"].isnan().tolist() == [False, True]


def test_masks_with_nothing_to_compare_are_refused() -> None:
    image = torch.zeros(1, 1, 10, 10)
    for mask in (torch.zeros_like(image).bool(), torch.ones_like(image).bool()):
        with pytest.raises(DataError, match="empty or covers"):
            inpainting_metrics(image, image, mask)
    with pytest.raises(DataError, match="sides of at least 7"):
        ssim_map(torch.zeros(1, 1, 5, 9), torch.zeros(1, 1, 5, 9))
    with pytest.raises(DataError, match="cannot be compared"):
        ssim_map(torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 10))


def test_interval_is_students() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert (interval.mean, interval.n) == (2.5, 4)
    assert interval.high == pytest.approx(2.5 + 3.18245 * 1.29099 / 2, abs=1e-4)
    assert mean_interval([2.0]).low is None
    with pytest.raises(DataError):
        mean_interval([])


def test_lpips_takes_local_weights_and_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    network = alexnet(weights=None)
    save_file(network.state_dict(), tmp_path / "alexnet.safetensors")
    lpips = load_lpips(tmp_path / "alexnet.safetensors")
    image = torch.rand(2, 1, 64, 80) * 2 - 1
    assert lpips(image, image).tolist() == [0, 0]
    assert (lpips(image, -image) > 0).all()
    # A trunk that stayed random would differ from one loading to the next.
    assert torch.equal(lpips(image, -image), load_lpips(tmp_path / "alexnet.safetensors")(image, -image))
    with pytest.raises(DataError, match=r"\[B, 1 or 3, H, W\]"):
        lpips(image.expand(-1, 2, -1, -1), image.expand(-1, 2, -1, -1))
    with pytest.raises(DataError, match="at least 64 pixels"):
        lpips(image[..., :32], image[..., :32])

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"no alexnet-owt-7be5be79.pth in .*--lpips-weights FILE"):
        load_lpips()
    with pytest.raises(DataError, match=r"there is no absent\.safetensors"):
        load_lpips(tmp_path / "absent.safetensors")
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    with pytest.raises(DataError, match=r"may hold code.*, or alexnet-owt-7be5be79\.pth as it was published"):
        load_lpips(tmp_path / "alexnet.pth")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="not AlexNet's weights"):
        load_lpips(tmp_path / "other.safetensors")
