"""Perceptual distances against the packages they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.errors import ConfigError, DataError, UnknownNameError
from zoo.metrics.perceptual import in_threes, load_distance
from zoo.system.files import sha256


def test_channels_are_taken_in_threes() -> None:
    def told(channels: int) -> list[list[int]]:
        image = torch.arange(channels).float()[None, :, None, None].expand(1, channels, 8, 8)
        return in_threes(image)[:, :, 0, 0].int().tolist()

    assert told(1) == [[0, 0, 0]]
    assert told(2) == [[0, 1, 1]]
    assert told(3) == [[0, 1, 2]]
    assert told(4) == [[0, 1, 2], [3, 3, 3]]
    assert in_threes(torch.zeros(2, 4, 8, 6, 5)).shape == (2 * 5 * 2, 3, 8, 6)
    assert in_threes(torch.zeros(1, 1, 512, 300)).shape == (1, 3, 256, 150)


@pytest.mark.parametrize("loss", ["ssim+l2", "feature:resnet10t"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 40), (2, 4, 32, 40), (2, 2, 32, 32, 8)])
def test_distances_are_each_images_own(loss: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = torch.rand(shape) * 2 - 1
    near, far = (target + 0.05 * torch.randn(shape), torch.rand(shape) * 2 - 1)
    found = load_distance(loss, None)
    compare = found.measure(target)
    assert torch.allclose(compare(target), torch.zeros(2), atol=1e-5)
    assert bool((compare(near) < compare(far)).all())
    assert torch.allclose(compare(near)[1:], found.measure(target[1:])(near[1:]), atol=1e-5)
    moving = near.clone().requires_grad_()
    compare(moving).sum().backward()
    assert moving.grad is not None
    assert bool(moving.grad.isfinite().all())
    assert float(moving.grad.abs().sum()) > 0
    assert found.name == ("1 - SSIM + mean square" if loss == "ssim+l2" else f"{loss}, random weights of seed 0")


def test_lpips_is_the_packages(tmp_path: Path) -> None:
    import lpips

    torch.manual_seed(0)
    reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    trunk = {f"features.{name.partition('.')[2]}": tensor for name, tensor in reference.net.state_dict().items()}
    file = tmp_path / "vgg16.safetensors"
    save_file(trunk, file)
    first, second = torch.rand(2, 3, 32, 40) * 2 - 1, torch.rand(2, 3, 32, 40) * 2 - 1
    found = load_distance("lpips", file)
    with torch.no_grad():
        assert torch.allclose(found.measure(second)(first), reference(first, second).flatten(), rtol=1e-4)
    assert found.weights_sha256 == sha256(file)
    save_file({"features.0.weight": trunk["features.0.weight"]}, file)
    with pytest.raises(DataError, match="does not hold VGG16's weights"):
        load_distance("lpips", file)


def test_a_timm_network_takes_its_own_weights(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    file = tmp_path / "mine.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), file)
    image = torch.rand(1, 1, 32, 40)
    given, drawn = (load_distance("feature:resnet10t", path) for path in (file, None))
    assert given.name == "feature:resnet10t, weights of mine.safetensors"
    assert given.weights_sha256 == sha256(file)
    assert not torch.allclose(given.measure(image)(-image), drawn.measure(image)(-image))


@pytest.mark.parametrize(
    ("loss", "weights", "error", "words"),
    [
        ("lpips", None, DataError, r"no vgg16-397923af.pth.*--weights FILE.*ssim\+l2"),
        ("lpips", "absent.safetensors", DataError, "no absent.safetensors"),
        ("feature:resnet19", None, UnknownNameError, "Did you mean.*resnet18"),
        ("feature:resnet18", "absent.safetensors", DataError, "no .*absent.safetensors"),
        ("ssim+l2", "absent.safetensors", ConfigError, "leave --weights out"),
        ("dice", None, ConfigError, "use lpips, feature:NAME or"),
    ],
)
def test_a_distance_that_cannot_be_is_refused(
    loss: str, weights: str | None, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(error, match=words):
        load_distance(loss, tmp_path / weights if weights else None)
