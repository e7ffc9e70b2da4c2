"""The verb ``sample`` of a trained ``dcgan`` or ``wgan``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import UnknownNameError, did_you_mean
from zoo.randomness import Randomness
from zoo.tasks import Parts, Samples
from zoo_multiparametric_gan.config import GANConfig, GANOptions
from zoo_multiparametric_gan.networks import one_hot


def sample(parts: Parts, config: GANConfig, seeds: Sequence[int], options: GANOptions) -> Samples:
    """Generate one patch per seed: the verb ``sample``.

    Raises:
        UnknownNameError: The model has no class ``options.label``; the message lists its classes.
    """
    names = config.class_names
    if options.label is not None and options.label not in names:
        raise UnknownNameError(
            f"The model has no class {options.label!r}.{did_you_mean(options.label, names)} Classes: "
            f"{', '.join(names)}."
        )
    random = Randomness(seeds)
    z = random.normal((config.network.latent_width,))
    if options.label is None:
        labels = random.integers(len(names))
    else:
        labels = torch.full((len(seeds),), names.index(options.label))
    images = draw(parts, config, z, labels).float().cpu().clamp(-1, 1)
    return Samples(
        images=images,
        channels=config.data.contrasts,
        spacing_mm=config.spacing_mm,
        labels=tuple(names[label] for label in labels.tolist()),
    )


def draw(parts: Parts, config: GANConfig, z: Tensor, labels: Tensor) -> Tensor:
    """Return the patches of noise ``[N, latent_width]`` and class indices ``[N]``: ``[N, C, *size]`` in [-1, 1]."""
    return parts["generator"](z, one_hot(labels, config))
