"""What runs a model's networks, in which arithmetic, and where; no torch is imported until a device must be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.registry import registry


@dataclass(frozen=True)
class Runtime:
    """What runs a model's networks; ``artifact.parts(runtime)`` returns them as callables.

    Attributes:
        backend: Name of an exporter; ``zoo list`` shows them.
        precision: What the networks compute in: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
    """

    backend: str = "torch"
    precision: str = "fp32"
    device: str = "cpu"

    @classmethod
    def choose(cls, backend: str = "torch", precision: str = "fp32", device: str | None = None) -> Runtime:
        """Return a runtime on the device that is named, else on a GPU where there is one and the backend takes it.

        Raises:
            UnknownNameError: There is no such backend.
        """
        devices = registry().exporters[backend].devices
        if device is None:
            device = "cuda" if "cpu" not in devices or ("cuda" in devices and _has_gpu()) else "cpu"
        return cls(backend, precision, device)


TORCH = Runtime()
"""Torch in float32 on the CPU."""


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
