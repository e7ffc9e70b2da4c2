"""The generator and the discriminator of ``dcgan`` and ``wgan``, and the part that is exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.descriptors import Part, TensorSpec
from zoo.nn.upconv import Upconvolution
from zoo_multiparametric_gan.config import GANConfig

SLOPE = 0.2
"""Negative slope of the discriminator's leaky ReLUs (Radford et al. 2016, section 4)."""

Norm = Literal["batch", "layer", "spectral"]

_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class Generator(nn.Module):
    """From noise and a class to an image of several contrasts.

    A projection to a small image, then upconvolutions that double each side; batch norm and ReLU follow each but the
    last, which has tanh.

    Args:
        size: Sides of the image, a multiple of ``2 ** len(widths)``.
        widths: Channels before each upconvolution, coarsest first.
        channels: Of the image.
        latent_width: Width of the noise.
        classes: Number of classes.

    Source: paper 3.1: four layers, finally an upconvolution with tanh. Projection, widths and initial weights: Radford
    et al. 2016, figure 1 and section 4.
    """

    def __init__(
        self, size: Sequence[int], widths: Sequence[int], channels: int, latent_width: int, classes: int
    ) -> None:
        super().__init__()
        dims = len(size)
        self.base = (widths[0], *(side >> len(widths) for side in size))
        self.projection = nn.Linear(latent_width + classes, math.prod(self.base), bias=False)
        nn.init.normal_(self.projection.weight, std=0.02)
        layers: list[nn.Module] = [_batch_norm(widths[0], dims), nn.ReLU()]
        for inputs, outputs in pairwise(widths):
            layers += [Upconvolution(inputs, outputs, dims, bias=False), _batch_norm(outputs, dims), nn.ReLU()]
        layers += [Upconvolution(widths[-1], channels, dims, bias=True), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images.

        Args:
            z: Standard normal noise, ``[B, latent_width]``.
            y: Class, one-hot, ``[B, classes]``.

        Returns:
            ``[B, channels, *size]`` in [-1, 1].
        """
        coarse = self.projection(torch.cat([z, y], dim=1)).unflatten(1, self.base)
        return self.layers(coarse.contiguous(memory_format=_CHANNELS_LAST[coarse.dim() - 2]))


class Discriminator(nn.Module):
    """Score images: strided convolutions, leaky ReLUs, and one fully connected layer.

    It gives a logit, which ``wgan`` takes as the critic's value. Where it sees the class, a constant image per class
    (1 for the image's own, else 0) is added to the channels [choice].

    Args:
        size: Sides of the image.
        widths: Channels of the convolutions, finest first.
        channels: Of the image.
        classes: Number of classes that it sees; 0 where it sees none.
        norm: After each convolution but the first: ``"batch"``; ``"layer"``, which leaves each image to itself as the
            gradient penalty needs; or ``"spectral"``: of all weights instead.

    Source: paper 3.1: four layers; layout and initial weights of Radford et al. 2016, section 4. Layer norm: Gulrajani
    et al. 2017, section 4. Spectral norm: Miyato et al. 2018.
    """

    def __init__(self, size: Sequence[int], widths: Sequence[int], channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        dims = len(size)
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise((channels + classes, *widths))):
            convolution = _CONVOLUTION[dims](inputs, outputs, 4, stride=2, padding=1)
            layers += [_initialised(convolution, norm)]
            if number and norm != "spectral":
                layers += [_batch_norm(outputs, dims) if norm == "batch" else nn.GroupNorm(1, outputs)]
            layers += [nn.LeakyReLU(SLOPE)]
        last = nn.Linear(widths[-1] * math.prod(side >> len(widths) for side in size), 1)
        self.layers = nn.Sequential(*layers, nn.Flatten(), _initialised(last, norm))
        self.classes = classes

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        """Return scores ``[B]`` of images ``[B, channels, *size]`` of the classes ``y``, one-hot ``[B, classes]``."""
        if self.classes:
            planes = y.reshape(*y.shape, *[1] * (images.dim() - 2)).expand(-1, -1, *images.shape[2:])
            images = torch.cat([images, planes], dim=1)
        return self.layers(images.contiguous(memory_format=_CHANNELS_LAST[images.dim() - 2]))[:, 0]


def _batch_norm(channels: int, dims: int) -> nn.Module:
    norm = _BATCH_NORM[dims](channels)
    nn.init.normal_(norm.weight, 1.0, 0.02)  # type: ignore[arg-type]
    return norm


def _initialised(layer: nn.Conv2d | nn.Conv3d | nn.Linear, norm: Norm) -> nn.Module:
    nn.init.normal_(layer.weight, std=0.02)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if norm == "spectral" else layer


def one_hot(labels: Tensor, config: GANConfig) -> Tensor:
    """Return class indices ``[B]`` as float32 ``[B, classes]``."""
    return F.one_hot(labels, len(config.class_names)).float()


def build(config: GANConfig) -> Generator:
    """Return the generator, which the model file holds and which is exported."""
    network = config.network
    return Generator(
        config.size, network.widths, len(config.data.contrasts), network.latent_width, len(config.class_names)
    )


def build_discriminator(config: GANConfig, norm: Norm) -> Discriminator:
    """Return the discriminator, which only training uses: checkpoints hold it, the model file does not."""
    classes = len(config.class_names) if config.network.condition == "both" else 0
    return Discriminator(config.size, config.network.widths[::-1], len(config.data.contrasts), classes, norm)


def parts(config: GANConfig) -> dict[str, Part]:
    """Return ``generator``, from noise and class to the image."""
    z = TensorSpec(
        name="z",
        dtype="float32",
        shape=("batch", config.network.latent_width),
        range=None,
        meaning="noise, standard normal",
    )
    y = TensorSpec(
        name="y",
        dtype="float32",
        shape=("batch", len(config.class_names)),
        range=(0, 1),
        meaning=f"class, one-hot: {', '.join(config.class_names)}",
    )
    image = TensorSpec(
        name="image",
        dtype="float32",
        shape=("batch", len(config.data.contrasts), *config.size),
        range=(-1, 1),
        meaning=f"patch, channels {', '.join(config.data.contrasts)}",
    )
    return {"generator": Part(module="", inputs=(z, y), outputs=(image,))}
