"""The training step of StyleGAN2-ADA: its losses, regularisers, augmentation and the model that it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from tests.plugins.stylegan2.conftest import METHOD, tiny_config
from zoo.descriptors import resolve
from zoo.models.run import Run
from zoo.nn.stylegan import Discriminator, SynthesisNetwork, level_channels, noise_shapes, style_count
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo_stylegan2.config import StyleGANConfig
from zoo_stylegan2.networks import build, build_discriminator
from zoo_stylegan2.training import StyleGANTrainer, gradient_penalty, lazy_adam, path_lengths

BATCH = 4
NARROW = ("network.channel_limit=8", f"training.batch_size={BATCH}")
SIZES = [(16, 24), (8, 16, 12)]
STYLE_WIDTH = 6


def _trainer(config: StyleGANConfig, **options: str) -> StyleGANTrainer:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", **options)  # type: ignore[arg-type]
    fabric.launch()
    return StyleGANTrainer(config, resolve(registry().methods[METHOD].build)(config), fabric)


def _steps(trainer: StyleGANTrainer, count: int) -> list[dict[str, float]]:
    """Take steps on the same images with the same random numbers; return the figures of each."""
    torch.manual_seed(1)
    image = torch.rand(BATCH, 1, *trainer.config.size) * 2 - 1
    lines = [trainer.step({"image": image}, Randomness(range(BATCH))) for _ in range(count)]
    return [{name: float(value) for name, value in line.items()} for line in lines]


# --- Losses and optimisers. ---


def test_lazy_adam_corrects_rate_and_betas() -> None:
    (group,) = lazy_adam(tiny_config(), torch.nn.Linear(2, 2), 16).param_groups
    assert group["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert group["betas"] == pytest.approx((0, 0.99 ** (16 / 17)))


def test_adam_without_a_regulariser_is_not_corrected() -> None:
    (group,) = lazy_adam(tiny_config(), torch.nn.Linear(2, 2), 0).param_groups
    assert (group["lr"], group["betas"]) == (0.0025, (0.0, 0.99))


def test_path_length_of_a_linear_generator_is_known() -> None:
    styles = torch.randn(3, 2, 5, dtype=torch.double, requires_grad=True)
    matrix = torch.randn(10, 16, dtype=torch.double)
    images = (styles.flatten(1) @ matrix).reshape(3, 1, 4, 4)
    direction = torch.randn(3, 1, 4, 4, dtype=torch.double)
    gradient = (direction.flatten(1) @ matrix.T / 4).reshape(3, 2, 5)
    expected = gradient.square().sum(2).mean(1).sqrt()
    assert torch.allclose(path_lengths(images, styles, direction), expected)


def test_the_gradient_penalty_of_a_linear_score_is_its_weights() -> None:
    weights = torch.arange(8.0).reshape(1, 2, 2, 2)
    images = torch.randn(3, 2, 2, 2, requires_grad=True)
    assert gradient_penalty((images * weights).flatten(1).sum(1), images) == pytest.approx(float((weights**2).sum()))


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_r1_agrees_with_finite_differences(size: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    discriminator = Discriminator(size, level_channels(size, 32, 4), 2, group_size=2).double()
    real = torch.randn(2, 2, *size, dtype=torch.double)

    def r1() -> Tensor:
        images = real.clone().requires_grad_()
        return gradient_penalty(discriminator(images), images)

    _check_derivative(r1, discriminator.blocks[0].second.weight)
    _check_derivative(r1, discriminator.hidden.weight)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_path_lengths_agrees_with_finite_differences(size: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    synthesis = SynthesisNetwork(size, level_channels(size, 64, 8), STYLE_WIDTH, 2).double()
    w = torch.randn(2, style_count(size), STYLE_WIDTH, dtype=torch.double)
    noise = [torch.randn(2, 1, *shape, dtype=torch.double) for shape in noise_shapes(size)]
    direction = torch.randn(2, 2, *size, dtype=torch.double)

    def penalty() -> Tensor:
        styles = w.clone().requires_grad_()
        return path_lengths(synthesis(styles, *noise), styles, direction).square().sum()

    _check_derivative(penalty, synthesis.convs[1].weight)
    _check_derivative(penalty, synthesis.convs[2].affine.weight)


def _check_derivative(value_of: Callable[[], Tensor], parameter: torch.nn.Parameter) -> None:
    """Compare the derivative along a random direction with a central difference."""
    direction, step = torch.randn(parameter.shape, dtype=torch.double), 1e-6
    (gradient,) = torch.autograd.grad(value_of(), parameter)
    start, values = parameter.detach().clone(), []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.copy_(start + sign * step * direction)
        values.append(float(value_of().detach()))
    assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


# --- A step. ---


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_step_trains_each_network(network: str) -> None:
    trainer = _trainer(tiny_config(*NARROW))
    trained = getattr(trainer, network)
    before = {name: weight.clone() for name, weight in trained.state_dict().items() if name.endswith("weight")}
    _steps(trainer, 1)
    after = trained.state_dict()
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())


def test_a_step_returns_finite_losses_and_scores() -> None:
    (figures,) = _steps(_trainer(tiny_config(*NARROW)), 1)
    assert {"loss/generator", "loss/discriminator", "loss/r1", "loss/path-length", "score/real"} <= figures.keys()
    assert all(math.isfinite(value) for value in figures.values())


def test_the_discriminator_is_trainable_after_a_step() -> None:
    trainer = _trainer(tiny_config(*NARROW))
    _steps(trainer, 1)
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_a_step_moves_the_mean_style() -> None:
    trainer = _trainer(tiny_config(*NARROW))
    _steps(trainer, 1)
    assert trainer.generator.mapping.average.abs().sum() > 0


@pytest.mark.parametrize(
    ("loss", "changes"), [("loss/r1", [False, False, True]), ("loss/path-length", [False, True, False])]
)
def test_regularisers_are_computed_at_their_intervals(loss: str, changes: list[bool]) -> None:
    trainer = _trainer(tiny_config(*NARROW, "loss.r1_interval=3", "loss.path_interval=2"))
    values = [line[loss] for line in _steps(trainer, 4)]
    assert [one != next_one for one, next_one in pairwise(values)] == changes


@pytest.mark.parametrize(
    ("setting", "loss"), [("loss.r1_gamma=0", "loss/r1"), ("loss.path_weight=0", "loss/path-length")]
)
def test_a_regulariser_of_weight_0_is_not_computed(setting: str, loss: str) -> None:
    (figures,) = _steps(_trainer(tiny_config(*NARROW, setting)), 1)
    assert loss not in figures


@pytest.mark.parametrize("loss", ["loss/generator", "loss/discriminator", "loss/r1"])
def test_mixed_precision_follows_full_precision(loss: str) -> None:
    config = tiny_config("network.channel_limit=16", f"training.batch_size={BATCH}")
    exact, mixed = (_steps(_trainer(config, precision=name), 1)[0] for name in ("32-true", "bf16-mixed"))
    assert mixed[loss] == pytest.approx(exact[loss], rel=0.1)


def test_an_overfitting_discriminator_raises_the_augmentation() -> None:
    trainer = _trainer(tiny_config(*NARROW, "augmentation.images=200"))
    torch.nn.init.constant_(trainer.discriminator.score.bias, 10)  # sure of every image
    probabilities = [line["augmentation/probability"] for line in _steps(trainer, 8)]
    assert probabilities[0] == 0
    assert probabilities[-1] == pytest.approx(2 * 16 / 200)


# --- What is kept. ---


def test_the_run_keeps_its_best_model(run: Path) -> None:
    opened = Run.open(run)
    scores = {
        line["images"]: line["validation/texture-distance"]
        for line in opened.metrics()
        if "validation/texture-distance" in line
    }
    best = min(scores, key=lambda images: scores[images])
    assert opened.record["best_images"] == best
    kept, left = (load_file(folder / "model.safetensors") for folder in (opened.checkpoint(best), run))
    assert all(torch.equal(left[name], kept[name]) for name in kept)


def test_every_checkpoint_has_a_score(run: Path) -> None:
    scored = [line["images"] for line in Run.open(run).metrics() if "validation/texture-distance" in line]
    assert scored == [16, 32, 48, 64]


def test_tensor_names_are_those_of_earlier_versions() -> None:
    config = tiny_config()  # 40 x 48 pixels: three levels above the base
    generator = {f"mapping.layers.{layer}.{name}" for layer in range(2) for name in ("weight", "bias")}
    generator |= {"mapping.average", "synthesis.constant"}
    styled = ("affine.weight", "affine.bias", "weight", "bias", "noise_strength")
    generator |= {f"synthesis.convs.{number}.{name}" for number in range(7) for name in styled}
    generator |= {f"synthesis.to_image.{level}.{name}" for level in range(4) for name in styled[:-1]}
    assert set(build(config).state_dict()) == generator
    discriminator = {
        f"{name}.{kind}" for name in ("from_image", "conv", "hidden", "score") for kind in ("weight", "bias")
    }
    discriminator |= {f"blocks.{level}.{name}.weight" for level in range(3) for name in ("first", "second", "skip")}
    discriminator |= {f"blocks.{level}.{name}.bias" for level in range(3) for name in ("first", "second")}
    assert set(build_discriminator(config).state_dict()) == discriminator
