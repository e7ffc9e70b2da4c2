"""Registers OpenVINO."""

from __future__ import annotations

from zoo import Exporter, hookimpl


@hookimpl
def zoo_exporters() -> list[Exporter]:
    """Return ``openvino``."""
    return [
        Exporter(
            name="openvino",
            summary="OpenVINO on a CPU, in float32 or bfloat16.",
            available="zoo_openvino.runtime:available",
            load="zoo_openvino.runtime:load",
            export="zoo_openvino.runtime:export",
            precisions=("fp32", "bf16"),
            devices=("cpu",),
            onnx="fp32",
            uses="zoo_openvino.runtime:uses",
        )
    ]
