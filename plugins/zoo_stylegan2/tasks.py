"""The verbs ``sample`` and ``edit`` of a trained ``stylegan2-ada``, and the score of its discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.nn.stylegan import noise_shapes, style_count
from zoo.randomness import Randomness
from zoo.tasks import EditOptions, Parts, Samples
from zoo.training.state import load_state
from zoo_stylegan2.config import StyleGANConfig, StyleGANOptions
from zoo_stylegan2.networks import build_discriminator


def sample(parts: Parts, config: StyleGANConfig, seeds: Sequence[int], options: StyleGANOptions) -> Samples:
    """Generate one image per seed: the verb ``sample``. Copies of a contrast are averaged."""
    return _as_samples(draw(parts, config, Randomness(seeds), truncation=options.truncation), config)


def edit(parts: Parts, config: StyleGANConfig, codes: Tensor, noise: Sequence[Tensor], options: EditOptions) -> Samples:
    """Generate images from styles ``[N, style_count, style_width]`` (W+): the verb ``edit``."""
    return _as_samples(parts["synthesis"](codes, *noise), config)


def _as_samples(images: Tensor, config: StyleGANConfig) -> Samples:
    """Return generated images ``[N, image_channels, *size]`` with the copies of each contrast averaged."""
    grouped = images.float().cpu().reshape(len(images), -1, config.copies, *config.size)
    images = grouped.mean(2).clamp(-1, 1)
    return Samples(images=images, channels=config.data.contrasts, spacing_mm=config.spacing_mm)


def draw(
    parts: Parts,
    config: StyleGANConfig,
    random: Randomness,
    *,
    truncation: float = 1.0,
    batch_size: int | None = None,
) -> Tensor:
    """Generate one image per generator of ``random``, ``[N, image_channels, *size]``, with fresh noise maps.

    Args:
        parts: ``mapping`` and ``synthesis``.
        config: Settings.
        random: One generator per image.
        truncation: psi.
        batch_size: Images per call of ``synthesis``; ``None``: all at once.
    """
    images = []
    styles, noise = _codes(parts, config, random, truncation)
    for rows in torch.arange(len(styles), device=styles.device).split(batch_size or len(styles)):
        images.append(parts["synthesis"](styles[rows], *(maps[rows] for maps in noise)))
    return torch.cat(images)


def draw_codes(parts: Parts, config: StyleGANConfig, seeds: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Return the styles ``[N, style_count, style_width]`` and noise maps of the images that ``sample`` generates."""
    return _codes(parts, config, Randomness(seeds), truncation=1.0)


def _codes(parts: Parts, config: StyleGANConfig, random: Randomness, truncation: float) -> tuple[Tensor, list[Tensor]]:
    z = random.normal((config.network.latent_width,))
    noise = [random.normal((1, *shape)) for shape in noise_shapes(config.size)]
    w = parts["mapping"](z, torch.full((len(z),), truncation, device=z.device))
    return w[:, None].expand(-1, style_count(config.size), -1).contiguous(), noise


def discriminator_score(config: StyleGANConfig, checkpoint: Path, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``(images, companions) -> scores``, the discriminator's score of single images, ``[N]`` on the CPU.

    The minibatch standard deviation makes a score depend on the group of an image. Each image is therefore scored in
    a group with the same real images: the first ``companions``.

    Args:
        config: Settings.
        checkpoint: Folder of the checkpoint that holds the discriminator.
        device: Device that computes the scores.

    Raises:
        ArtifactError: The checkpoint is damaged.
    """
    network = build_discriminator(config).eval().requires_grad_(False)
    network.load_state_dict(load_state(checkpoint)["trainer"]["discriminator"])
    network.to(device)

    @torch.inference_mode()
    def score(images: Tensor, companions: Tensor) -> Tensor:
        others = [companion.expand_as(images) for companion in companions[: network.group_size - 1]]
        # `minibatch_std` takes every N-th image into one group: an image, then one copy of each companion.
        batch = torch.cat([images, *others]).repeat_interleave(config.copies, dim=1).to(device)
        return network(batch)[: len(images)].cpu()

    return score
