"""Runs engines directly on the memory of torch tensors, on torch's stream.

Source: TensorRT's Python API 10 and 11. After the first call for a shape, a call does not allocate, synchronise or
depend on the host, so CUDA graphs (`zoo.system.cuda_graph`) can capture it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.descriptors import Part
from zoo.errors import ArtifactError, DataError, ExportError, OutOfMemoryError, ProfileError, TypeMismatchError
from zoo.exporting.files import FOLDER, export_key, require_export
from zoo.models.artifact import Artifact
from zoo.system.files import sha256
from zoo_tensorrt.library import OPTION, Flavour, Library, machine, open_library, require_gpu

_DTYPES = {
    "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32, "INT64": torch.int64,
    "BOOL": torch.bool,
}  # fmt: skip


def load(folder: Path, part: str, device: str, precision: str) -> Callable[..., Any]:
    """Return a part on native TensorRT; see `load_engine`."""
    return load_engine("tensorrt", folder, part, device, precision)


def load_rtx(folder: Path, part: str, device: str, precision: str) -> Callable[..., Any]:
    """Return a part on TensorRT-RTX; see `load_engine`."""
    return load_engine("tensorrt-rtx", folder, part, device, precision)


def load_engine(flavour: Flavour, folder: Path, part: str, device: str, precision: str) -> EnginePart:
    """Return a part as a callable: the engine exported last, if it was built for this model and this machine.

    Args:
        flavour: Native TensorRT or TensorRT-RTX.
        folder: Folder with ``model.safetensors`` and ``exports/``.
        part: Name of the part.
        device: ``"cuda"`` or ``"cuda:1"`` …
        precision: Precision of the engine.

    Raises:
        NoGpuError: The library cannot run on the device.
        ArtifactError: There is no engine, or its model, version or machine differs; the message names the difference.
        OutOfMemoryError: The engine does not fit into the GPU's memory.
    """
    library = open_library(flavour)
    gpu = require_gpu(library, device)
    artifact = Artifact.open(folder)
    engine, expected = expected_engine(library, artifact, part, precision, gpu)
    command = f"zoo export {artifact.folder} {OPTION[flavour]} --part {part} --precision {precision}"
    require_export(engine.with_suffix(".json"), expected, command)
    return EnginePart(library, engine.read_bytes(), artifact.part_specs()[part], gpu, engine.name)


def expected_engine(
    library: Library, artifact: Artifact, part: str, precision: str, gpu: torch.device | None
) -> tuple[Path, dict[str, Any]]:
    """Return the engine that was exported last, and the key that it must have here."""
    exports = artifact.folder / FOLDER
    reports = list((exports / library.flavour).glob(f"{part}.{precision}.b*.json"))
    sidecars = [path for path in reports if not path.name.endswith(".layers.json")]
    newest = max(sidecars, key=lambda path: path.stat().st_mtime_ns, default=None)
    sidecar = newest or exports / library.flavour / f"{part}.{precision}.json"
    here = machine(gpu)
    key = export_key(
        artifact,
        part,
        precision,
        library=library.flavour,
        version=library.trt.__version__,
        machine={"platform": here["platform"]} if library.rtx else here,
    )
    onnx = exports / f"{part}.{precision}.onnx"
    if onnx.is_file():
        key["onnx_sha256"] = sha256(onnx)
    return sidecar.with_suffix(".engine"), key


class EnginePart:
    """A part of a model on an engine: torch tensors in, torch tensors out.

    Args:
        library: The opened library.
        plan: The serialised engine.
        part: Inputs and outputs of the part.
        device: The GPU.
        name: Name of the engine in messages.

    Attributes:
        device: The GPU that runs the engine; inputs are moved there.
        capturable: Whether a CUDA graph can capture a call.
        largest_batch: Largest batch of the profile, which tasks respect.

    Raises:
        ArtifactError: The engine was built for another version or another GPU.
        OutOfMemoryError: The engine does not fit into the GPU's memory.

    It is not thread-safe: calls share the engine's scratch memory.
    """

    capturable = True

    def __init__(self, library: Library, plan: Any, part: Part, device: torch.device, name: str) -> None:
        trt = library.trt
        self.device, self._part, self._name, self._trt = device, part, name, trt
        with library.logged() as logged, _on(device):
            self._runtime = trt.Runtime(library.log)
            if library.rtx:
                _check_validity(trt, self._runtime, plan, name)
            self.engine = self._runtime.deserialize_cuda_engine(plan)
            if self.engine is None:
                raise _load_error(name, logged)
        _, _, most = self.engine.get_tensor_profile_shape(part.inputs[0].name, 0)
        self.largest_batch = int(most[0])
        self._rtx = library.rtx
        self._contexts: dict[tuple[tuple[int, ...], ...], Any] = {}
        # All contexts share one scratch for the largest batch, since only one of them runs at a time.
        size = max(self.engine.device_memory_size_v2, 1)
        try:
            self._scratch = torch.empty(size, dtype=torch.uint8, device=device)
        except torch.cuda.OutOfMemoryError:
            raise OutOfMemoryError(
                f"{name} needs {size / 2**20:.0f} MiB of scratch memory on {device}, and less is free. Export it with "
                "a smaller largest --batch or --size, or a lower --workspace."
            ) from None

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the part's outputs for its inputs; a single output is returned as a tensor.

        Raises:
            DataError: The number of inputs is wrong.
            ProfileError: A shape is outside the engine's profile.
            TypeMismatchError: The type of an input differs from the engine's.
        """
        with torch.inference_mode(), _on(self.device):
            fed = [tensor.to(self.device).contiguous() for tensor in inputs]
            self._check(fed)
            context = self._context(fed)
            outputs = []
            for spec, tensor in zip(self._part.inputs, fed, strict=True):
                context.set_tensor_address(spec.name, tensor.data_ptr())
            for spec in self._part.outputs:
                dtype = _DTYPES[self.engine.get_tensor_dtype(spec.name).name]
                output = torch.empty(tuple(context.get_tensor_shape(spec.name)), dtype=dtype, device=self.device)
                context.set_tensor_address(spec.name, output.data_ptr())
                outputs.append(output)
            with _stream(self.device) as stream:
                ran = context.execute_async_v3(stream)
            if not ran:
                raise ExportError(f"{self._name} failed on {self.device}; export it again with --force.")
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def layer_report(self) -> str:
        """Return the library's report on each layer, as JSON."""
        inspector = self.engine.create_engine_inspector()
        layers = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        return json.dumps(layers, indent=1) + "\n"

    def _check(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) != len(self._part.inputs):
            raise DataError(f"{self._name} takes {len(self._part.inputs)} inputs, got {len(inputs)}.")
        for spec, tensor in zip(self._part.inputs, inputs, strict=True):
            dtype = _DTYPES[self.engine.get_tensor_dtype(spec.name).name]
            if tensor.dtype != dtype:
                raise TypeMismatchError(f"{self._name} takes {spec.name} as {dtype}, got {tensor.dtype}.")
            least, _, most = (tuple(shape) for shape in self.engine.get_tensor_profile_shape(spec.name, 0))
            shape = tuple(tensor.shape)
            fits = len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
            if fits:
                continue
            if shape[1:] == least[1:]:
                raise ProfileError(
                    f"{self._name} was built for a batch of {least[0]} to {most[0]}, got {shape[0]}. Use smaller "
                    f"batches, or export with --batch {least[0]} {shape[0]} {max(shape[0], most[0])}."
                )
            raise ProfileError(
                f"{self._name} takes {spec.name} as [{least[0]} … {most[0]}, {str(list(least[1:]))[1:]}, got "
                f"{list(shape)}."
            )

    def _context(self, inputs: Sequence[Tensor]) -> Any:
        """Return the execution context of these shapes; a CUDA graph keeps the one that it was captured with."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes not in self._contexts:
            context = self._new_context()
            for spec, shape in zip(self._part.inputs, shapes, strict=True):
                if not context.set_input_shape(spec.name, shape):
                    raise ProfileError(f"{self._name} refuses {spec.name} of shape {list(shape)}.")
            if unknown := context.infer_shapes():
                raise ExportError(f"{self._name} does not know the shape of {', '.join(unknown)}.")
            context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
            self._contexts[shapes] = context
        return self._contexts[shapes]

    def _new_context(self) -> Any:
        trt = self._trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._rtx:
            return self.engine.create_execution_context(strategy)
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Compile the kernels of a shape at its first call, not in the background: a graph would keep the slow ones.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return self.engine.create_execution_context(config)


def _check_validity(trt: Any, runtime: Any, plan: Any, name: str) -> None:
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    reasons = [
        reason.lower().replace("_", " ")
        for reason, value in vars(trt.EngineInvalidityDiagnostics).items()
        if reason.isupper() and int(diagnostics) & int(value)
    ]
    raise ArtifactError(
        f"{name} does not run here ({', '.join(reasons) or 'no reason given'}). Engines of TensorRT-RTX are for one "
        "version and for the compute capabilities of --target-cc; export it again with --force."
    )


def _load_error(name: str, logged: Sequence[tuple[str, str]]) -> Exception:
    text = " ".join(text for severity, text in logged if "ERROR" in severity)
    if "memory" in text.lower():
        return OutOfMemoryError(f"{name} does not fit into the GPU's memory: {text}. Lower --batch or --size.")
    return ArtifactError(f"{name} cannot be opened: {text or 'no reason given'}. Export it again with --force.")


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device):
        yield


@contextmanager
def _stream(device: torch.device) -> Iterator[int]:
    """Yield the handle of a stream other than the default one, ordered with torch's current stream.

    On the default stream TensorRT synchronises the device at every call. The current stream waits for this one, so
    tensors allocated on the current stream may be freed immediately.
    """
    current = torch.cuda.current_stream(device)
    if current != torch.cuda.default_stream(device):
        yield current.cuda_stream
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(current)
    yield side.cuda_stream
    current.wait_stream(side)
