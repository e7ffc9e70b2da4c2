"""Parts as eager torch modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from zoo.artifact import Artifact


def available() -> str:
    """Return an empty text: torch is always there."""
    return ""


def load(folder: Path, part: str, device: str) -> Callable[..., Tensor]:
    """Return a part of the model in ``folder`` as a callable that keeps no gradients.

    Args:
        folder: Holds ``model.safetensors``.
        part: Name of the part.
        device: ``"cpu"``, ``"cuda"`` …
    """
    artifact = Artifact.open(folder)
    module = artifact.build(device).get_submodule(artifact.part_specs()[part].module)

    @torch.inference_mode()
    def call(*inputs: Tensor) -> Tensor:
        return module(*(tensor.to(device) for tensor in inputs))

    return call
