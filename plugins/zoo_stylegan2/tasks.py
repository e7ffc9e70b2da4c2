"""What a trained ``stylegan2-ada`` does: sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.nn.stylegan import noise_shapes, style_count
from zoo.sampling import Randomness
from zoo.tasks import Parts, Samples
from zoo_stylegan2.config import StyleGANConfig, StyleGANOptions


def sample(parts: Parts, config: StyleGANConfig, seeds: Sequence[int], options: StyleGANOptions) -> Samples:
    """Generate images, the verb ``sample``.

    Copies of a contrast are averaged.
    """
    images = draw(parts, config, Randomness(seeds), truncation=options.truncation).float().cpu()
    grouped = images.reshape(len(images), -1, config.copies, *config.size)
    return Samples(grouped.mean(2).clamp(-1, 1), config.spacing_mm)


def draw(
    parts: Parts,
    config: StyleGANConfig,
    random: Randomness,
    *,
    truncation: float = 1.0,
    batch_size: int | None = None,
) -> Tensor:
    """Generate an image for each generator of ``random``, ``[N, image_channels, *size]``, with fresh noise maps.

    Args:
        parts: ``mapping`` and ``synthesis``.
        config: Settings.
        random: One generator an image.
        truncation: psi.
        batch_size: Images a call; ``None`` for all at once.
    """
    z = random.normal((config.network.latent_width,))
    noise = [random.normal((1, *shape)) for shape in noise_shapes(config.size)]
    images = []
    for rows in torch.arange(len(z), device=z.device).split(batch_size or len(z)):
        w = parts["mapping"](z[rows], torch.full((len(rows),), truncation, device=z.device))
        styles = w[:, None].expand(-1, style_count(config.size), -1).contiguous()
        images.append(parts["synthesis"](styles, *(planes[rows] for planes in noise)))
    return torch.cat(images)
