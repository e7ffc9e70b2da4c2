"""Files of published weights: found on this machine and read without running what they hold."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import DataError
from zoo.system.files import sha256


def find_weights(given: Path | None, published: str, user: str, option: str) -> Path:
    """Return the file of weights that was named, else the published one in the cache of torch.

    Args:
        given: By the user.
        published: Its name, e.g. ``"vgg16-397923af.pth"``.
        user: Who needs it, for the message.
        option: How to name a file, for the message.

    Raises:
        DataError: It is not there; nothing is downloaded.
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
        path: ``.safetensors``, or the published file.
        published: Name of a ``.pth`` file that ends in the start of its own SHA-256; no other one is opened.

    Raises:
        DataError: The file is damaged or may hold code.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is not a whole safetensors file: {error}.") from None
    if published is None or not sha256(path).startswith(published.removesuffix(".pth").rpartition("-")[2]):
        known = f", or {published} as it was published" if published else ""
        raise DataError(f"{path} may hold code that runs when it is opened; give a .safetensors file{known}.")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
