"""Registers the torch runtime."""

from __future__ import annotations

from zoo import Exporter, hookimpl


@hookimpl
def zoo_exporters() -> list[Exporter]:
    """Return the eager torch runtime."""
    return [
        Exporter(
            name="torch",
            summary="The model as it is, eager, on a CPU or a GPU.",
            available="zoo_torch.eager:available",
            load="zoo_torch.eager:load",
            precisions=("fp32", "fp16", "bf16"),
        )
    ]
