"""Projection finds codes that reconstruct the image, alone and in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugins.stylegan2.conftest import tiny_config
from zoo.config import validate
from zoo.errors import ConfigError
from zoo.metrics.image import ssim_map
from zoo.metrics.perceptual import load_distance
from zoo.nn.stylegan import Generator, noise_shapes, style_count
from zoo.randomness import Randomness
from zoo.tasks import Projected
from zoo_stylegan2.config import StyleGANConfig, StyleGANProjectOptions
from zoo_stylegan2.networks import build
from zoo_stylegan2.projection import learning_rate, noise_penalty, normalise, project, w_noise

STILL = {"iterations": 1, "learning_rate": 1e-9, "w_noise": 0}
"""Options that leave the code at its start."""


def _options(**values: Any) -> StyleGANProjectOptions:
    return validate(StyleGANProjectOptions, values, what="the test")


def _project(model: Generator, config: StyleGANConfig, target: Tensor, seeds: list[int], **values: Any) -> Projected:
    distance = load_distance("ssim+l2", None).measure
    return project(model, config, target, seeds, distance, _options(loss="ssim+l2", **values))


@pytest.fixture(scope="module")
def config() -> StyleGANConfig:
    """Settings of a small generator."""
    return tiny_config("network.channel_limit=16", "network.channel_budget=128", "size=16,24")


@pytest.fixture(scope="module")
def generator(config: StyleGANConfig) -> Generator:
    """A random generator whose noise has an effect."""
    torch.manual_seed(0)
    model = build(config)
    for conv in model.synthesis.convs:
        torch.nn.init.constant_(conv.noise_strength, 0.05)
    return model.eval()


def _generated(generator: Generator, config: StyleGANConfig, *seeds: int) -> Tensor:
    """Return images of the generator, with one random style per layer and random noise."""
    random = Randomness(seeds)
    with torch.no_grad():
        codes = [generator.mapping(random.normal((32,))) for _ in range(style_count(config.size))]
        noise = [random.normal((1, *shape)) for shape in noise_shapes(config.size)]
        return generator.synthesis(torch.stack(codes, 1), *noise)


@pytest.fixture(scope="module")
def target(generator: Generator, config: StyleGANConfig) -> Tensor:
    """An image of the generator."""
    return _generated(generator, config, 5)


@pytest.fixture(scope="module")
def start(generator: Generator, config: StyleGANConfig, target: Tensor) -> Projected:
    """The projection of `target` before its first iteration."""
    return _project(generator, config, target, [1], candidates=20, **STILL)


@pytest.fixture(scope="module")
def found(generator: Generator, config: StyleGANConfig, target: Tensor) -> Projected:
    """The projection of `target` after 100 iterations."""
    return _project(generator, config, target, [1], candidates=20, iterations=100)


# --- The schedule. ---


def test_the_defaults_are_the_papers() -> None:
    options = _options()
    assert (options.iterations, options.candidates, options.loss) == (3000, 100, "lpips")


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 0.1 / 50), (24, 0.05), (49, 0.1), (50, 0.1), (2000, 0.1), (2750, 0.1), (2875, 0.05), (2999, 3.9e-6)],
)
def test_the_learning_rate_rises_stays_and_falls(iteration: int, rate: float) -> None:
    assert learning_rate(_options(), iteration) == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(("iteration", "scale"), [(0, 0.05), (375, 0.0125), (675, 0.0005), (750, 0.0), (2999, 0.0)])
def test_the_noise_on_w_falls_to_0(iteration: int, scale: float) -> None:
    assert w_noise(_options(), iteration) == pytest.approx(scale)


def test_a_shorter_schedule_keeps_the_proportions_of_ramps_that_are_not_set() -> None:
    short = _options(iterations=600, ramp_up=3)
    assert (short.w_noise_iterations, short.ramp_up, short.ramp_down) == (150, 3, 50)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"iterations": 20, "ramp_down": 30}, "together exceed iterations 20"),
        ({"iterations": 20, "w_noise_iterations": 30}, "w_noise_iterations 30 must end within iterations 20"),
        ({"loss": "dice"}, "loss"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _options(**values)


# --- The regulariser of the noise maps. ---


def test_white_noise_has_no_penalty() -> None:
    assert noise_penalty([Randomness([1, 2]).normal((1, 128, 128))]).max() < 0.02


def test_smooth_noise_has_a_penalty() -> None:
    white = Randomness([1, 2]).normal((1, 16, 16))
    smooth = torch.nn.functional.interpolate(white, scale_factor=8, mode="bilinear")
    normalise(smooth)
    assert noise_penalty([smooth]).min() > 1


def test_the_penalty_of_stripes_is_known() -> None:
    stripes = torch.ones(1, 1, 128, 128)
    stripes[..., ::2] = -1
    # Neighbours across the stripes are opposite, along them equal; averages over two pixels are 0.
    assert float(noise_penalty([stripes])) == pytest.approx(2.0)


@pytest.mark.parametrize(("size", "penalty"), [((128, 128), 10.0), ((4, 4), 2.0), ((16, 16, 16), 6.0)])
def test_a_constant_counts_1_per_axis_and_level(size: tuple[int, ...], penalty: float) -> None:
    assert float(noise_penalty([torch.ones(1, 1, *size)])) == pytest.approx(penalty)


def test_each_image_has_its_own_penalty() -> None:
    noise = Randomness([1, 2]).normal((1, 32, 32))
    assert torch.allclose(noise_penalty([noise])[1:], noise_penalty([noise[1:]]))


# --- The optimisation. ---


def test_an_image_of_the_generator_is_found(target: Tensor, start: Projected, found: Projected) -> None:
    before, after = (float((made.reconstruction - target).square().mean()) for made in (start, found))
    assert after < 0.1 * before


def test_the_structure_of_the_image_is_found(target: Tensor, start: Projected, found: Projected) -> None:
    before, after = (float(1 - ssim_map(made.reconstruction, target).mean()) for made in (start, found))
    assert after < 0.3 * before


def test_noise_maps_keep_zero_mean_and_unit_variance(found: Projected) -> None:
    for noise in found.noise:
        assert float(noise.mean()) == pytest.approx(0, abs=1e-5)
        assert float(noise.square().mean()) == pytest.approx(1, abs=1e-4)


def test_the_reconstruction_follows_from_codes_and_noise(generator: Generator, found: Projected) -> None:
    with torch.no_grad():
        assert torch.allclose(generator.synthesis(found.codes, *found.noise), found.reconstruction)


def test_the_start_is_the_candidate_most_similar_to_the_image(generator: Generator, config: StyleGANConfig) -> None:
    starts = [
        _project(generator, config, _generated(generator, config, seed), [0], candidates=10, **STILL).reconstruction
        for seed in (7, 8, 9)
    ]
    chosen = _project(generator, config, starts[1] + 0.01, [0], candidates=10, **STILL)
    assert torch.allclose(chosen.reconstruction, starts[1], atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(generator: Generator, config: StyleGANConfig) -> None:
    images = _generated(generator, config, 3, 4, 5)
    together = _project(generator, config, images, [1, 2, 3], iterations=12, candidates=5)
    alone = _project(generator, config, images[1:2], [2], iterations=12, candidates=5)
    assert torch.allclose(together.codes[1], alone.codes[0], atol=1e-3)
    assert torch.allclose(together.reconstruction[1], alone.reconstruction[0], atol=1e-3)


def test_an_image_depends_on_its_seed(generator: Generator, config: StyleGANConfig, target: Tensor) -> None:
    one, other = (_project(generator, config, target, [seed], iterations=12, candidates=5) for seed in (2, 9))
    assert not torch.allclose(one.codes, other.codes, atol=1e-3)


def test_volumes_of_two_contrasts_are_projected() -> None:
    config = tiny_config("network.channel_limit=8", "size=8,8,16", "data.contrasts=T1w,FLAIR")
    torch.manual_seed(0)
    model = build(config)
    volumes = torch.rand(2, 2, 8, 8, 16) * 2 - 1
    early, late = (_project(model, config, volumes, [1, 2], iterations=count, candidates=2) for count in (1, 40))
    assert late.reconstruction.shape == volumes.shape
    assert all(after["distance"] < before["distance"] for before, after in zip(early.losses, late.losses, strict=True))
