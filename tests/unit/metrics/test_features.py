"""The fixed features measure what they name; networks take their weights from local files only."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import DataError, MissingExtraError, UnknownNameError
from zoo.metrics.backbones import timm_network
from zoo.metrics.features import load_extractor, texture_distance


def _brains(count: int, seed: int, size: tuple[int, ...] = (32, 40), radius: float = 0.6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    radii = radius + 0.05 * torch.randn(count, generator=generator)
    inside = sum(place**2 for place in places)[None] < radii.reshape(-1, *[1] * len(size)) ** 2
    return torch.where(inside, 0.3 + 0.1 * torch.randn(count, *size, generator=generator), torch.tensor(-1.0))[:, None]


@pytest.mark.parametrize("size", [(32, 40), (16, 20, 16)])
def test_other_brains_of_the_kind_are_near_and_worse_images_far(size: tuple[int, ...]) -> None:
    real, alike = _brains(80, 1, size), _brains(80, 2, size)
    near = texture_distance(real, alike)
    noisy = alike + 0.15 * torch.randn(alike.shape, generator=torch.Generator().manual_seed(3))
    assert texture_distance(real, _brains(80, 2, size, radius=0.4)) > 5 * near
    assert texture_distance(real, noisy) > 5 * near
    assert texture_distance(real, alike[:1].expand(80, *alike.shape[1:])) > 2 * near  # no variety


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


# --- Names. ---


@pytest.mark.parametrize("name", ["resnet18", "timm:"])
def test_features_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"no features"):
        load_extractor(name)


def test_weights_for_the_fixed_features_are_refused() -> None:
    with pytest.raises(DataError, match="'texture' take no file of weights"):
        load_extractor("texture", Path("weights.safetensors"))
