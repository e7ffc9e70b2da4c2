"""Half precision: cast in the module, so that torch, ONNX and every engine made from it compute the same.

Weights and activations are cast; norms stay in float32, where their sums need it, and so do a part's inputs and
outputs, the sampler's arithmetic and its noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,  # batch and instance norms
)


class Float32Norm(nn.Module):
    """A norm that computes in float32 and returns the type it was given."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


class Float32Border(nn.Module):
    """A module in ``dtype`` that takes and returns float32; whole numbers pass as they are."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        cast = [tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in inputs]
        outputs = self.module(*cast)
        return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()


def cast_module(module: nn.Module, precision: str) -> nn.Module:
    """Return ``module`` computing in ``precision``; for fp32 the module itself, else its weights are changed in place.

    A module that makes tensors of its own must cast them to the type of its weights.

    Args:
        module: The part, float32.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    """
    if precision == "fp32":
        return module
    dtype = DTYPES[precision]
    norms = {name: child for name, child in module.named_modules() if isinstance(child, _NORMS)}
    kept = {id(tensor) for norm in norms.values() for tensor in (*norm.parameters(), *norm.buffers())}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and id(tensor) not in kept:
            tensor.data = tensor.data.to(dtype)
    if "" in norms:
        return Float32Border(Float32Norm(module), dtype)
    for name, norm in norms.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, Float32Norm(norm))
    return Float32Border(module, dtype)
