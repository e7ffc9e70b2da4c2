"""Networks of others as a source of features, with weights from a local file; nothing is downloaded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.errors import DataError, MissingExtraError, UnknownNameError, did_you_mean
from zoo.metrics.weights import find_weights, read_weights

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The network of the Fréchet Inception distance, as torch-fidelity publishes it."""


def inception_network(weights: Path | None) -> tuple[nn.Module, Path]:
    """Return the Inception network of the Fréchet Inception distance, and the file that it was filled from.

    It takes images of whole numbers, ``[B, 3, H, W]`` uint8, resizes them as the first implementation did, and returns
    a tuple of one tensor ``[B, 2048]``.

    Args:
        weights: `INCEPTION_FILE`, or the same as ``.safetensors``; ``None`` looks in torch's cache.

    Raises:
        MissingExtraError: torch-fidelity is not installed.
        DataError: The file is missing, is damaged, may hold code, or does not hold these weights.

    Source: Heusel et al. 2017, section 2 and appendix A1; torch-fidelity's network.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise MissingExtraError("Features of Inception need torch-fidelity: pip install 'mri-zoo[features]'.") from None
    file = find_weights(weights, INCEPTION_FILE, "The Inception network", "--weights FILE")
    safe = io.BytesIO()  # the package would open the file with pickle
    torch.save(read_weights(file, INCEPTION_FILE), safe)
    safe.seek(0)
    try:
        network: nn.Module = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=safe)
    except RuntimeError as error:
        raise DataError(f"{file} does not hold the Inception network's weights: {str(error)[:200]} …") from None
    return network, file


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
        if not levels:
            network = _whole(name, weights)
        else:
            own: dict[str, Any] = {}
            if weights:
                _whole(name, weights)  # timm itself takes a file that lacks weights
                own = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
            try:
                network = timm.create_model(name, features_only=True, **own)
            except (RuntimeError, KeyError, AttributeError, ValueError) as error:
                raise DataError(f"timm's {name} has no levels whose features could be taken: {error}.") from None
    return network.eval().requires_grad_(False)


def _whole(name: str, weights: Path | None) -> nn.Module:
    """Return a network of timm without its classifier, with all weights from the file if there is one."""
    import timm

    network: nn.Module = timm.create_model(name, num_classes=0)
    if weights is None:
        return network
    if not weights.is_file():
        raise DataError(f"There is no {weights} with weights of {name}; without a file they are random, and told so.")
    found = read_weights(weights)
    own = network.state_dict()
    wrong = [key for key in own if key not in found or found[key].shape != own[key].shape]
    if wrong:
        raise DataError(f"{weights} does not hold the weights of timm's {name}: {', '.join(wrong[:3])} …")
    network.load_state_dict({key: found[key] for key in own})
    return network
