"""Registers TensorRT and TensorRT-RTX."""

from __future__ import annotations

from zoo import Exporter, hookimpl


@hookimpl
def zoo_exporters() -> list[Exporter]:
    """Return ``tensorrt`` and ``tensorrt-rtx``."""
    return [
        Exporter(
            name="tensorrt",
            summary="TensorRT 10 and 11: engines are built on the GPU that runs them.",
            available="zoo_tensorrt.library:available",
            load="zoo_tensorrt.runtime:load",
            export="zoo_tensorrt.build:export",
            precisions=("fp32", "fp16", "bf16"),
            onnx="same",
        ),
        Exporter(
            name="tensorrt-rtx",
            summary="TensorRT for RTX: engines are built without a GPU and run on GeForce and RTX cards.",
            available="zoo_tensorrt.library:available_rtx",
            load="zoo_tensorrt.runtime:load_rtx",
            export="zoo_tensorrt.build:export_rtx",
            precisions=("fp32", "fp16", "bf16"),
            onnx="same",
        ),
    ]
