"""Networks of timm as a source of features, with weights from a local file; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.errors import DataError, MissingExtraError, UnknownNameError, did_you_mean


def timm_network(name: str, weights: Path | None, *, levels: bool) -> nn.Module:
    """Return a network of timm that is not to be trained, without its classifier.

    Args:
        name: As timm names it, e.g. ``"resnet18"``.
        weights: Its ``.safetensors`` file, as timm names them; without, they are random numbers of seed 0.
        levels: The network returns the features of each of its levels, else one vector an image.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownNameError: timm has no such network.
        DataError: The file is missing, is damaged, may hold code, or does not hold all weights of this network; or
            the network has no levels.
    """
    try:
        import timm
    except ImportError:
        raise MissingExtraError(f"Features of {name!r} need timm: pip install 'mri-zoo[features]'.") from None
    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no network {name!r}.{did_you_mean(name, timm.list_models())}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=False, num_classes=0)
        if weights:
            _fill(network, weights, name)
        if levels:
            own = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}} if weights else {}
            torch.manual_seed(0)
            try:
                network = timm.create_model(name, features_only=True, **own)
            except (RuntimeError, KeyError, AttributeError, ValueError) as error:
                raise DataError(f"timm's {name} has no levels whose features could be taken: {error}.") from None
    return network.eval().requires_grad_(False)


def _fill(network: nn.Module, weights: Path, name: str) -> None:
    """Load weights into a network, all of them."""
    if not weights.is_file():
        raise DataError(
            f"There is no {weights} with weights of {name}; without --weights they are random, and told so."
        )
    if weights.suffix != ".safetensors":
        raise DataError(f"{weights.name} may hold code that runs when it is opened; give {name}'s .safetensors file.")
    try:
        found: dict[str, Tensor] = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{weights} is not a whole safetensors file: {error}.") from None
    own = network.state_dict()
    wrong = [key for key in own if key not in found or found[key].shape != own[key].shape]
    if wrong:
        raise DataError(f"{weights} does not hold the weights of timm's {name}: {', '.join(wrong[:3])} …")
    network.load_state_dict({key: found[key] for key in own})
