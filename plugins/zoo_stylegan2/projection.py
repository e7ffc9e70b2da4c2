"""Projection into W+: for each image a style for every layer, and noise maps, from which the generator makes it.

Source: Güllmar et al., section 2.3, after Karras et al. 2020 (StyleGAN2 paper, section 5 and appendix D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics.image import ssim_map
from zoo.nn.stylegan import Generator, noise_shapes, style_count
from zoo.randomness import Randomness, seed_for
from zoo.tasks import Distance, Projected
from zoo_stylegan2.config import StyleGANConfig, StyleGANProjectOptions

_POOL: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}
_SMALLEST = 8
"""Noise maps are averaged down to this side for their regulariser."""


def project(
    model: Generator,
    config: StyleGANConfig,
    images: Tensor,
    seeds: Sequence[int],
    distance: Distance,
    options: StyleGANProjectOptions,
    progress: Callable[[int], None] | None = None,
) -> Projected:
    """Find styles and noise maps of images, the verb ``project``.

    One Adam moves the codes of all images; as it works number by number and the losses are summed, an image is
    projected as it would be alone, up to the rounding of the arithmetic.

    Departures from the paper: the candidates are drawn with the noise maps used to start, and are the same for all
    images; sigma_w is the root of the candidates' variance summed over the numbers of w, as in the reference; w noise
    is drawn for each layer; the first and the last step have a rate above 0.

    Raises:
        DataError: The loss is not finite.
    """
    synthesis = model.synthesis.requires_grad_(False)
    layers, width = style_count(config.size), config.network.style_width
    start, sigma, maps = _start(model, config, images, options)
    w = start[:, None].repeat(1, layers, 1).requires_grad_()
    noise = [planes.repeat(len(images), *[1] * (planes.dim() - 1)).requires_grad_() for planes in maps]
    adam = torch.optim.Adam([w, *noise], lr=options.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    random, far = Randomness(seeds, images.device), distance(images)

    for iteration in range(options.iterations):
        adam.param_groups[0]["lr"] = learning_rate(options, iteration)
        scale = w_noise(options, iteration) * sigma
        moved = w + scale * random.normal((layers, width)) if scale else w
        away = far(synthesis(moved, *noise))
        uneven = noise_penalty(noise)
        total = away + options.noise_weight * uneven
        adam.zero_grad()
        total.sum().backward()
        adam.step()
        with torch.no_grad():
            for planes in noise:
                normalise(planes)
        if progress:
            progress(iteration + 1)

    with torch.no_grad():
        reconstruction = synthesis(w, *noise)
        away, uneven = far(reconstruction), noise_penalty(noise)
    if not bool((away.isfinite() & uneven.isfinite()).all()):
        raise DataError("A projection ended in NaN or infinite values; try a lower learning_rate.")
    return Projected(
        codes=w.detach().cpu(),
        noise=tuple(planes.detach().cpu() for planes in noise),
        reconstruction=reconstruction.float().cpu(),
        losses=tuple({"distance": float(one), "noise": float(other)} for one, other in zip(away, uneven, strict=True)),
    )


@torch.no_grad()
def _start(
    model: Generator, config: StyleGANConfig, images: Tensor, options: StyleGANProjectOptions
) -> tuple[Tensor, float, list[Tensor]]:
    """Return for each image the w ``[B, width]`` of the sample most like it, sigma_w, and noise maps ``[1, 1, …]``."""
    device = images.device
    maps = [Randomness([seed_for(options.seed, 0)], device).normal((1, *shape)) for shape in noise_shapes(config.size)]
    for planes in maps:
        normalise(planes)
    seeds = [seed_for(options.seed, 1, number) for number in range(options.candidates)]
    w = model.mapping(Randomness(seeds, device).normal((config.network.latent_width,)))
    sigma = float((w - w.mean(0)).square().sum(1).mean().sqrt())
    similarity = []
    for sample in w:
        # One after the other: a start must not depend on how many there are.
        image = model.synthesis(sample[None, None].repeat(1, style_count(config.size), 1), *maps)
        similarity.append(ssim_map(image.expand_as(images), images).flatten(1).mean(1))
    return w[torch.stack(similarity).argmax(0)], sigma, maps


def learning_rate(options: StyleGANProjectOptions, iteration: int) -> float:
    """Return Adam's rate in an iteration, from 0: a linear rise, a plateau, a cosine fall."""
    rise = min((iteration + 1) / max(options.ramp_up, 1), 1.0)
    left = min((options.iterations - iteration) / max(options.ramp_down, 1), 1.0)
    return options.learning_rate * rise * (0.5 - 0.5 * math.cos(math.pi * left))


def w_noise(options: StyleGANProjectOptions, iteration: int) -> float:
    """Return the noise on w in an iteration, from 0, in units of sigma_w: 0.05 t², t falling from 1 to 0."""
    left = max(1 - iteration / options.w_noise_iterations, 0.0) if options.w_noise_iterations else 0.0
    return options.w_noise * left**2


def noise_penalty(maps: Sequence[Tensor]) -> Tensor:
    """Return how far noise maps are from white, ``[B]``: 0 in expectation for large ones.

    For each map and each axis the squared mean of the product with the map moved one pixel along that axis, in a
    circle; so again for averages over 2 pixels a side, until a side is 8 or less.

    Args:
        maps: Each ``[B, 1, *spatial]``.

    Source: StyleGAN2 paper, appendix D, equation 11 and what follows. Departure: averages are not multiplied by 2 to
    keep unit variance, as that text has it; the reference implementation does not either, and the weight c = 1e5 is
    its. Coarse maps therefore count less, in 2D by 16 for each level down.
    """
    total = torch.zeros(len(maps[0]), device=maps[0].device)
    for planes in maps:
        level = planes
        while True:
            for axis in range(2, level.dim()):
                total = total + (level * level.roll(1, axis)).flatten(1).mean(1).square()
            if min(level.shape[2:]) <= _SMALLEST:
                break
            level = _POOL[level.dim() - 2](level, 2)
    return total


def normalise(planes: Tensor) -> None:
    """Give each noise map ``[B, 1, *spatial]`` zero mean and unit variance, in place."""
    axes = tuple(range(1, planes.dim()))
    planes -= planes.mean(axes, keepdim=True)
    planes *= torch.rsqrt(cast(Tensor, planes.square().mean(axes, keepdim=True)))
