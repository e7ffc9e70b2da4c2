"""ONNX Runtime on a CPU, or on a GPU with bound memory and one CUDA graph per batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.descriptors import Part
from zoo.errors import ExportError, NoGpuError, OutOfMemoryError, ProviderError, UnsupportedOperatorError
from zoo.exporting.files import FOLDER, export_key, require_export
from zoo.models.artifact import Artifact

if TYPE_CHECKING:
    import onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def available() -> str:
    """Return why ONNX Runtime cannot be used; empty if it can."""
    if util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed: pip install 'mri-zoo[cpu]', or with an NVIDIA GPU 'mri-zoo[gpu]'"
    return ""


def load(folder: Path, part: str, device: str, precision: str) -> Callable[..., Any]:
    """Return an exported part as a callable of torch tensors.

    Args:
        folder: Folder with ``model.safetensors`` and ``exports/``.
        part: Name of the part.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
        precision: Precision of the exported file.

    Raises:
        ArtifactError: The part has not been exported, or the file is damaged or belongs to another model.
        NoGpuError, ProviderError: The part would not run on ``device``.
    """
    artifact = Artifact.open(folder)
    path = folder / FOLDER / f"{part}.{precision}.onnx"
    command = f"zoo export {folder} --onnx --precision {precision}"
    require_export(path.with_suffix(".json"), export_key(artifact, part, precision), command)
    return open_session(path, artifact.part_specs()[part], device)


def open_session(path: Path, part: Part, device: str) -> Callable[..., Any]:
    """Return an ONNX file as a callable of torch tensors; see `load`."""
    if not device.startswith("cuda"):
        return _on_cpu(_session(path, [CPU]), part)
    if not torch.cuda.is_available():
        raise NoGpuError(f"--device {device} needs an NVIDIA GPU, and torch sees none; use --device cpu.")
    return _on_cuda(path, part, torch.device(device))


def _session(path: Path, providers: list[Any]) -> onnxruntime.InferenceSession:
    """Open a session on the first of ``providers``.

    Raises:
        ProviderError: ONNX Runtime fell back to another provider.
        UnsupportedOperatorError: The provider lacks an operator in the file's precision.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: `check_provider` reports a fall-back
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions share no base
        raise explain(error, path.name) from None
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    check_provider(session, wanted)
    return session


def check_provider(session: onnxruntime.InferenceSession, wanted: str) -> None:
    """Refuse a session that runs on another provider than the wanted one.

    Raises:
        ProviderError: It does; the message names the package that helps.
    """
    active = session.get_providers()[0]
    if active != wanted:
        raise ProviderError(
            f"ONNX Runtime would run on {active} instead of {wanted}. For a GPU: pip uninstall onnxruntime; "
            "pip install 'mri-zoo[gpu]'; else use --device cpu."
        )


def explain(error: Exception, what: str) -> ExportError:
    """Return an exception of ONNX Runtime as an `ExportError`."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "NOT_IMPLEMENTED" in text:
        return UnsupportedOperatorError(
            f"ONNX Runtime cannot run {what} here: {text}. Use another --precision or --backend."
        )
    if "Failed to allocate memory" in text or "out of memory" in text.lower():
        return OutOfMemoryError(f"{what} does not fit into memory: {text} Use a smaller batch.")
    return ExportError(f"ONNX Runtime cannot run {what}: {text}")


def _on_cpu(session: onnxruntime.InferenceSession, part: Part) -> Callable[..., Any]:
    names = [spec.name for spec in part.inputs]

    def call(*inputs: Tensor) -> Any:
        arrays = (tensor.detach().cpu().contiguous().numpy() for tensor in inputs)
        try:
            outputs = session.run(None, dict(zip(names, arrays, strict=True)))
        except Exception as error:
            raise explain(error, "the part") from None
        return _one_or_all([torch.from_numpy(output) for output in outputs])

    return call


def _on_cuda(path: Path, part: Part, device: torch.device) -> Callable[..., Any]:
    """Run on a torch stream with inputs and outputs at fixed addresses, so each batch size is one CUDA graph."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # uses the CUDA libraries that torch loaded
    stream = torch.cuda.Stream(device)
    settings = {
        "device_id": str(device.index or 0),
        "user_compute_stream": str(stream.cuda_stream),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": str(int(torch.backends.cudnn.allow_tf32)),
    }
    try:
        session = _session(path, [(CUDA, {**settings, "enable_cuda_graph": "1"})])
        captures = True
    except ProviderError:
        raise
    except ExportError as error:
        logging.getLogger(__name__).warning("Running without a CUDA graph: %s", error)
        session = _session(path, [(CUDA, settings)])
        captures = False
    bound: dict[tuple[torch.Size, ...], _Bound] = {}

    def call(*inputs: Tensor) -> Any:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in bound:
            bound[shapes] = _Bound(session, part, inputs, device, graph=len(bound) + 1 if captures else 0)
        here = torch.cuda.current_stream(device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            outputs = bound[shapes].run(inputs)
        here.wait_stream(stream)
        for output in outputs:
            output.record_stream(here)
        return _one_or_all(outputs)

    call.device = device  # type: ignore[attr-defined]  # a task keeps its tensors there
    return call


class _Bound:
    """Inputs and outputs of one batch size at fixed addresses in GPU memory."""

    def __init__(self, session: Any, part: Part, inputs: tuple[Tensor, ...], device: torch.device, graph: int) -> None:
        import numpy
        import onnxruntime

        self.session = session
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("gpu_graph_id", str(graph or -1))
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.binding = session.io_binding()
        self.inputs = [torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in inputs]
        batch = inputs[0].shape[0]
        self.outputs = [
            torch.empty([batch if isinstance(size, str) else size for size in spec.shape], device=device)
            for spec in part.outputs
        ]
        index = device.index or 0
        for spec, tensor in zip(part.inputs, self.inputs, strict=True):
            kind = numpy.int64 if spec.dtype == "int64" else numpy.float32
            self.binding.bind_input(spec.name, "cuda", index, kind, list(tensor.shape), tensor.data_ptr())
        for spec, tensor in zip(part.outputs, self.outputs, strict=True):
            self.binding.bind_output(spec.name, "cuda", index, numpy.float32, list(tensor.shape), tensor.data_ptr())

    def run(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        for bound, tensor in zip(self.inputs, inputs, strict=True):
            bound.copy_(tensor, non_blocking=True)
        try:
            self.session.run_with_iobinding(self.binding, self.options)
        except Exception as error:
            raise explain(error, "the part") from None
        return [output.clone() for output in self.outputs]  # the next run overwrites them


def _one_or_all(outputs: list[Tensor]) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
