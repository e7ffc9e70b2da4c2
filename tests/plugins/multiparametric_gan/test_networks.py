"""The networks of DCGAN and WGAN, in 2D and 3D."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.plugins.multiparametric_gan.conftest import tiny_config
from zoo_multiparametric_gan.networks import Discriminator, Generator, Norm, build, build_discriminator, one_hot, parts

SIZES = [(16, 24), (8, 16, 12)]
NORMS: list[Norm] = ["batch", "layer", "spectral"]


def _y(count: int) -> torch.Tensor:
    return one_hot(torch.arange(count) % 3, tiny_config())


@pytest.mark.parametrize("size", SIZES)
def test_images_have_the_size_and_stay_within_range(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    generator = Generator(size, (8, 4), 2, 5, 3).eval()
    images = generator(100 * torch.randn(3, 5), _y(3))
    assert images.shape == (3, 2, *size)
    assert images.abs().max() <= 1


def test_the_class_changes_the_image() -> None:
    torch.manual_seed(0)
    generator = Generator((16, 16), (8, 4), 2, 5, 3).eval()
    one, other, _ = generator(torch.ones(3, 5), _y(3))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_there_is_one_score_per_image(size: tuple[int, ...], norm: Norm) -> None:
    torch.manual_seed(0)
    scores = Discriminator(size, (4, 8), 2, 3, norm)(torch.randn(3, 2, *size), _y(3))
    assert scores.shape == (3,)


def test_a_discriminator_that_sees_the_class_scores_by_it() -> None:
    torch.manual_seed(0)
    seeing = Discriminator((16, 16), (4, 8), 2, 3, "layer")
    blind = Discriminator((16, 16), (4, 8), 2, 0, "layer")
    image = torch.randn(1, 2, 16, 16).expand(3, -1, -1, -1)
    assert len(seeing(image, _y(3)).unique()) == 3
    assert torch.allclose(blind(image, _y(3)), blind(image, _y(3))[:1])


@pytest.mark.parametrize(("norm", "alone"), [("batch", False), ("layer", True), ("spectral", True)])
def test_only_batch_norm_lets_images_affect_each_other(norm: Norm, alone: bool) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator((16, 16), (4, 8), 2, 3, norm)
    images = torch.randn(3, 2, 16, 16)
    discriminator.eval() if norm == "spectral" else discriminator.train()  # its estimate changes with each call
    together, single = discriminator(images, _y(3))[0], discriminator(images[:1], _y(1))[0]
    assert torch.allclose(together, single, atol=1e-6) is alone


def test_spectral_norm_keeps_every_layer_from_stretching() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator((16, 16), (4, 8), 2, 3, "spectral")
    layers = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.normal_(layer.parametrizations.weight.original)
    for _ in range(200):
        discriminator(torch.randn(2, 2, 16, 16), _y(2))
    discriminator.eval()
    norms = [float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) for layer in layers]
    assert len(norms) == 3
    assert all(norm == pytest.approx(1, abs=1e-2) for norm in norms)


def test_the_first_layer_of_the_discriminator_has_no_norm() -> None:
    layers = list(Discriminator((16, 16), (4, 8), 2, 3, "batch").layers)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU", "Flatten", "Linear"]


def test_weights_start_near_zero() -> None:
    torch.manual_seed(0)
    config = tiny_config("network.widths=64,32")
    generator, discriminator = build(config), build_discriminator(config, "batch")
    weights = [p for network in (generator, discriminator) for name, p in network.named_parameters() if p.dim() > 1]
    assert len(weights) == 6
    assert all(float(weight.detach().std()) == pytest.approx(0.02, rel=0.2) for weight in weights)


def test_the_part_names_the_classes_in_order() -> None:
    (part,) = parts(tiny_config()).values()
    assert [spec.name for spec in part.inputs] == ["z", "y"]
    assert "benign, malignant, no-findings" in part.inputs[1].meaning
