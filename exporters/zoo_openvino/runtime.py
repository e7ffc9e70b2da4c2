"""OpenVINO: converts an ONNX file and runs it on the CPU.

The file is float32 in both precisions; in bf16 OpenVINO casts the layers that gain from it when it compiles the model.
The model is compiled for each size of the inputs, for two reasons: with dynamic axes OpenVINO reorders memory between
layers, which takes up to half of the time (StyleGAN2's generator at 256 pixels), and `zoo_openvino.winograd` and
`zoo_openvino.transposed` need known sizes to choose convolutions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.descriptors import Part
from zoo.errors import ExportError, ProviderError
from zoo.exporting.files import FOLDER, existing, export_key, require_export, write_report
from zoo.exporting.job import ExportJob, ExportReport
from zoo.exporting.parity import check_parity
from zoo.models.artifact import Artifact
from zoo.system.files import sha256
from zoo_openvino.transposed import use_convolutions
from zoo_openvino.winograd import use_winograd

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def available() -> str:
    """Return why OpenVINO cannot be used; empty if it can."""
    return "" if util.find_spec("openvino") else "OpenVINO is not installed: pip install 'mri-zoo[cpu]'"


def uses() -> str:
    """Return the kernel of a convolution of 64 channels in each precision; its name tells the CPU instructions."""
    import openvino
    from openvino import opset13

    image = opset13.parameter([1, 64, 32, 32], openvino.Type.f32)
    weights = opset13.constant(np.full((64, 64, 3, 3), 0.01, np.float32))
    model = openvino.Model([opset13.convolution(image, weights, [1, 1], [1, 1], [1, 1], [1, 1])], [image])
    found = []
    for precision, hint in _HINTS.items():
        if precision == "bf16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            found.append("bf16: not on this CPU")
            continue
        compiled = _core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        layers = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ordered_ops()]
        kernels = [str(info["primitiveType"].value) for info in layers if info["layerType"].value == "Convolution"]
        found.append(f"{precision}: {', '.join(kernels) or 'unknown'}")
    return "convolutions in " + "; ".join(found)


def export(job: ExportJob) -> ExportReport:
    """Convert the ONNX file to OpenVINO's format, compare it with torch, and put it into ``openvino/`` with its report.

    Raises:
        ExportError: OpenVINO cannot convert the graph.
        ProviderError: The CPU has no bf16.
        ParityError: The results differ from torch's; the file is not kept.
    """
    import openvino

    precision = job.options.precision
    folder = job.folder / "openvino"
    stem = f"{job.name}.{precision}"
    key = export_key(job.artifact, job.name, precision, onnx_sha256=sha256(job.onnx), openvino=openvino.get_version())
    kept, note = existing(folder / f"{stem}.json", key, job, backend="openvino")
    if kept:
        return kept
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as temporary:
        xml = Path(temporary) / f"{stem}.xml"
        try:
            openvino.save_model(_core().read_model(job.onnx), xml, compress_to_fp16=False)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot convert {job.onnx.name}: {error}") from None
        job.progress(1, 2)
        converted = time.perf_counter()
        figures = check_parity(job, open_model(xml, job.part, precision))
        job.progress(2, 2)
        files = [Path(part).replace(folder / Path(part).name) for part in (xml.with_suffix(".bin"), xml)]
    report = ExportReport(
        part=job.name,
        backend="openvino",
        precision=precision,
        files=(*files, folder / f"{stem}.json"),
        seconds={"convert": converted - started, "parity": time.perf_counter() - converted},
        checks={"parity": {"runtime": "openvino", **figures}},
        note=note,
    )
    write_report(folder / f"{stem}.json", key, report)
    return report


@cache
def _core() -> Any:
    # One Core per process: each installs a signal stack and restores the previous one when it is destroyed. The last of
    # two overlapping Cores would reinstate a freed stack, and the next Ctrl-C would crash the process.
    import openvino

    return openvino.Core()


def load(folder: Path, part: str, device: str, precision: str) -> Callable[..., Any]:
    """Return an exported part as a callable of torch tensors, on the CPU.

    Args:
        folder: Folder with ``model.safetensors`` and ``exports/``.
        part: Name of the part.
        device: ``"cpu"``.
        precision: ``"fp32"`` or ``"bf16"``.

    Raises:
        ArtifactError: The part has not been exported, or the file is damaged or belongs to another model.
        ProviderError: The CPU has no bf16.
    """
    artifact = Artifact.open(folder)
    xml = folder / FOLDER / "openvino" / f"{part}.{precision}.xml"
    command = f"zoo export {folder} --openvino --precision {precision}"
    require_export(xml.with_suffix(".json"), export_key(artifact, part, precision), command)
    return open_model(xml, artifact.part_specs()[part], precision)


def open_model(file: Path, part: Part, precision: str) -> Callable[..., Any]:
    """Open a file in OpenVINO's format or ONNX, with as many threads as torch uses; see `load`.

    The model is compiled when inputs of a new size arrive, which takes a second (8 with 114 million parameters). The
    last two sizes are kept: a task's full batches and the smaller last one.
    """
    import openvino

    core = _core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ProviderError("This CPU has no bf16 arithmetic, so OpenVINO would not run in it; use --precision fp32.")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": _HINTS[precision],  # without it, OpenVINO chooses bf16 where the CPU has it
    }
    try:
        model = core.read_model(file)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read {file.name}: {error}") from None
    names = [spec.name for spec in part.inputs]
    outputs = [spec.name for spec in part.outputs]
    declared = {name: model.input(name).partial_shape for name in names}

    @lru_cache(maxsize=2)
    def request_for(*shapes: torch.Size) -> Any:
        sizes = {name: list(shape) for name, shape in zip(names, shapes, strict=True)}
        for name, size in sizes.items():
            if not declared[name].compatible(openvino.PartialShape(size)):
                raise ExportError(f"{name} has the size {size}; {file.name} takes {declared[name]}, ? for any size.")
        sized = model.clone()
        try:
            sized.reshape(sizes)
            use_winograd(sized)
            if precision == "bf16":
                use_convolutions(sized)  # afterwards: with so many zeros, minimal filtering only costs time
            # OpenVINO 2026.4 computes such attention wrongly and irreproducibly when it is fused in float32.
            miscomputed = precision == "fp32" and _has_as_many_heads_as_tokens(sized)
            unfused = {"SNIPPETS_MODE": "DISABLE"} if miscomputed else {}
            return core.compile_model(sized, "CPU", settings | unfused).create_infer_request()
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot compile {file.name} for {sizes}: {error}") from None

    def call(*inputs: Tensor) -> Any:
        request = request_for(*(tensor.shape for tensor in inputs))
        arrays = (tensor.detach().cpu().contiguous().numpy() for tensor in inputs)
        found = request.infer(dict(zip(names, arrays, strict=True)), share_inputs=True)
        tensors = [torch.from_numpy(found[name].copy()) for name in outputs]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    return call


def _has_as_many_heads_as_tokens(model: Any) -> bool:
    """Return whether the model has attention weights ``[…, heads, tokens, tokens]`` with three equal sides."""
    shapes = [node.output(0).get_shape() for node in model.get_ordered_ops() if node.get_type_name() == "Softmax"]
    return any(len(shape) > 2 and len({*shape[-3:]}) == 1 for shape in shapes)
