"""Projection finds codes that reconstruct the image, alone and in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.config import resolve_config, validate
from zoo.descriptors import resolve
from zoo.errors import ConfigError
from zoo.metrics.image import ssim_map
from zoo.metrics.perceptual import load_distance
from zoo.nn.stylegan import Generator, noise_shapes, style_count
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo_stylegan2.config import StyleGANConfig, StyleGANProjectOptions
from zoo_stylegan2.projection import learning_rate, noise_penalty, normalise, project, w_noise

METHOD = "stylegan2-ada"


def _options(**values: Any) -> StyleGANProjectOptions:
    return validate(StyleGANProjectOptions, values, what="the test")


def _config() -> StyleGANConfig:
    settings = ("network.channel_limit=16", "network.channel_budget=128", "size=16,24")
    config = resolve_config(registry().methods[METHOD], preset="tiny", assignments=settings)
    assert isinstance(config, StyleGANConfig)
    return config


@pytest.fixture
def generator() -> Generator:
    """A random generator in which noise counts."""
    torch.manual_seed(0)
    model: Generator = resolve(registry().methods[METHOD].build)(_config())
    for conv in model.synthesis.convs:
        torch.nn.init.constant_(conv.noise_strength, 0.05)
    return model.eval()


def _known(generator: Generator, *seeds: int) -> Tensor:
    """Return what the generator makes of known styles, one a layer, and known noise."""
    config, random = _config(), Randomness(seeds)
    with torch.no_grad():
        codes = [generator.mapping(random.normal((32,))) for _ in range(style_count(config.size))]
        noise = [random.normal((1, *shape)) for shape in noise_shapes(config.size)]
        return generator.synthesis(torch.stack(codes, 1), *noise)


# --- The schedule and the regulariser. ---


def test_the_defaults_are_the_papers_schedule() -> None:
    options = _options()
    assert (options.iterations, options.candidates, options.loss) == (3000, 100, "lpips")
    rates = {0: 0.1 / 50, 24: 0.05, 49: 0.1, 50: 0.1, 2000: 0.1, 2750: 0.1, 2875: 0.05}
    for iteration, rate in rates.items():
        assert learning_rate(options, iteration) == pytest.approx(rate), iteration
    assert 0 < learning_rate(options, 2999) < 1e-5
    scales = {0: 0.05, 375: 0.0125, 675: 0.0005, 750: 0.0, 2999: 0.0}
    for iteration, scale in scales.items():
        assert w_noise(options, iteration) == pytest.approx(scale), iteration


def test_a_shorter_schedule_keeps_its_proportions_unless_told() -> None:
    short = _options(iterations=600, ramp_up=3)
    assert (short.w_noise_iterations, short.ramp_up, short.ramp_down) == (150, 3, 50)
    with pytest.raises(ConfigError, match="together exceed iterations 20"):
        _options(iterations=20, ramp_down=30)
    with pytest.raises(ConfigError, match="w_noise_iterations 30 must end within iterations 20"):
        _options(iterations=20, w_noise_iterations=30)
    with pytest.raises(ConfigError, match="loss"):
        _options(loss="dice")


def test_white_noise_costs_nothing_and_patterns_cost_much() -> None:
    white = Randomness([1, 2]).normal((1, 128, 128))
    stripes = torch.ones(1, 1, 128, 128)
    stripes[..., ::2] = -1
    assert noise_penalty([white]).max() < 0.02
    # Neighbours across the stripes are opposite, along them equal; averages over two pixels are 0.
    assert float(noise_penalty([stripes])) == pytest.approx(2.0)
    smooth = torch.nn.functional.interpolate(white[:, :, :16, :16], scale_factor=8, mode="bilinear")
    normalise(smooth)
    assert noise_penalty([smooth]).min() > 1
    # A constant, which normalising would take away: 1 an axis on each of the levels 128, 64, 32, 16, 8.
    assert float(noise_penalty([torch.ones(1, 1, 128, 128)])) == pytest.approx(10.0)
    assert float(noise_penalty([torch.ones(1, 1, 4, 4)])) == pytest.approx(2.0)
    assert float(noise_penalty([torch.ones(1, 1, 16, 16, 16)])) == pytest.approx(6.0)
    each = noise_penalty([white])
    assert torch.allclose(each[1:], noise_penalty([white[1:]]))


# --- The optimisation. ---


def test_an_image_of_the_generators_own_is_found_again(generator: Generator) -> None:
    target = _known(generator, 5)
    distance = load_distance("ssim+l2", None).measure
    options = _options(loss="ssim+l2", iterations=100, candidates=20)
    still = _options(loss="ssim+l2", iterations=1, candidates=20, learning_rate=1e-9, w_noise=0)
    start, found = (project(generator, _config(), target, [1], distance, chosen) for chosen in (still, options))
    before, after = (float((made.reconstruction - target).square().mean()) for made in (start, found))
    assert after < 0.1 * before
    unlike, like = (float(1 - ssim_map(made.reconstruction, target).mean()) for made in (start, found))
    assert like < 0.3 * unlike
    for planes in found.noise:
        assert float(planes.mean()) == pytest.approx(0, abs=1e-5)
        assert float(planes.square().mean()) == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        assert torch.allclose(generator.synthesis(found.codes, *found.noise), found.reconstruction)


def test_the_start_is_the_candidate_most_like_the_image(generator: Generator) -> None:
    config = _config()
    still = {"loss": "ssim+l2", "iterations": 1, "learning_rate": 1e-9, "w_noise": 0, "candidates": 10}
    distance = load_distance("ssim+l2", None).measure
    made = [
        project(generator, config, _known(generator, seed), [0], distance, _options(**still)).reconstruction
        for seed in (7, 8, 9)
    ]
    target = made[1] + 0.01
    chosen = project(generator, config, target, [0], distance, _options(**still))
    assert torch.allclose(chosen.reconstruction, made[1], atol=1e-5)


def test_alone_and_in_a_batch_are_the_same(generator: Generator) -> None:
    target = _known(generator, 3, 4, 5)
    distance = load_distance("ssim+l2", None).measure
    options = _options(loss="ssim+l2", iterations=12, candidates=5)
    together = project(generator, _config(), target, [1, 2, 3], distance, options)
    alone = project(generator, _config(), target[1:2], [2], distance, options)
    other = project(generator, _config(), target[1:2], [9], distance, options)
    assert torch.allclose(together.codes[1], alone.codes[0], atol=1e-3)
    assert torch.allclose(together.reconstruction[1], alone.reconstruction[0], atol=1e-3)
    assert not torch.allclose(other.codes[0], alone.codes[0], atol=1e-3)


def test_volumes_of_two_contrasts_are_projected_by_the_same_code() -> None:
    settings = ("network.channel_limit=8", "size=8,8,16", "data.contrasts=T1w,FLAIR")
    config = resolve_config(registry().methods[METHOD], preset="tiny", assignments=settings)
    assert isinstance(config, StyleGANConfig)
    torch.manual_seed(0)
    model = resolve(registry().methods[METHOD].build)(config)
    target = torch.rand(2, 2, 8, 8, 16) * 2 - 1
    distance = load_distance("ssim+l2", None).measure
    early, late = (
        project(model, config, target, [1, 2], distance, _options(loss="ssim+l2", iterations=count, candidates=2))
        for count in (1, 40)
    )
    assert late.reconstruction.shape == target.shape
    assert all(after["distance"] < before["distance"] for before, after in zip(early.losses, late.losses, strict=True))
