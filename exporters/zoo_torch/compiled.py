"""Parts compiled by torch: on a CPU by a C++ compiler, on a GPU with one CUDA graph per batch size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ExportError
from zoo_torch.eager import channels_last, load_module


def available() -> str:
    """Return why torch cannot compile here; empty if it can."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return ""
    return "Compiling for the CPU needs a C++ compiler, and none is on the PATH; install g++ or use --backend torch."


def load(folder: Path, part: str, device: str, precision: str) -> Callable[..., Any]:
    """Return a part of the model in ``folder`` as a compiled callable; the first call of each batch size compiles.

    Args:
        folder: Folder with ``model.safetensors``.
        part: Name of the part.
        device: ``"cpu"``, ``"cuda"`` …
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    """
    module = load_module(folder, part, device, precision)
    channels_last(module)
    on_gpu = device.startswith("cuda")
    # On a CPU, freezing packs the weights once. On a GPU, launching kernels is the bottleneck, so CUDA graphs help.
    options: dict[str, Any] = {"triton.cudagraphs": True} if on_gpu else {"freezing": True}
    compiled = torch.compile(module, dynamic=False, options=options)

    @torch.inference_mode()
    def call(*inputs: Tensor) -> Any:
        try:
            outputs = compiled(*(tensor.to(device) for tensor in inputs))
        except torch._dynamo.exc.TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            raise ExportError(f"Torch cannot compile the part {part!r}: {first}") from error
        if not on_gpu:
            return outputs
        # A CUDA graph overwrites its outputs at every call.
        return tuple(output.clone() for output in outputs) if isinstance(outputs, tuple) else outputs.clone()

    call.device = torch.device(device)  # type: ignore[attr-defined]  # a task keeps its tensors there
    return call
