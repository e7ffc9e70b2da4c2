"""Files of published weights: found locally, and read without running code from them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import DataError
from zoo.system.files import sha256


def find_weights(given: Path | None, published: str, user: str, option: str) -> Path:
    """Return the given file of weights, or the published one in torch's cache.

    Args:
        given: File that the user named.
        published: Name of the published file, such as ``"vgg16-397923af.pth"``.
        user: What needs the weights, for the message.
        option: Command-line option that names the file, for the message.

    Raises:
        DataError: The file is missing; nothing is downloaded.
    """
    path = given or Path(torch.hub.get_dir()) / "checkpoints" / published
    if not path.is_file():
        raise DataError(
            f"{user} needs {published}, and there is no {path.name} in {path.parent}; fetch it on a machine with "
            f"internet and give it with {option}."
        )
    return path


def read_weights(path: Path, published: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Args:
        path: A ``.safetensors`` file, or the published file.
        published: Name of the published ``.pth`` file, which ends in the start of its SHA-256. No other ``.pth`` file
            is opened.

    Raises:
        DataError: The file is damaged or may hold code.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is not a whole safetensors file: {error}.") from None
    if published is None or not sha256(path).startswith(published.removesuffix(".pth").rpartition("-")[2]):
        known = f", or the published {published}" if published else ""
        raise DataError(f"{path} may hold code that runs when it is opened; give a .safetensors file{known}.")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
