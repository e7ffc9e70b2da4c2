"""Features of images by a named extractor, for the distances of `zoo.metrics.distances`.

The fixed set `TEXTURE` needs no pretrained network and takes 2D and 3D images of any number of channels. Only the
features `INCEPTION` give the Fréchet distance of the literature (FID). Values from different extractors cannot be
compared.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics.backbones import inception_network, timm_network
from zoo.metrics.distances import frechet_distance
from zoo.metrics.texture import COUNT, texture_of
from zoo.system.files import sha256

TEXTURE = "texture"
"""Name of the fixed set of features."""

INCEPTION = "inception"
"""Name of the features of the Fréchet Inception distance."""

BATCH = 64
"""Images per call of an extractor."""

_TEXTURE_VERSION = 1
"""Raised when the features change, so that stored ones are computed again."""


def texture_features(images: Tensor) -> Tensor:
    """Return intensity and co-occurrence features of each channel, float64 ``[B, C * F]``.

    Columns ``c * F`` to ``(c + 1) * F`` belong to channel c and depend on that channel alone; `texture_of` names them.

    Args:
        images: ``[B, C, *spatial]`` in [-1, 1], two or three spatial axes.

    Raises:
        DataError: The images have another number of axes, or values that are not finite.
    """
    if images.dim() not in (4, 5) or not images.numel():
        raise DataError(f"Texture features need images [B, C, H, W] or [B, C, X, Y, Z], got {list(images.shape)}.")
    if not images.isfinite().all():
        raise DataError("An image holds NaN or infinite values, so its texture cannot be measured.")
    batches = [
        np.concatenate([texture_of(channel) for channel in batch.transpose(0, 1).numpy(force=True)], axis=1)
        for batch in images.split(BATCH)  # the co-occurrences of all images at once would fill the memory
    ]
    return torch.from_numpy(np.concatenate(batches))


@dataclass(frozen=True)
class Extractor:
    """A function from images to features.

    Attributes:
        name: Network, resizing, file of weights and its hash; or the name of the fixed set.
        digest: SHA-256 of the extractor and its weights, without names of files: equal digests give equal features.
        channels: Channels of the images: 3 (a single one is repeated) or 1 for networks, ``None`` for any number.
        features: From ``[B, C, *spatial]`` in [-1, 1] to float64 ``[B, F]``.
    """

    name: str
    digest: str
    channels: int | None
    features: Callable[[Tensor], Tensor]

    def in_batches(self, images: Tensor) -> Tensor:
        """Return the features of any number of images, computed `BATCH` at a time."""
        return torch.cat([self.features(batch) for batch in images.split(BATCH)])


def load_extractor(name: str, weights: Path | None = None) -> Extractor:
    """Return an extractor by name.

    Args:
        name: `TEXTURE`; `INCEPTION`; ``"timm:resnet18"`` for the features of a timm network before its classifier;
            ``"torchscript:FILE"`` for a network in a TorchScript file, see `_torchscript_extractor`.
        weights: File of the network's weights. For `INCEPTION`: the published file, by default in torch's cache. For
            timm: ``.safetensors`` with timm's tensor names, by default random weights of seed 0.

    Raises:
        DataError: There are no such features, or the weights are missing or those of another network.
        UnknownNameError: timm has no such network.
        MissingExtraError: timm or torch-fidelity is not installed.
    """
    kind, _, rest = name.partition(":")
    if name == INCEPTION:
        return _inception_extractor(weights)
    if kind == "timm" and rest:
        return _timm_extractor(rest, weights)
    if name != TEXTURE and not (kind == "torchscript" and rest):
        raise DataError(
            f"There are no features {name!r}; write {TEXTURE}, {INCEPTION}, timm:NAME for a network of timm, or "
            "torchscript:FILE for a network in a TorchScript file."
        )
    if weights:
        raise DataError(f"The features {name!r} take no file of weights; name a network, such as timm:resnet18.")
    if name == TEXTURE:
        version = f"texture features, version {_TEXTURE_VERSION}: {COUNT} per channel"
        return Extractor(version, _digest(version), None, texture_features)
    return _torchscript_extractor(Path(rest))


def _inception_extractor(weights: Path | None) -> Extractor:
    network, file = inception_network(weights)
    device = _fastest_device()
    network.to(device)

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        integers = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(device, torch.uint8)
        return network(_as_trio(integers, "Inception takes"))[0].cpu().double()

    kind = f"{INCEPTION}, resized to 299 x 299 as by TensorFlow 1"
    return Extractor(f"{kind}, {_describe(file)}", _digest(kind, sha256(file)), 3, features)


def _timm_extractor(name: str, weights: Path | None) -> Extractor:
    network = timm_network(name, weights, levels=False)
    origin = _describe(weights) if weights else "random weights of seed 0"
    settings = cast(dict[str, Any], network.pretrained_cfg)
    _, *side = settings["input_size"]
    tensors = [value.contiguous().numpy().tobytes() for value in network.state_dict().values()]
    device = _fastest_device()
    network.to(device)
    mean, deviation = (torch.tensor(settings[key], device=device).reshape(1, 3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        trio = _as_trio(images.to(device).float(), "timm's networks take")
        scaled = F.interpolate(trio, side, mode="bilinear", align_corners=False, antialias=True)
        return network((scaled / 2 + 0.5 - mean) / deviation).cpu().double()

    kind = f"timm {name}, resized to {side[0]} x {side[1]} (bilinear, antialiased)"
    return Extractor(f"{kind}, {origin}", _digest(kind, *tensors), 3, features)


def _torchscript_extractor(file: Path) -> Extractor:
    """Return the network of a TorchScript file: a program that is run, so one that its user must trust.

    Torch interprets such a file and runs no Python from it, but its operations can read and write files. So it is
    opened only where the user names it; no run, model or setting of a model ever names one.

    The network takes float32 images ``[B, 3, H, W]`` or ``[B, 1, H, W]`` in [-1, 1] of any size from 64 x 64 on (it
    resizes and rescales them itself) and returns ``[B, F]``.

    Raises:
        DataError: The file is missing or no TorchScript file, or its network takes or returns something else.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}; write torchscript:FILE with the path of a TorchScript file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch prefers its newer formats to TorchScript
            network = torch.jit.load(file, map_location="cpu").eval()
    except RuntimeError as error:
        raise DataError(
            f"{file} is not a TorchScript file ({_last_line(error)}); save a network with "
            "torch.jit.script(network).save(FILE)."
        ) from None
    channels = _channels_of(network, file)

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        if channels == 3:
            images = _as_trio(images, f"The network of {file.name} takes")
        elif images.dim() != 4 or images.shape[1] != 1:
            raise DataError(f"The network of {file.name} takes [B, 1, H, W], got {list(images.shape)}; use {TEXTURE}.")
        return network(images.float()).double()

    kind = "TorchScript, resized by the network"
    return Extractor(f"{kind}, {_describe(file)}", _digest(kind, sha256(file)), channels, features)


@torch.inference_mode()
def _channels_of(network: Callable[[Tensor], object], file: Path) -> int:
    """Return 3 or 1, the number of channels that a network of unknown kind takes, by trial."""
    refusals = []
    for channels in (3, 1):
        try:
            found = network(torch.zeros(2, channels, 64, 64))
        except RuntimeError as error:
            refusals.append(_last_line(error))
            continue
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != 2:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(f"The network of {file} must return features [B, F]; for two images it returned {shape}.")
        return channels
    raise DataError(
        f"The network of {file} takes neither [B, 3, 64, 64] ({refusals[0]}) nor [B, 1, 64, 64] ({refusals[1]}); "
        "resize the images inside the network."
    )


def _last_line(error: Exception) -> str:
    """Return the last line of a message of torch's interpreter, which says what is wrong, shortened."""
    return str(error).strip().splitlines()[-1][:200]


def _fastest_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _as_trio(images: Tensor, taker: str) -> Tensor:
    """Return images of three channels; a single channel is repeated."""
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"{taker} [B, 1 or 3, H, W], got {list(images.shape)}; use {TEXTURE}.")
    return images.expand(-1, 3, -1, -1)


def _describe(weights: Path) -> str:
    return f"weights {weights.name}, SHA-256 {sha256(weights)[:12]}"


def _digest(*parts: str | bytes) -> str:
    """Return the SHA-256 of all parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
    return total.hexdigest()


def texture_distance(real: Tensor, generated: Tensor) -> float:
    """Return the `frechet_distance` of `texture_features`, each divided by its `feature_scale` among ``real`` images.

    The distance is nan if a generated image holds NaN or infinite values, as those of a generator that diverged.

    Args:
        real, generated: ``[N, C, *spatial]`` and ``[M, C, *spatial]`` in [-1, 1].
    """
    if not generated.isfinite().all():
        return float("nan")
    features = texture_features(real)
    scale = feature_scale(features)
    return frechet_distance(features / scale, texture_features(generated) / scale)


def feature_scale(real: Tensor) -> Tensor:
    """Return the standard deviation of each feature among real images ``[N, F]``, at least 0.01, ``[F]``.

    The limit keeps a feature that hardly varies among few images from outweighing all others.
    """
    return real.std(0, correction=0).clamp(min=0.01)
