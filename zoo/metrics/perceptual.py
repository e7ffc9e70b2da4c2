"""Distances between images that an optimiser can follow: LPIPS, the features of a network, or SSIM and squares.

They are made for projection: what belongs to the targets is computed once, and each image has its own distance.
Networks take three channels. Channels are therefore taken in threes, in order, and the last group is filled up with its
last channel (one channel: thrice the same; four: 1 2 3 and 4 4 4); the distance is the mean over the groups. Of a
volume it is the mean over its axial slices.
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
"""Takes targets ``[B, C, *size]`` and returns the distance of images of that shape from them, ``[B]``."""

LARGEST = 256
"""Pixels; networks see larger images reduced to it, as they were trained on about that size."""


@dataclass(frozen=True)
class NamedDistance:
    """A distance and what it is.

    Attributes:
        measure: Of targets and images.
        name: As it is recorded, e.g. ``"feature:resnet18, random weights of seed 0"``.
        weights_sha256: Of the file of weights; ``None`` where there is none.
    """

    measure: Measure
    name: str
    weights_sha256: str | None


def load_distance(loss: str, weights: Path | None, device: torch.device | str = "cpu") -> NamedDistance:
    """Return a distance by its name.

    Args:
        loss: ``"lpips"`` (VGG16), ``"feature:NAME"`` with a timm network, or ``"ssim+l2"``.
        weights: Of the network; lpips takes torchvision's VGG16 (from torch's cache if ``None``), a timm network
            its own safetensors file (random weights of seed 0 if ``None``).
        device: Where images will be.

    Raises:
        DataError: The weights are missing or are another network's; nothing is downloaded and nothing else used.
        ConfigError: There is no such loss, or it takes no weights.
        UnknownNameError: timm has no such network.
        MissingExtraError: timm is not installed.
    """
    if loss == "ssim+l2":
        if weights is not None:
            raise ConfigError(
                f"--loss ssim+l2 has no weights, so {weights.name} would not be used; leave --weights out."
            )
        return NamedDistance(_ssim_and_squares, "1 - SSIM + mean square", None)
    if loss == "lpips":
        network, file = load_network("vgg", weights, "--weights FILE, or choose --loss ssim+l2 or --loss feature:NAME")
        network.to(device)
        layers = [layer.to(device) for layer in network.lins]

        def look(images: Tensor) -> list[Tensor]:
            return [_unit(feature) for feature in network.net(network.scaling_layer(images))]

        return NamedDistance(_of_features(look, layers), "LPIPS, VGG16", sha256(file))
    kind, colon, name = loss.partition(":")
    if kind != "feature" or not colon:
        raise ConfigError(f"There is no loss {loss!r}; use lpips, feature:NAME or ssim+l2.")
    backbone: Any = timm_network(name, weights, levels=True).to(device)
    mean, std = (torch.tensor(backbone.default_cfg[key], device=device)[:, None, None] for key in ("mean", "std"))

    def look_by_name(images: Tensor) -> list[Tensor]:
        return [_unit(feature) for feature in backbone(((images + 1) / 2 - mean) / std)]

    told = f"weights of {weights.name}" if weights else "random weights of seed 0"
    return NamedDistance(_of_features(look_by_name, None), f"{loss}, {told}", sha256(weights) if weights else None)


def _ssim_and_squares(target: Tensor) -> Callable[[Tensor], Tensor]:
    def measure(images: Tensor) -> Tensor:
        similarity = ssim_map(images, target).flatten(1).mean(1)
        return (1 - similarity).float() + (images - target).square().flatten(1).mean(1)

    return measure


def _of_features(look: Callable[[Tensor], list[Tensor]], layers: Sequence[Any] | None) -> Measure:
    """Return the distance between unit features, weighted by ``layers`` or summed over channels."""

    def prepare(target: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            wanted = look(in_threes(target))

        def measure(images: Tensor) -> Tensor:
            total = torch.zeros([], device=images.device)
            for number, (feature, goal) in enumerate(zip(look(in_threes(images)), wanted, strict=True)):
                squares = (feature - goal).square()
                weighted = layers[number](squares) if layers is not None else squares.sum(1, keepdim=True)
                total = total + weighted.mean((1, 2, 3))
            return total.reshape(len(images), -1).mean(1)

        return measure

    return prepare


def _unit(feature: Tensor) -> Tensor:
    # The root of a square has no gradient at 0, where a ReLU leaves whole pixels.
    return feature * torch.rsqrt(feature.square().sum(1, keepdim=True) + 1e-10)


def in_threes(images: Tensor) -> Tensor:
    """Return what a network of three channels sees of images, ``[B * planes * groups, 3, H, W]``.

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
