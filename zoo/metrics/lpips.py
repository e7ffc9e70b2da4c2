"""LPIPS with AlexNet or VGG16, with weights from local files."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics.weights import find_weights, read_weights

_TRUNKS = {"alex": ("AlexNet", "alexnet-owt-7be5be79.pth"), "vgg": ("VGG16", "vgg16-397923af.pth")}
"""By lpips' name: the network and torchvision's file, whose name ends in the start of its SHA-256."""

MIN_SIDE = 64
"""Smallest side, pixels; AlexNet's strides reduce smaller images to nothing."""


def find_alexnet(weights: Path | None) -> Path:
    """Return the file with AlexNet's weights: ``weights``, or torchvision's file in torch's cache.

    Raises:
        DataError: The file is missing; nothing is downloaded.
    """
    return _find("alex", weights, "--lpips-weights FILE")


def _find(net: str, weights: Path | None, option: str) -> Path:
    trunk, published = _TRUNKS[net]
    return find_weights(weights, published, f"LPIPS with {trunk}", option)


def load_network(net: str, weights: Path | None, option: str) -> tuple[Any, Path]:
    """Return the lpips package's network with weights from a file, and that file.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        weights: Weights of the trunk, ``.safetensors`` or torchvision's ``.pth``; ``None``: the file in torch's cache.
        option: Command-line option that names the file, for the message.

    Raises:
        DataError: The weights are missing or those of another network.

    Source: Zhang et al. 2018, linear weights 0.1 of the lpips package.
    """
    file = _find(net, weights, option)
    state = read_weights(file, _TRUNKS[net][1])
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips

        # The linear weights come with the package; the trunk is random until its weights are loaded below.
        network = lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)
        linear = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    loaded = network.load_state_dict(torch.load(linear, map_location="cpu", weights_only=True), strict=False)
    # `lins` is another name for lin0 to lin4.
    missing = [name for name in loaded.missing_keys if name.startswith("lin") and not name.startswith("lins")]
    if loaded.unexpected_keys or missing:
        raise DataError(f"The linear weights of the installed lpips package do not fit: {loaded}.")
    # The package splits the trunk into slices and keeps the layers' numbers: slice2.3.weight is features.3.weight.
    names = list(network.net.state_dict())
    try:
        network.net.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in names})
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{file} does not hold {_TRUNKS[net][0]}'s weights: {error}.") from None
    return network.eval().requires_grad_(False), file


def load_lpips(weights: Path | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return LPIPS with AlexNet as a function of two batches.

    Args:
        weights: As for `load_network`.

    Returns:
        ``(first, second) -> [B]`` for images ``[B, 1 or 3, H, W]`` in [-1, 1] with sides of at least 64 pixels; lower
        is more similar.

    Raises:
        DataError: The weights are missing or not AlexNet's.
    """
    network, _ = load_network("alex", weights, "--lpips-weights FILE")

    @torch.inference_mode()
    def measure(first: Tensor, second: Tensor) -> Tensor:
        if first.shape != second.shape or first.shape[1] not in (1, 3):
            raise DataError(f"LPIPS compares [B, 1 or 3, H, W], got {list(first.shape)} and {list(second.shape)}.")
        if min(first.shape[2:]) < MIN_SIDE:
            raise DataError(f"LPIPS needs sides of at least {MIN_SIDE} pixels, got {list(first.shape[2:])}.")
        shape = (-1, 3, -1, -1)
        return network(first.float().expand(shape), second.float().expand(shape)).flatten()

    return measure
