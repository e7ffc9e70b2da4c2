"""Parts as eager torch modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.models.artifact import Artifact
from zoo.models.precision import cast_module


def available() -> str:
    """Return an empty text: torch is always available."""
    return ""


def load(folder: Path, part: str, device: str, precision: str) -> Callable[..., Tensor]:
    """Return a part of the model in ``folder`` as a callable without gradients.

    Args:
        folder: Folder with ``model.safetensors``.
        part: Name of the part.
        device: ``"cpu"``, ``"cuda"`` …
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    """
    module = load_module(folder, part, device, precision)
    channels_last(module)  # 1.3 times as fast on CPUs, and the layout of tensor cores
    return as_callable(module, device)


def as_callable(module: nn.Module, device: str) -> Callable[..., Tensor]:
    """Return a module on ``device`` as a callable without gradients."""

    @torch.inference_mode()
    def call(*inputs: Tensor) -> Tensor:
        return module(*(tensor.to(device) for tensor in inputs))

    call.device, call.capturable = torch.device(device), True  # type: ignore[attr-defined]
    return call


def load_module(folder: Path, part: str, device: str, precision: str) -> nn.Module:
    """Return a part of the model in ``folder`` as a module in ``precision``, in the memory layout of the file."""
    artifact = Artifact.open(folder)
    return cast_module(artifact.build(device).get_submodule(artifact.part_specs()[part].module), precision)


def channels_last(module: nn.Module) -> None:
    """Set the weights of convolutions to channels-last memory; activations follow them."""
    for tensor in module.parameters():
        if tensor.dim() in (4, 5):
            layout = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
            tensor.data = tensor.data.contiguous(memory_format=layout)
