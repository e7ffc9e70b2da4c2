"""The fixed features see what they name, and the Fréchet distance is the textbook's."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.errors import DataError, MissingExtraError, UnknownNameError
from zoo.metrics.backbones import timm_network
from zoo.metrics.features import (
    frechet_distance,
    kernel_distance,
    load_extractor,
    nearest_distances,
    radiomic_distance,
    radiomic_features,
)


def _brains(count: int, seed: int, size: tuple[int, ...] = (32, 40), radius: float = 0.6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    radii = radius + 0.05 * torch.randn(count, generator=generator)
    inside = sum(place**2 for place in places)[None] < radii.reshape(-1, *[1] * len(size)) ** 2
    return torch.where(inside, 0.3 + 0.1 * torch.randn(count, *size, generator=generator), torch.tensor(-1.0))[:, None]


def test_the_distance_between_gaussians_is_known() -> None:
    # Rows with mean (3, 0) and covariance diag(4, 1), against mean 0 and the identity: 9 + (2 - 1)².
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.double) * (3 / 4) ** 0.5
    moved = corners * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, 0.0])
    assert frechet_distance(corners, moved) == pytest.approx(10)
    assert frechet_distance(moved, moved) == pytest.approx(0, abs=1e-9)


def test_correlated_features_agree_with_the_general_formula() -> None:
    from scipy.linalg import sqrtm

    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, 4, generator=generator, dtype=torch.double)
    first = first @ torch.randn(4, 4, generator=generator, dtype=torch.double)
    second = torch.randn(60, 4, generator=generator, dtype=torch.double) + 1
    one, other = torch.cov(first.T), torch.cov(second.T)
    product = torch.as_tensor(sqrtm((one @ other).numpy()).real)
    expected = (first.mean(0) - second.mean(0)).square().sum() + (one + other - 2 * product).trace()
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-6)


def test_one_image_has_no_distribution() -> None:
    with pytest.raises(DataError, match="sets of 1 and 5"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))


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


def test_the_distances_are_torchmetrics() -> None:
    kid, fid = pytest.importorskip("torchmetrics.image.kid"), pytest.importorskip("torchmetrics.image.fid")
    random = torch.Generator().manual_seed(6)
    first, second = (torch.randn(40, 5, generator=random, dtype=torch.float64) + shift for shift in (0, 0.4))
    assert kernel_distance(first, second) == pytest.approx(float(kid.poly_mmd(first, second)), rel=1e-9)
    parts = [value for some in (first, second) for value in (some.mean(0), torch.cov(some.T))]
    assert frechet_distance(first, second) == pytest.approx(float(fid._compute_fid(*parts)), rel=1e-6)
    assert kernel_distance(first[:20], first[20:]) < 0.2 * kernel_distance(first, second + 1)


def test_the_nearest_image_may_not_be_ones_own() -> None:
    features = torch.tensor([[0.0], [1.0], [5.0]])
    own = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    assert nearest_distances(features, features).tolist() == [0, 0, 0]
    assert nearest_distances(features, features, not_of=own).tolist() == [5, 4, 4]
    with pytest.raises(DataError, match="at least two subjects"):
        nearest_distances(features, features, not_of=torch.ones(3, 3, dtype=torch.bool))


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
    with pytest.raises(DataError, match="take no weights"):
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
    with pytest.raises(DataError, match=r"may hold code.*, or weights-inception-2015-12-05-6726825d\.pth"):
        load_extractor("inception", tmp_path / "mine.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"no weights-inception-2015-12-05-6726825d\.pth in .*--weights FILE"):
        load_extractor("inception")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mri-zoo\[features\]'"):
        load_extractor("inception")
