"""Distances between sets of images by features of a named extractor.

The small fixed set of features needs no pretrained network, in 2D and 3D and for any number of channels. The Fréchet
distance is that of the literature (FID) with the features `INCEPTION` alone, and values by two extractors cannot be
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics.backbones import inception_network, timm_network
from zoo.system.files import sha256

RADIOMIC = "radiomic"
"""Name of the fixed set of features."""

INCEPTION = "inception"
"""Name of the features of the Fréchet Inception distance."""

BATCH = 64
"""Images whose features are computed at once."""

_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
_OCTAVES = 3
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_FOREGROUND = -0.9


def radiomic_features(images: Tensor) -> Tensor:
    """Return what a radiologist's ruler would find in each image, float64 ``[B, F]``.

    For each channel: the share of foreground; the mean, the spread and five quantiles of its intensities; its centre
    and its spread along each axis, in shares of the side; the difference between the left half and the mirrored right
    half; the logarithm of the energy in each of three octaves of detail and of what is left.

    Args:
        images: ``[B, C, *spatial]`` in [-1, 1], two or three spatial axes, the first from left to right.
    """
    dims = images.dim() - 2
    count = len(images)
    columns: list[Tensor] = []
    for channel in images.double().clamp(-1, 1).split(1, dim=1):
        pixels = channel.flatten(1)
        inside = (pixels > _FOREGROUND).double()
        voxels = inside.sum(1).clamp(min=1)
        mean = (pixels * inside).sum(1) / voxels
        spread = ((pixels - mean[:, None]).square() * inside).sum(1) / voxels
        columns += [inside.mean(1), mean, spread.sqrt()]
        ordered = pixels.sort(dim=1).values
        columns += [ordered[:, int(share * (ordered.shape[1] - 1))] for share in _SHARES]
        weights = channel[:, 0] + 1 + 1e-6
        for axis in range(dims):
            others = [other + 1 for other in range(dims) if other != axis]
            along = weights.sum(others)
            along = along / along.sum(1, keepdim=True)
            place = torch.linspace(0, 1, along.shape[1], dtype=along.dtype, device=along.device)
            centre = (along * place).sum(1)
            columns += [centre, ((place - centre[:, None]).square() * along).sum(1).sqrt()]
        columns.append((channel - channel.flip(2)).abs().flatten(1).mean(1))
        rest = channel
        for _ in range(_OCTAVES):
            coarse = _POOL[dims](rest, 2)
            shape = [2 * side for side in coarse.shape[2:]]
            detail = rest[(..., *[slice(side) for side in shape])] - F.interpolate(coarse, shape)
            columns.append(torch.log(detail.square().flatten(1).mean(1) + 1e-8))
            rest = coarse
        columns.append(torch.log(rest.var(dim=list(range(2, dims + 2)), correction=0)[:, 0] + 1e-8))
    return torch.stack(columns, dim=1).reshape(count, -1)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared Fréchet distance between the Gaussians fitted to two sets of features.

    Args:
        first, second: ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows.

    Source: Heusel et al. 2017, equation 6: ``|m1 - m2|² + trace(C1 + C2 - 2 (C1 C2)^½)``.
    """
    _check_two(first, second)
    first, second = first.double(), second.double()
    between = (first.mean(0) - second.mean(0)).square().sum()
    one, other = torch.cov(first.T), torch.cov(second.T)
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return float((between + one.trace() + other.trace() - 2 * shared).clamp(min=0))


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Return the squared maximum mean discrepancy between two sets of features, unbiased, so it may be below 0.

    Args:
        first, second: ``[N, F]`` and ``[M, F]``.

    Raises:
        DataError: A set has fewer than two rows.

    Source: Bińkowski et al. 2018, section 4, kernel ``(x · y / F + 1)³``. Departure: all pairs at once instead of means
    over subsets; the interval comes from a bootstrap.
    """
    _check_two(first, second)
    first, second = first.double(), second.double()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(some: Tensor) -> Tensor:
        values = kernel(some, some)
        return (values.sum() - values.trace()) / (len(some) * (len(some) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def _check_two(first: Tensor, second: Tensor) -> None:
    if min(len(first), len(second)) < 2:
        raise DataError(f"A distance between sets of {len(first)} and {len(second)} images needs two in each.")


def nearest_distances(images: Tensor, real: Tensor, *, not_of: Tensor | None = None) -> Tensor:
    """Return the distance of each image to the nearest real one, float64 ``[N]``.

    Args:
        images: ``[N, F]`` features.
        real: ``[M, F]`` features in the same units.
        not_of: bool ``[N, M]``, real images that do not count for an image, such as those of the same subject.

    Raises:
        DataError: No real image is left for an image.
    """
    distances = torch.cdist(images.double(), real.double())
    if not_of is not None:
        distances = distances.masked_fill(not_of, torch.inf)
    nearest = distances.min(dim=1).values
    if nearest.isinf().any():
        raise DataError("A distance to the nearest image of another subject needs at least two subjects.")
    return nearest


@dataclass(frozen=True)
class Extractor:
    """Features of images, and what they are.

    Attributes:
        name: The network, its weights and their hash, or the name of the fixed set.
        features: ``[B, C, *spatial]`` in [-1, 1] to float64 ``[B, F]``.
    """

    name: str
    features: Callable[[Tensor], Tensor]

    def in_batches(self, images: Tensor) -> Tensor:
        """Return the features of as many images as there are, `BATCH` at a time."""
        return torch.cat([self.features(batch) for batch in images.split(BATCH)])


def load_extractor(name: str, weights: Path | None = None) -> Extractor:
    """Return an extractor by name.

    Args:
        name: `RADIOMIC`, `INCEPTION`, or ``"timm:resnet18"`` for a network of timm, the features before its
            classifier. Images of one or three channels are resized to the network's own input.
        weights: The network's weights. Of `INCEPTION` the published file, by default in torch's cache; of timm's
            networks ``.safetensors`` as timm names them, by default random numbers of seed 0.

    Raises:
        DataError: There are no such features, or the weights are missing or not the network's.
        UnknownNameError: timm has no such network.
        MissingExtraError: timm or torch-fidelity is not installed.
    """
    kind, _, network = name.partition(":")
    if name == RADIOMIC:
        if weights:
            raise DataError(f"The features {RADIOMIC!r} are fixed and take no weights; name a network: timm:resnet18.")
        return Extractor("fixed set of 17 features a channel", radiomic_features)
    if name == INCEPTION:
        return _inception_extractor(weights)
    if kind != "timm" or not network:
        raise DataError(
            f"There are no features {name!r}; write {RADIOMIC}, {INCEPTION}, or timm:NAME for a network of timm."
        )
    return _timm_extractor(network, weights)


def _inception_extractor(weights: Path | None) -> Extractor:
    network, file = inception_network(weights)

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        _check_colours(images, "Inception takes")
        whole = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return network(whole.expand(-1, 3, -1, -1))[0].double()

    return Extractor(f"{INCEPTION}, {_told(file)}", features)


def _timm_extractor(name: str, weights: Path | None) -> Extractor:
    network = timm_network(name, weights, levels=False)
    told = _told(weights) if weights else "random weights of seed 0"
    settings = cast(dict[str, Any], network.pretrained_cfg)
    _, *side = settings["input_size"]
    mean, deviation = (torch.tensor(settings[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        _check_colours(images, "timm's networks take")
        scaled = F.interpolate(images.float(), side, mode="bilinear", align_corners=False, antialias=True)
        return network((scaled.expand(-1, 3, -1, -1) / 2 + 0.5 - mean) / deviation).double()

    return Extractor(f"timm {name}, {told}", features)


def _check_colours(images: Tensor, who: str) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"{who} [B, 1 or 3, H, W], got {list(images.shape)}; use {RADIOMIC}.")


def _told(weights: Path) -> str:
    return f"weights {weights.name}, SHA-256 {sha256(weights)[:12]}"


def radiomic_distance(real: Tensor, generated: Tensor) -> float:
    """Return `frechet_distance` of `radiomic_features`, each feature in units of its spread among ``real`` images.

    Args:
        real, generated: ``[N, C, *spatial]`` and ``[M, C, *spatial]`` in [-1, 1].
    """
    features = radiomic_features(real)
    # A feature that hardly varies among few real images must not outweigh all the others.
    scale = features.std(0, correction=0).clamp(min=0.01)
    return frechet_distance(features / scale, radiomic_features(generated) / scale)
