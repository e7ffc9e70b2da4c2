"""Parts as eager torch modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.artifact import Artifact
from zoo.precision import cast_module


def available() -> str:
    """Return an empty text: torch is always there."""
    return ""


def load(folder: Path, part: str, device: str, precision: str) -> Callable[..., Tensor]:
    """Return a part of the model in ``folder`` as a callable that keeps no gradients.

    Args:
        folder: Holds ``model.safetensors``.
        part: Name of the part.
        device: ``"cpu"``, ``"cuda"`` …
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``; half precision runs channels-last, which is where it is fast.
    """
    module = load_module(folder, part, device, precision)

    @torch.inference_mode()
    def call(*inputs: Tensor) -> Tensor:
        return module(*(tensor.to(device) for tensor in inputs))

    call.device, call.capturable = torch.device(device), True  # type: ignore[attr-defined]
    return call


def load_module(folder: Path, part: str, device: str, precision: str) -> nn.Module:
    """Return a part of the model in ``folder`` as a module in ``precision``."""
    artifact = Artifact.open(folder)
    module = cast_module(artifact.build(device).get_submodule(artifact.part_specs()[part].module), precision)
    if precision != "fp32":
        channels_last(module)
    return module


def channels_last(module: nn.Module) -> None:
    """Lay out the weights of convolutions with their channels last; activations follow them."""
    for tensor in module.parameters():
        if tensor.dim() in (4, 5):
            layout = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
            tensor.data = tensor.data.contiguous(memory_format=layout)
