"""Differentiable distances between images: LPIPS, features of a network, or SSIM plus mean squared error.

They serve projection: the features of the targets are computed once, and each image has its own distance. Networks
take three channels, so channels are grouped in threes, in order; the last group repeats its last channel (one channel:
1 1 1; four: 1 2 3 and 4 4 4). The distance is the mean over the groups, and for volumes the mean over the axial slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError
from zoo.metrics.backbones import timm_network
from zoo.metrics.image import ssim_map
from zoo.metrics.lpips import load_network
from zoo.system.files import sha256

Measure = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""Takes targets ``[B, C, *size]`` and returns a function from images of that shape to their distances, ``[B]``."""

LARGEST = 256
"""Largest side that networks see, pixels; larger images are reduced to about the size of their training images."""


@dataclass(frozen=True)
class NamedDistance:
    """A distance with its name.

    Attributes:
        measure: The distance.
        name: Name for the record, such as ``"feature:resnet18, random weights of seed 0"``.
        weights_sha256: SHA-256 of the file of weights; ``None`` without a file.
    """

    measure: Measure
    name: str
    weights_sha256: str | None


def load_distance(loss: str, weights: Path | None, device: torch.device | str = "cpu") -> NamedDistance:
    """Return a distance by name.

    Args:
        loss: ``"lpips"`` (VGG16), ``"feature:NAME"`` with a timm network, or ``"ssim+l2"``.
        weights: File of the network's weights. lpips takes torchvision's VGG16 (``None``: the file in torch's cache), a
            timm network its ``.safetensors`` file (``None``: random weights of seed 0).
        device: Device of the images.

    Raises:
        DataError: The weights are missing or those of another network; nothing is downloaded.
        ConfigError: There is no such loss, or it has no weights.
        UnknownNameError: timm has no such network.
        MissingExtraError: timm is not installed.
    """
    if loss == "ssim+l2":
        if weights is not None:
            raise ConfigError(
                f"--loss ssim+l2 has no weights, so {weights.name} would not be used; leave --weights out."
            )
        return NamedDistance(_ssim_and_mse, "1 - SSIM + mean square", None)
    if loss == "lpips":
        network, file = load_network("vgg", weights, "--weights FILE, or choose --loss ssim+l2 or --loss feature:NAME")
        network.to(device)
        layers = [layer.to(device) for layer in network.lins]

        def features(images: Tensor) -> list[Tensor]:
            return [_unit(feature) for feature in network.net(network.scaling_layer(images))]

        return NamedDistance(_of_features(features, layers), "LPIPS, VGG16", sha256(file))
    kind, colon, name = loss.partition(":")
    if kind != "feature" or not colon:
        raise ConfigError(f"There is no loss {loss!r}; use lpips, feature:NAME or ssim+l2.")
    backbone: Any = timm_network(name, weights, levels=True).to(device)
    mean, std = (torch.tensor(backbone.default_cfg[key], device=device)[:, None, None] for key in ("mean", "std"))

    def backbone_features(images: Tensor) -> list[Tensor]:
        return [_unit(feature) for feature in backbone(((images + 1) / 2 - mean) / std)]

    origin = f"weights of {weights.name}" if weights else "random weights of seed 0"
    return NamedDistance(
        _of_features(backbone_features, None), f"{loss}, {origin}", sha256(weights) if weights else None
    )


def _ssim_and_mse(target: Tensor) -> Callable[[Tensor], Tensor]:
    def measure(images: Tensor) -> Tensor:
        similarity = ssim_map(images, target).flatten(1).mean(1)
        return (1 - similarity).float() + (images - target).square().flatten(1).mean(1)

    return measure


def _of_features(features: Callable[[Tensor], list[Tensor]], layers: Sequence[Any] | None) -> Measure:
    """Return the distance between unit-length features: weighted by ``layers``, or summed over channels.

    Source: Zhang et al. 2018, equation 1.
    """

    def prepare(target: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            goals = features(in_threes(target))

        def measure(images: Tensor) -> Tensor:
            total = torch.zeros([], device=images.device)
            for number, (feature, goal) in enumerate(zip(features(in_threes(images)), goals, strict=True)):
                squares = (feature - goal).square()
                weighted = layers[number](squares) if layers is not None else squares.sum(1, keepdim=True)
                total = total + weighted.mean((1, 2, 3))
            return total.reshape(len(images), -1).mean(1)

        return measure

    return prepare


def _unit(feature: Tensor) -> Tensor:
    # The epsilon keeps the gradient finite at pixels whose features are all 0 after a ReLU.
    return feature * torch.rsqrt(feature.square().sum(1, keepdim=True) + 1e-10)


def in_threes(images: Tensor) -> Tensor:
    """Return images as the inputs of a network of three channels, ``[B * planes * groups, 3, H, W]``.

    Args:
        images: ``[B, C, i, j]`` or ``[B, C, i, j, k]`` in [-1, 1].
    """
    planes = images if images.dim() == 4 else images.permute(0, 4, 1, 2, 3).flatten(0, 1)
    channels = planes.shape[1]
    groups = -(-channels // 3)
    index = torch.arange(3 * groups, device=images.device).clamp(max=channels - 1)
    threes = planes[:, index].reshape(-1, 3, *planes.shape[2:])
    longest = max(threes.shape[2:])
    if longest <= LARGEST:
        return threes
    size = [max(side * LARGEST // longest, 1) for side in threes.shape[2:]]
    return F.interpolate(threes, size, mode="area")
