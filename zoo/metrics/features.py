"""Features of images by a named extractor, for the distances of `zoo.metrics.distances`.

The fixed set `RADIOMIC` needs no pretrained network and takes 2D and 3D images of any number of channels. Only the
features `INCEPTION` give the Fréchet distance of the literature (FID). Values from different extractors cannot be
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
from zoo.metrics.distances import frechet_distance
from zoo.system.files import sha256

RADIOMIC = "radiomic"
"""Name of the fixed set of features."""

INCEPTION = "inception"
"""Name of the features of the Fréchet Inception distance."""

BATCH = 64
"""Images per call of an extractor."""

_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
_OCTAVES = 3
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_FOREGROUND = -0.9


def radiomic_features(images: Tensor) -> Tensor:
    """Return simple measures of intensity, position, symmetry and detail of each image, float64 ``[B, F]``.

    Per channel: the share of foreground; mean, standard deviation and five quantiles of the intensities; centre and
    standard deviation of the intensities along each axis, as shares of the side; the mean absolute difference between
    the image and its mirror image; the logarithm of the energy in each of three octaves of detail and of the rest.

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


@dataclass(frozen=True)
class Extractor:
    """A function from images to features, with its name.

    Attributes:
        name: Network, file of weights and its hash; or the name of the fixed set.
        features: From ``[B, C, *spatial]`` in [-1, 1] to float64 ``[B, F]``.
    """

    name: str
    features: Callable[[Tensor], Tensor]

    def in_batches(self, images: Tensor) -> Tensor:
        """Return the features of any number of images, computed `BATCH` at a time."""
        return torch.cat([self.features(batch) for batch in images.split(BATCH)])


def load_extractor(name: str, weights: Path | None = None) -> Extractor:
    """Return an extractor by name.

    Args:
        name: `RADIOMIC`, `INCEPTION`, or ``"timm:resnet18"`` for the features of a timm network before its classifier.
            Networks take images of one or three channels, resized to their own input.
        weights: File of the network's weights. For `INCEPTION`: the published file, by default in torch's cache. For
            timm: ``.safetensors`` with timm's tensor names, by default random weights of seed 0.

    Raises:
        DataError: There are no such features, or the weights are missing or those of another network.
        UnknownNameError: timm has no such network.
        MissingExtraError: timm or torch-fidelity is not installed.
    """
    kind, _, network = name.partition(":")
    if name == RADIOMIC:
        if weights:
            raise DataError(f"The features {RADIOMIC!r} have no weights; name a network, such as timm:resnet18.")
        return Extractor("fixed set of 17 features per channel", radiomic_features)
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
        _check_channels(images, "Inception takes")
        integers = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return network(integers.expand(-1, 3, -1, -1))[0].double()

    return Extractor(f"{INCEPTION}, {_describe(file)}", features)


def _timm_extractor(name: str, weights: Path | None) -> Extractor:
    network = timm_network(name, weights, levels=False)
    origin = _describe(weights) if weights else "random weights of seed 0"
    settings = cast(dict[str, Any], network.pretrained_cfg)
    _, *side = settings["input_size"]
    mean, deviation = (torch.tensor(settings[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        _check_channels(images, "timm's networks take")
        scaled = F.interpolate(images.float(), side, mode="bilinear", align_corners=False, antialias=True)
        return network((scaled.expand(-1, 3, -1, -1) / 2 + 0.5 - mean) / deviation).double()

    return Extractor(f"timm {name}, {origin}", features)


def _check_channels(images: Tensor, taker: str) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"{taker} [B, 1 or 3, H, W], got {list(images.shape)}; use {RADIOMIC}.")


def _describe(weights: Path) -> str:
    return f"weights {weights.name}, SHA-256 {sha256(weights)[:12]}"


def radiomic_distance(real: Tensor, generated: Tensor) -> float:
    """Return the `frechet_distance` of `radiomic_features`, each divided by its `feature_scale` among ``real`` images.

    Args:
        real, generated: ``[N, C, *spatial]`` and ``[M, C, *spatial]`` in [-1, 1].
    """
    features = radiomic_features(real)
    scale = feature_scale(features)
    return frechet_distance(features / scale, radiomic_features(generated) / scale)


def feature_scale(real: Tensor) -> Tensor:
    """Return the standard deviation of each feature among real images ``[N, F]``, at least 0.01, ``[F]``.

    The limit keeps a feature that hardly varies among few images from outweighing all others.
    """
    return real.std(0, correction=0).clamp(min=0.01)
