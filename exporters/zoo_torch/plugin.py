"""Registers torch as a runtime, eager and compiled."""

from __future__ import annotations

from zoo import Exporter, hookimpl


@hookimpl
def zoo_exporters() -> list[Exporter]:
    """Return ``torch`` and ``torch-compile``."""
    return [
        Exporter(
            name="torch",
            summary="The model file itself, eager, on a CPU or a GPU.",
            available="zoo_torch.eager:available",
            load="zoo_torch.eager:load",
            precisions=("fp32", "fp16", "bf16"),
        ),
        Exporter(
            name="torch-compile",
            summary="The model compiled by torch at the first call of each batch size; takes a minute or more.",
            available="zoo_torch.compiled:available",
            load="zoo_torch.compiled:load",
            precisions=("fp32", "fp16", "bf16"),
        ),
    ]
