"""Published networks that compute features, with weights from a local file; nothing is downloaded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.errors import DataError, MissingExtraError, UnknownNameError, did_you_mean
from zoo.metrics.weights import find_weights, read_weights

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""File that torch-fidelity publishes: the network of the Fréchet Inception distance."""


def inception_network(weights: Path | None) -> tuple[nn.Module, Path]:
    """Return the Inception network of the Fréchet Inception distance, and the file of its weights.

    It takes images ``[B, 3, H, W]`` uint8, resizes them as the first implementation did, and returns a tuple of one
    tensor ``[B, 2048]``.

    Args:
        weights: `INCEPTION_FILE`, or the same tensors as ``.safetensors``; ``None``: the file in torch's cache.

    Raises:
        MissingExtraError: torch-fidelity is not installed.
        DataError: The file is missing, damaged, may hold code, or holds other weights.

    Source: Heusel et al. 2017, section 2 and appendix A1; torch-fidelity's network.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise MissingExtraError("Features of Inception need torch-fidelity: pip install 'mri-zoo[features]'.") from None
    file = find_weights(weights, INCEPTION_FILE, "The Inception network", "--weights FILE")
    safe = io.BytesIO()  # the package would unpickle the file itself
    torch.save(read_weights(file, INCEPTION_FILE), safe)
    safe.seek(0)
    try:
        network: nn.Module = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=safe)
    except RuntimeError as error:
        raise DataError(f"{file} does not hold the Inception network's weights: {str(error)[:200]} …") from None
    return network, file


def timm_network(name: str, weights: Path | None, *, levels: bool) -> nn.Module:
    """Return a frozen network of timm without its classifier.

    Args:
        name: timm's name, such as ``"resnet18"``.
        weights: ``.safetensors`` file with timm's tensor names; ``None``: random weights of seed 0.
        levels: Return the features of each level of the network instead of one vector per image.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownNameError: timm has no such network.
        DataError: The file is missing, damaged, may hold code, or lacks weights of this network; or the network has
            no levels.
    """
    try:
        import timm
    except ImportError:
        raise MissingExtraError(f"Features of {name!r} need timm: pip install 'mri-zoo[features]'.") from None
    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no network {name!r}.{did_you_mean(name, timm.list_models())}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not levels:
            network = _complete_network(name, weights)
        else:
            own: dict[str, Any] = {}
            if weights:
                _complete_network(name, weights)  # timm itself accepts a file that lacks weights
                own = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
            try:
                network = timm.create_model(name, features_only=True, **own)
            except (RuntimeError, KeyError, AttributeError, ValueError) as error:
                raise DataError(f"timm's {name} cannot return the features of its levels: {error}.") from None
    return network.eval().requires_grad_(False)


def _complete_network(name: str, weights: Path | None) -> nn.Module:
    """Return a network of timm without its classifier; a file must hold all its weights."""
    import timm

    network: nn.Module = timm.create_model(name, num_classes=0)
    if weights is None:
        return network
    if not weights.is_file():
        raise DataError(f"There is no file {weights} with weights of {name}; without a file, weights are random.")
    found = read_weights(weights)
    own = network.state_dict()
    wrong = [key for key in own if key not in found or found[key].shape != own[key].shape]
    if wrong:
        raise DataError(f"{weights} does not hold the weights of timm's {name}: {', '.join(wrong[:3])} …")
    network.load_state_dict({key: found[key] for key in own})
    return network
