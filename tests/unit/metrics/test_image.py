"""Metrics against scikit-image and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zoo.errors import DataError
from zoo.metrics.image import FILLED_WINDOW, MAX_PSNR, fully_inside, inpainting_metrics, masked_mean, psnr, ssim_map
from zoo.metrics.lpips import load_lpips
from zoo.metrics.statistics import FEWEST_SUBJECTS, bootstrap_interval, mean_interval, paired_difference


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


def _discs(radius: float, count: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(48) - 24, torch.arange(48) - 24, indexing="ij")
    return (rows**2 + columns**2 < radius**2).expand(count, 1, 48, 48)


def test_ssim_of_filled_voxels_knows_neither_the_surroundings_nor_the_size() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = 0.2 * torch.randn((500, 1, 48, 48), generator=generator)
    noisy = truth + 0.06 * torch.randn(truth.shape, generator=generator)  # 30 dB
    filled, thesis = [], []
    for radius in (3, 5, 15):
        mask = _discs(radius, len(truth))
        pasted = inpainting_metrics(torch.where(mask, noisy, truth), truth, mask)
        whole = inpainting_metrics(noisy, truth, mask)
        assert torch.equal(pasted["ssim_filled"], whole["ssim_filled"])
        filled.append(pasted["ssim_filled"].mean().item())
        thesis.append((pasted["ssim_in"].mean() - whole["ssim_in"].mean()).item())
    assert max(filled) - min(filled) < 0.01
    assert thesis[0] > 3 * thesis[2] > 0  # what pasting back lifts is lifted most in small lesions


def test_windows_of_filled_voxels_lie_inside_whole() -> None:
    mask = torch.zeros(3, 1, 12, 12, dtype=torch.bool)
    mask[0, :, 2:7, 3:7] = True
    mask[1, :, :2, :5] = True  # at the edge of the slice, and too thin
    mask[2, :, 4:6, 4:6] = True
    assert fully_inside(mask, FILLED_WINDOW).flatten(1).sum(1).tolist() == [6, 0, 0]
    assert fully_inside(mask, FILLED_WINDOW)[0, 0, 3:6, 4:6].all()
    measured = inpainting_metrics(torch.zeros(3, 1, 12, 12), torch.zeros(3, 1, 12, 12), mask, {"small": mask})
    assert measured["ssim_filled"].isnan().tolist() == [False, True, True]
    assert measured["ssim_filled_small"][0] == pytest.approx(1)


def test_interval_is_students() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (interval.mean, interval.n) == (3, 5)
    assert interval.high == pytest.approx(3 + 2.77645 * 1.58114 / 5**0.5, abs=1e-4)
    with pytest.raises(DataError):
        mean_interval([])


def test_few_subjects_have_no_interval() -> None:
    for count in range(1, FEWEST_SUBJECTS):
        interval = mean_interval([0.1 * n for n in range(count)], lower=-1, upper=1)
        assert (interval.low, interval.high, interval.n) == (None, None, count)
        assert bootstrap_interval(lambda rows: float(rows.mean()), [str(n) for n in range(count)]) is None


def test_bounded_figures_have_bounded_intervals() -> None:
    ssim = [0.99, 0.98, 0.999, 0.3, 0.95, 0.99]
    plain, bounded = mean_interval(ssim), mean_interval(ssim, lower=-1, upper=1)
    assert plain.high is not None
    assert bounded.high is not None
    assert bounded.low is not None
    assert plain.high > 1 > bounded.high > bounded.mean == plain.mean > bounded.low > -1
    mse = mean_interval([0.001, 0.0, 0.3, 0.01, 0.002], lower=0)
    assert mse.low is not None
    assert 0 < mse.low < mse.mean
    # Far from the bounds it is Student's.
    near = mean_interval([0.01, 0.02, 0.03, 0.0, -0.01], lower=-1, upper=1)
    assert near.low == pytest.approx(mean_interval([0.01, 0.02, 0.03, 0.0, -0.01]).low, abs=1e-3)
    same = mean_interval([1.0] * 5, lower=-1, upper=1)
    assert (same.low, same.high) == (1, 1)
    with pytest.raises(DataError, match=r"is 1\.5, but must lie within 0 … 1"):
        mean_interval([0.5, 1.5], lower=0, upper=1)


@pytest.mark.parametrize(("upper", "draw"), [(1, lambda r: r.beta(5, 2, 6)), (None, lambda r: r.gamma(4, 0.25, 6))])
def test_bounded_intervals_hold_the_mean_as_often_as_they_say(upper, draw) -> None:
    rng = np.random.default_rng(0)
    true = 5 / 7 if upper else 1.0
    intervals = [mean_interval(draw(rng).tolist(), lower=0, upper=upper) for _ in range(2000)]
    held = np.mean([one.low <= true <= one.high for one in intervals])  # type: ignore[operator]
    assert 0.92 < held < 0.97


def test_differences_are_taken_within_subjects() -> None:
    # Subjects differ by far more than the methods do: unpaired intervals overlap, the difference is plain.
    theirs = {f"sub-{n}": 0.1 * n for n in range(6)}
    ours = {subject: value + 0.01 + 0.001 * (n % 2) for n, (subject, value) in enumerate(theirs.items())}
    paired = paired_difference({**ours, "sub-x": 9.0}, theirs, "higher")
    assert (paired.won, paired.difference.n) == (6, 6)
    assert paired.difference.mean == pytest.approx(0.0105)
    assert paired.difference.low == pytest.approx(0.0105, abs=0.001)
    assert paired_difference(ours, theirs, "lower").won == 0
    ratio = paired_difference({"a": 1.1, "b": 0.5}, {"a": 0.8, "b": 1.4}, "nearer 1")
    assert ratio.difference.mean == pytest.approx((-0.1 + 0.1) / 2)
    assert ratio.won == 1
    with pytest.raises(DataError, match="without a subject in common"):
        paired_difference({"a": 1.0}, {"b": 1.0}, "higher")


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
    with pytest.raises(DataError, match=r"may hold code.*, or the published alexnet-owt-7be5be79\.pth"):
        load_lpips(tmp_path / "alexnet.pth")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="does not hold AlexNet's weights"):
        load_lpips(tmp_path / "other.safetensors")


def test_psnr_is_that_of_scikit_image_and_bounded() -> None:
    random = np.random.default_rng(0)
    truth, found = random.uniform(-1, 1, (2, 8, 8))
    mse = torch.tensor(np.square(found - truth).mean())
    assert float(psnr(mse)) == pytest.approx(peak_signal_noise_ratio(truth, found, data_range=2))
    assert float(psnr(torch.tensor(0.0))) == MAX_PSNR
