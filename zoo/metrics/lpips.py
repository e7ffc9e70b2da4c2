"""LPIPS with AlexNet, from weights that are on this machine."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import DataError
from zoo.files import sha256

ALEXNET = "alexnet-owt-7be5be79.pth"
"""Torchvision's file; its name carries the start of its SHA-256."""

MIN_SIDE = 64
"""Pixels; AlexNet's strides leave nothing of smaller images."""


def find_alexnet(weights: Path | None) -> Path:
    """Return the file with AlexNet's weights: the one named, else torchvision's in the cache of torch.

    Raises:
        DataError: It is not there; nothing is downloaded.
    """
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not path.is_file():
        raise DataError(
            f"LPIPS needs AlexNet's weights, and there is no {path.name if weights else ALEXNET} in {path.parent}; "
            "fetch torchvision's file on a machine with internet and give it with --lpips-weights FILE."
        )
    return path


def load_lpips(weights: Path | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return LPIPS as a function of two batches.

    Args:
        weights: AlexNet's weights, ``.safetensors`` or torchvision's own ``.pth``; ``None`` looks in torch's cache.

    Returns:
        ``(first, second) -> [B]`` for images ``[B, 1 or 3, H, W]`` in [-1, 1] of at least 64 pixels a side; lower is
        more alike.

    Raises:
        DataError: The weights are missing or are not AlexNet's.

    Source: Zhang et al. 2018, linear weights 0.1 of the lpips package.
    """
    state = _read_alexnet(find_alexnet(weights))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips

        # The linear weights come with the package; the trunk starts random and is filled from the file.
        network = lpips.LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False)
        linear = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
    loaded = network.load_state_dict(torch.load(linear, map_location="cpu", weights_only=True), strict=False)
    # `lins` is another name for lin0 to lin4.
    absent = [name for name in loaded.missing_keys if name.startswith("lin") and not name.startswith("lins")]
    if loaded.unexpected_keys or absent:
        raise DataError(f"The linear weights of the installed lpips package do not fit: {loaded}.")
    # The package cuts AlexNet's features into slices and keeps their numbers: slice2.3.weight is features.3.weight.
    names = list(network.net.state_dict())
    try:
        network.net.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in names})
    except (KeyError, RuntimeError) as error:
        raise DataError(f"These are not AlexNet's weights: {error}.") from None
    network.eval().requires_grad_(False)

    @torch.inference_mode()
    def measure(first: Tensor, second: Tensor) -> Tensor:
        if first.shape != second.shape or first.shape[1] not in (1, 3):
            raise DataError(f"LPIPS compares [B, 1 or 3, H, W], got {list(first.shape)} and {list(second.shape)}.")
        if min(first.shape[2:]) < MIN_SIDE:
            raise DataError(f"LPIPS needs sides of at least {MIN_SIDE} pixels, got {list(first.shape[2:])}.")
        shape = (-1, 3, -1, -1)
        return network(first.float().expand(shape), second.float().expand(shape)).flatten()

    return measure


def _read_alexnet(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is not a whole safetensors file: {error}.") from None
    if not sha256(path).startswith("7be5be79"):
        raise DataError(f"{path} is not torchvision's {ALEXNET}; other .pth files may hold code and are not opened.")
    return torch.load(path, map_location="cpu", weights_only=True)
