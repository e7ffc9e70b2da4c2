"""Projection into W+: find the styles of all layers and the noise maps from which the generator makes a given image.

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
"""The noise regulariser averages maps until a side is at most this, pixels."""


def project(
    model: Generator,
    config: StyleGANConfig,
    images: Tensor,
    seeds: Sequence[int],
    distance: Distance,
    options: StyleGANProjectOptions,
    progress: Callable[[int], None] | None = None,
) -> Projected:
    """Find styles and noise maps of images: the verb ``project``.

    One Adam optimises the codes of all images. Adam works per element and the losses are summed, so an image is
    projected as it would be alone, up to rounding.

    Args:
        model: The generator.
        config: Settings.
        images: ``[B, image_channels, *size]`` in [-1, 1].
        seeds: One per image, for the noise on w.
        distance: Takes the images and returns the function that measures the distance of others from them.
        options: Iterations, rates and weights.
        progress: Called with the number of iterations done.

    Raises:
        DataError: The loss is not finite.

    Source: Güllmar et al., section 2.3. Departures: all images share the candidates, which are drawn with the initial
    noise maps; sigma_w is the root of the candidates' variance summed over the elements of w, as in the reference
    implementation; noise on w is drawn per layer; the learning rate of the first and the last step is above 0.
    """
    synthesis = model.synthesis.requires_grad_(False)
    layers, width = style_count(config.size), config.network.style_width
    start, sigma, maps = _start(model, config, images, options)
    w = start[:, None].repeat(1, layers, 1).requires_grad_()
    noise = [noise_map.repeat(len(images), *[1] * (noise_map.dim() - 1)).requires_grad_() for noise_map in maps]
    adam = torch.optim.Adam([w, *noise], lr=options.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    random, distance_to_target = Randomness(seeds, images.device), distance(images)

    for iteration in range(options.iterations):
        adam.param_groups[0]["lr"] = learning_rate(options, iteration)
        scale = w_noise(options, iteration) * sigma
        noisy_w = w + scale * random.normal((layers, width)) if scale else w
        losses = distance_to_target(synthesis(noisy_w, *noise)) + options.noise_weight * noise_penalty(noise)
        adam.zero_grad()
        losses.sum().backward()
        adam.step()
        with torch.no_grad():
            for noise_map in noise:
                normalise(noise_map)
        if progress:
            progress(iteration + 1)

    with torch.no_grad():
        reconstruction = synthesis(w, *noise)
        distances, penalties = distance_to_target(reconstruction), noise_penalty(noise)
    if not bool((distances.isfinite() & penalties.isfinite()).all()):
        raise DataError("A projection ended in NaN or infinite values; try a lower learning_rate.")
    return Projected(
        codes=w.detach().cpu(),
        noise=tuple(noise_map.detach().cpu() for noise_map in noise),
        reconstruction=reconstruction.float().cpu(),
        losses=tuple(
            {"distance": float(one), "noise": float(other)} for one, other in zip(distances, penalties, strict=True)
        ),
    )


@torch.no_grad()
def _start(
    model: Generator, config: StyleGANConfig, images: Tensor, options: StyleGANProjectOptions
) -> tuple[Tensor, float, list[Tensor]]:
    """Return the w ``[B, style_width]`` of the candidate most similar to each image, sigma_w, and the noise maps.

    Similarity is SSIM; noise maps are ``[1, 1, *spatial]``.
    """
    device = images.device
    maps = [Randomness([seed_for(options.seed, 0)], device).normal((1, *shape)) for shape in noise_shapes(config.size)]
    for noise_map in maps:
        normalise(noise_map)
    seeds = [seed_for(options.seed, 1, number) for number in range(options.candidates)]
    w = model.mapping(Randomness(seeds, device).normal((config.network.latent_width,)))
    sigma = float((w - w.mean(0)).square().sum(1).mean().sqrt())
    similarity = []
    for sample in w:
        # One at a time: the rounding of a batch would depend on the number of candidates.
        image = model.synthesis(sample[None, None].repeat(1, style_count(config.size), 1), *maps)
        similarity.append(ssim_map(image.expand_as(images), images).flatten(1).mean(1))
    return w[torch.stack(similarity).argmax(0)], sigma, maps


def learning_rate(options: StyleGANProjectOptions, iteration: int) -> float:
    """Return the learning rate of an iteration, counted from 0: a linear rise, a plateau, a cosine fall."""
    rise = min((iteration + 1) / max(options.ramp_up, 1), 1.0)
    left = min((options.iterations - iteration) / max(options.ramp_down, 1), 1.0)
    return options.learning_rate * rise * (0.5 - 0.5 * math.cos(math.pi * left))


def w_noise(options: StyleGANProjectOptions, iteration: int) -> float:
    """Return the noise on w of an iteration, counted from 0, in units of sigma_w: 0.05 t², t falling from 1 to 0."""
    left = max(1 - iteration / options.w_noise_iterations, 0.0) if options.w_noise_iterations else 0.0
    return options.w_noise * left**2


def noise_penalty(maps: Sequence[Tensor]) -> Tensor:
    """Return the autocorrelation penalty of noise maps, ``[B]``; for white noise it tends to 0 as maps grow.

    For each map and axis: the squared mean of the product of the map with itself, shifted circularly by one pixel.
    This is repeated on averages over 2 pixels per side, until a side is 8 or less.

    Args:
        maps: Each ``[B, 1, *spatial]``.

    Source: StyleGAN2 paper, appendix D, equation 11. Departure: averages are not multiplied by 2 to keep unit variance,
    as the paper describes. The reference implementation does not multiply them either, and the weight c = 1e5 is from
    there. In 2D, each coarser level therefore counts 16 times less.
    """
    total = torch.zeros(len(maps[0]), device=maps[0].device)
    for level in maps:
        while True:
            for axis in range(2, level.dim()):
                total = total + (level * level.roll(1, axis)).flatten(1).mean(1).square()
            if min(level.shape[2:]) <= _SMALLEST:
                break
            level = _POOL[level.dim() - 2](level, 2)
    return total


def normalise(noise: Tensor) -> None:
    """Give each noise map ``[B, 1, *spatial]`` zero mean and unit variance, in place."""
    axes = tuple(range(1, noise.dim()))
    noise -= noise.mean(axes, keepdim=True)
    noise *= torch.rsqrt(cast(Tensor, noise.square().mean(axes, keepdim=True)))
