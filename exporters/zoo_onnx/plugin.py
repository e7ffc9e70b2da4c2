"""Registers ONNX Runtime and the writer of ONNX files."""

from __future__ import annotations

from zoo import Exporter, hookimpl


@hookimpl
def zoo_exporters() -> list[Exporter]:
    """Return ``onnxruntime``."""
    return [
        Exporter(
            name="onnxruntime",
            summary="ONNX files, and ONNX Runtime on a CPU or a GPU.",
            available="zoo_onnx.runtime:available",
            load="zoo_onnx.runtime:load",
            export="zoo_onnx.write:export",
            precisions=("fp32", "fp16", "bf16"),
        )
    ]
