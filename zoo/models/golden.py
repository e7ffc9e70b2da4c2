"""Seeded inputs of a model's parts, and the golden file that every later version must repeat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.descriptors import Part, TensorSpec
from zoo.randomness import GOLDEN, seed_for
from zoo.system.files import replacing

_GOLDEN_BATCH = 2


def example_inputs(part: Part, *, seed: int, axes: Mapping[str, int]) -> dict[str, Tensor]:
    """Return seeded inputs that fit a part, for golden files, parity tests and benchmarks.

    Args:
        part: The part.
        seed: Another seed, other numbers.
        axes: Size of each dynamic axis, e.g. ``{"batch": 2}``.
    """
    return {spec.name: _example(spec, seed_for(seed, index), axes) for index, spec in enumerate(part.inputs)}


def _example(spec: TensorSpec, seed: int, axes: Mapping[str, int]) -> Tensor:
    shape = [axes[size] if isinstance(size, str) else size for size in spec.shape]
    generator = torch.Generator().manual_seed(seed)
    if spec.dtype == "int64":
        low, high = spec.range or (0, 1)
        return torch.randint(int(low), int(high) + 1, shape, generator=generator)
    if spec.range is None:
        return torch.randn(shape, generator=generator)
    low, high = spec.range
    return torch.rand(shape, generator=generator) * (high - low) + low


def write_golden(path: Path, model: nn.Module, parts: Mapping[str, Part], seed: int) -> None:
    """Write seeded inputs and the model's outputs of every part; exports and later versions must repeat them."""
    tensors: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    model.eval()
    for name, part in parts.items():
        inputs = example_inputs(part, seed=seed_for(seed, GOLDEN), axes={"batch": _GOLDEN_BATCH})
        with torch.inference_mode():
            outputs = model.get_submodule(part.module)(*(tensor.to(device) for tensor in inputs.values()))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        tensors |= {f"{name}/input/{key}": tensor.clone() for key, tensor in inputs.items()}
        named = zip(part.outputs, outputs, strict=True)
        tensors |= {f"{name}/output/{spec.name}": value.float().cpu().contiguous().clone() for spec, value in named}
    with replacing(path) as temporary:
        save_file(tensors, temporary)
