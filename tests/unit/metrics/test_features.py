"""The fixed features measure what they name; networks take their weights from local files only."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.errors import DataError, MissingExtraError, UnknownNameError
from zoo.metrics.backbones import timm_network
from zoo.metrics.features import load_extractor, radiomic_distance, radiomic_features


def _brains(count: int, seed: int, size: tuple[int, ...] = (32, 40), radius: float = 0.6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    radii = radius + 0.05 * torch.randn(count, generator=generator)
    inside = sum(place**2 for place in places)[None] < radii.reshape(-1, *[1] * len(size)) ** 2
    return torch.where(inside, 0.3 + 0.1 * torch.randn(count, *size, generator=generator), torch.tensor(-1.0))[:, None]


@pytest.mark.parametrize("size", [(32, 40), (16, 20, 16)])
def test_other_brains_of_the_kind_are_near_and_worse_images_far(size: tuple[int, ...]) -> None:
    real, alike = _brains(80, 1, size), _brains(80, 2, size)
    near = radiomic_distance(real, alike)
    noisy = alike + 0.15 * torch.randn(alike.shape, generator=torch.Generator().manual_seed(3))
    assert radiomic_distance(real, _brains(80, 2, size, radius=0.4)) > 5 * near
    assert radiomic_distance(real, noisy) > 5 * near
    assert radiomic_distance(real, alike[:1].expand(80, *alike.shape[1:])) > 2 * near  # no variety


def test_features_are_those_named_for_each_channel() -> None:
    brain = _brains(3, 5)
    features = radiomic_features(brain.repeat(1, 2, 1, 1))
    assert torch.equal(features[:, : features.shape[1] // 2], features[:, features.shape[1] // 2 :])
    assert torch.allclose(features[:, 0], (brain > -0.9).double().flatten(1).mean(1))
    turned = radiomic_features(brain.flip(2))
    changed = (turned - radiomic_features(brain)).abs() > 1e-9
    assert changed.sum(1).max() <= 1  # mirroring moves the centre from left to right and nothing else


def test_a_network_is_named_with_its_weights(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    images = torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    random = load_extractor("timm:test_resnet")
    assert random.name == "timm test_resnet, random weights of seed 0"
    assert torch.equal(random.features(images), load_extractor("timm:test_resnet").features(images))
    torch.manual_seed(5)
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)
    named = load_extractor("timm:test_resnet", file)
    assert "weights.safetensors, SHA-256" in named.name
    assert not torch.equal(named.features(images), random.features(images))
    with pytest.raises(DataError, match=r"\[B, 1 or 3, H, W\]"):
        random.features(torch.zeros(1, 1, 8, 8, 8))


@pytest.mark.parametrize("name", ["resnet18", "timm:"])
def test_features_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"no features"):
        load_extractor(name)


def test_weights_for_the_fixed_features_are_refused() -> None:
    with pytest.raises(DataError, match="'radiomic' have no weights"):
        load_extractor("radiomic", Path("weights.safetensors"))


@pytest.mark.parametrize("levels", [True, False])
def test_a_network_takes_all_its_weights_or_none(levels: bool, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    file = tmp_path / "weights.safetensors"
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(state, file)
    timm_network("test_resnet", file, levels=levels)
    lacking = {key: value for key, value in state.items() if not key.startswith("layer2")}
    for wrong in (lacking, {**state, "conv1.0.weight": torch.zeros(2, 3)}, {"mine": torch.zeros(3)}):
        save_file(wrong, file)
        with pytest.raises(DataError, match="does not hold the weights of timm's test_resnet"):
            timm_network("test_resnet", file, levels=levels)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        timm_network("test_resnet", file, levels=levels)
    with pytest.raises(DataError, match="may hold code"):
        timm_network("test_resnet", file.rename(tmp_path / "weights.bin"), levels=levels)
    with pytest.raises(UnknownNameError, match=r"Did you mean.*resnet18"):
        timm_network("resnet_18", None, levels=levels)


def test_inception_is_filled_from_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = module.FeatureExtractorInceptionV3
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        patched.setattr(kind, "load_state_dict", lambda self, state: None)
        drawn = kind("drawn", ["2048"], feature_extractor_weights_path=nothing)
    file = tmp_path / "weights.safetensors"
    save_file(drawn.state_dict(), file)

    images = torch.rand(2, 1, 40, 32, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1
    extractor = load_extractor("inception", file)
    assert extractor.name.startswith("inception, weights weights.safetensors, SHA-256")
    found = extractor.features(images)
    assert found.shape == (2, 2048)
    grey = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)
    assert torch.equal(found, drawn(grey)[0].double())
    with pytest.raises(DataError, match=r"Inception takes \[B, 1 or 3, H, W\]"):
        extractor.features(torch.zeros(1, 2, 8, 8))

    save_file({"fc.weight": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="does not hold the Inception network's weights"):
        load_extractor("inception", file)
    torch.save({}, tmp_path / "mine.pth")
    with pytest.raises(DataError, match=r"may hold code.*, or the published weights-inception"):
        load_extractor("inception", tmp_path / "mine.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"no weights-inception-2015-12-05-6726825d\.pth in .*--weights FILE"):
        load_extractor("inception")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mri-zoo\[features\]'"):
        load_extractor("inception")
