"""The fixed features measure what they name; networks take their weights from local files only."""

from __future__ import annotations

import io
import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import DataError, MissingExtraError, UnknownNameError
from zoo.metrics.backbones import timm_network
from zoo.metrics.features import load_extractor, texture_distance, texture_features


def _patches(count: int, seed: int, size: tuple[int, ...] = (24, 28), channels: int = 1) -> torch.Tensor:
    images = 0.2 * torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))
    images[:, :, :4] = -1
    return images.clamp(-1, 1)


# --- Texture. ---


def test_columns_belong_to_channels() -> None:
    images = _patches(3, 1, channels=3)
    features = texture_features(images)
    alone = [texture_features(images[:, channel : channel + 1]) for channel in range(3)]
    assert torch.equal(features, torch.cat(alone, dim=1))
    assert features.dtype == torch.float64


@pytest.mark.parametrize("size", [(24, 28), (12, 14, 10)])
def test_noisy_images_are_further_away_than_images_of_the_kind(size: tuple[int, ...]) -> None:
    real, alike = _patches(40, 1, size), _patches(40, 2, size)
    noisy = alike + 0.2 * torch.randn(alike.shape, generator=torch.Generator().manual_seed(3))
    assert texture_distance(real, noisy) > 5 * texture_distance(real, alike)


@pytest.mark.parametrize("shape", [(2, 24), (2, 24, 28), (2, 0, 24, 28), (0, 1, 24, 28), (2, 1, 4, 4, 4, 4)])
def test_texture_needs_channels_and_two_or_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\[B, C, H, W\] or \[B, C, X, Y, Z\], got"):
        texture_features(torch.zeros(shape))


def test_many_images_have_the_features_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    images = _patches(5, 1, channels=2)
    together = texture_features(images)
    monkeypatch.setattr("zoo.metrics.features.BATCH", 2)
    assert torch.equal(texture_features(images), together)


def test_a_diverged_generator_has_no_distance() -> None:
    real = _patches(3, 1)
    broken = real.clone()
    broken[0, 0, 0, 0] = torch.nan
    assert math.isnan(texture_distance(real, broken))
    with pytest.raises(DataError, match="NaN or infinite"):
        texture_features(broken)


def test_texture_is_an_extractor_of_any_number_of_channels() -> None:
    first, second = load_extractor("texture"), load_extractor("texture")
    assert first.channels is None
    assert first.digest == second.digest
    images = _patches(3, 1, channels=2)
    assert torch.equal(first.in_batches(images), texture_features(images))


# --- Networks of timm. ---


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """A file with weights of timm's smallest ResNet."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(5)
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)
    return file


def test_a_network_without_a_file_has_weights_of_seed_0() -> None:
    pytest.importorskip("timm")
    images = torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    first, second = (load_extractor("timm:test_resnet") for _ in range(2))
    assert first.name == "timm test_resnet, resized to 160 x 160 (bilinear, antialiased), random weights of seed 0"
    assert torch.equal(first.features(images), second.features(images))


def test_a_network_takes_its_weights_from_a_file(resnet: Path) -> None:
    images = torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    named = load_extractor("timm:test_resnet", resnet)
    assert "weights.safetensors, SHA-256" in named.name
    assert not torch.equal(named.features(images), load_extractor("timm:test_resnet").features(images))


def test_a_network_refuses_volumes() -> None:
    pytest.importorskip("timm")
    with pytest.raises(DataError, match=r"\[B, 1 or 3, H, W\]"):
        load_extractor("timm:test_resnet").features(torch.zeros(1, 1, 8, 8, 8))


LEVELS = pytest.mark.parametrize("levels", [True, False])


@LEVELS
@pytest.mark.parametrize("wrong", ["lacking", "other shape", "other names"])
def test_weights_of_another_network_are_refused(levels: bool, wrong: str, resnet: Path) -> None:
    state = load_file(resnet)
    save_file(
        {
            "lacking": {key: value for key, value in state.items() if not key.startswith("layer2")},
            "other shape": {**state, "conv1.0.weight": torch.zeros(2, 3)},
            "other names": {"mine": torch.zeros(3)},
        }[wrong],
        resnet,
    )
    with pytest.raises(DataError, match="does not hold the weights of timm's test_resnet"):
        timm_network("test_resnet", resnet, levels=levels)


@LEVELS
def test_a_whole_file_is_taken(levels: bool, resnet: Path) -> None:
    network = timm_network("test_resnet", resnet, levels=levels)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@LEVELS
def test_a_damaged_file_is_refused(levels: bool, resnet: Path) -> None:
    resnet.write_bytes(resnet.read_bytes()[:-1])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        timm_network("test_resnet", resnet, levels=levels)


def test_a_file_that_may_hold_code_is_refused(resnet: Path) -> None:
    with pytest.raises(DataError, match="may hold code"):
        timm_network("test_resnet", resnet.rename(resnet.with_suffix(".bin")), levels=False)


def test_the_digest_tells_weights_apart_but_not_names_of_files(resnet: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(resnet.read_bytes())
    drawn, named, copied = (load_extractor("timm:test_resnet", file) for file in (None, resnet, copy))
    assert named.digest == copied.digest
    assert named.digest != drawn.digest
    assert named.channels == 3


def test_an_unknown_network_is_refused_with_a_suggestion() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UnknownNameError, match=r"Did you mean.*resnet18"):
        timm_network("resnet_18", None, levels=False)


# --- The Inception network. ---


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.nn.Module, Path]:
    """The Inception network with random weights, and a file with them."""
    kind = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        patched.setattr(kind, "load_state_dict", lambda self, state: None)
        network = kind("drawn", ["2048"], feature_extractor_weights_path=empty)
    file = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file)
    return network, file


def test_inception_features_are_those_of_grey_8_bit_images(inception: tuple[torch.nn.Module, Path]) -> None:
    network, file = inception
    images = torch.rand(2, 1, 40, 32, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1
    extractor = load_extractor("inception", file)
    assert extractor.name.startswith(
        "inception, resized to 299 x 299 as by TensorFlow 1, weights weights.safetensors, "
    )
    grey = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)
    assert torch.equal(extractor.features(images), network(grey)[0].double())


def test_inception_refuses_two_channels(inception: tuple[torch.nn.Module, Path]) -> None:
    extractor = load_extractor("inception", inception[1])
    with pytest.raises(DataError, match=r"Inception takes \[B, 1 or 3, H, W\]"):
        extractor.features(torch.zeros(1, 2, 8, 8))


def test_inception_refuses_other_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    file = tmp_path / "weights.safetensors"
    save_file({"fc.weight": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="does not hold the Inception network's weights"):
        load_extractor("inception", file)


def test_inception_opens_no_other_pickle(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    torch.save({}, tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"may hold code.*, or the published weights-inception"):
        load_extractor("inception", tmp_path / "mine.pth")


def test_missing_inception_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"no weights-inception-2015-12-05-6726825d\.pth in .*--weights FILE"):
        load_extractor("inception")


def test_a_missing_torch_fidelity_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mri-zoo\[features\]'"):
        load_extractor("inception")


# --- TorchScript files. ---


class _Network(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(channels, 6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images).mean((2, 3))


class _Images(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


class _Pair(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


def _scripted(network: torch.nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(network).save(file)
    return file


@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchscript_network_gives_its_features(channels: int, tmp_path: Path) -> None:
    network = _Network(channels)
    extractor = load_extractor(f"torchscript:{_scripted(network, tmp_path / 'net.pt')}")
    images = _patches(3, 1, channels=channels)
    assert extractor.channels == channels
    assert extractor.name.startswith("TorchScript, resized by the network, weights net.pt, SHA-256 ")
    assert torch.allclose(extractor.features(images), network(images).detach().double())
    other = load_extractor(f"torchscript:{_scripted(_Network(channels), tmp_path / 'other.pt')}")
    assert other.digest != extractor.digest


def test_a_torchscript_network_of_three_channels_takes_grey_images(tmp_path: Path) -> None:
    extractor = load_extractor(f"torchscript:{_scripted(_Network(3), tmp_path / 'net.pt')}")
    images = _patches(3, 1)
    assert torch.equal(extractor.features(images), extractor.features(images.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchscript_network_refuses_volumes_and_other_channels(channels: int, tmp_path: Path) -> None:
    extractor = load_extractor(f"torchscript:{_scripted(_Network(channels), tmp_path / 'net.pt')}")
    for images in (torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 2, 8, 8)):
        with pytest.raises(DataError, match=r"The network of net.pt takes \[B, .*, H, W\], got .*use texture"):
            extractor.features(images)


def test_a_torchscript_network_must_take_grey_or_three_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"takes neither \[B, 3, 64, 64\] .* nor \[B, 1, 64, 64\]"):
        load_extractor(f"torchscript:{_scripted(_Network(2), tmp_path / 'net.pt')}")


@pytest.mark.parametrize("network", [_Images(), _Pair()])
def test_a_torchscript_network_must_return_features(network: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must return features \[B, F\]"):
        load_extractor(f"torchscript:{_scripted(network, tmp_path / 'net.pt')}")


def test_other_files_are_no_torchscript(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("text")
    for name in ("state.pt", "text.pt"):
        with pytest.raises(DataError, match="is not a TorchScript file"):
            load_extractor(f"torchscript:{tmp_path / name}")
    with pytest.raises(DataError, match="There is no file"):
        load_extractor(f"torchscript:{tmp_path / 'none.pt'}")


# --- Names. ---


@pytest.mark.parametrize("name", ["resnet18", "timm:", "torchscript:", "texture:2"])
def test_features_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"no features"):
        load_extractor(name)


@pytest.mark.parametrize("name", ["texture", "torchscript:net.pt"])
def test_features_that_take_no_weights_refuse_them(name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}' take no file of weights"):
        load_extractor(name, Path("weights.safetensors"))
