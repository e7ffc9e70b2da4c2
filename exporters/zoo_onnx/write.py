"""Writes a part as a self-describing ONNX file, and keeps the file only if it computes the same as the part."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.descriptors import Part
from zoo.errors import ExportError, MissingExtraError, SignatureError, UnsupportedOperatorError, ZooError
from zoo.exporting.files import existing, export_key, rejected, write_report
from zoo.exporting.job import ExportJob, ExportReport
from zoo.exporting.parity import check_parity, parity_inputs
from zoo.models.artifact import Artifact
from zoo.models.find import untrained
from zoo.models.precision import cast_module

ONE_FILE_BYTES = 1_500_000_000
"""Size from which weights go to a separate file beside the graph; a protobuf file is limited to 2 GB."""

_STAGES = 4
_KEPT_METADATA = ("pkg.torch.onnx.name_scopes", "namespace")


class _Graph(nn.Module):
    """A part with positional inputs, whatever their names in ``forward``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


def export(job: ExportJob) -> ExportReport:
    """Write ``job.onnx`` with a dynamic batch, verify it, and put it in place with its report.

    A file that fails verification is kept as ``NAME.PRECISION.rejected.onnx`` for inspection.

    Raises:
        MissingExtraError: A package is not installed.
        UnsupportedOperatorError, ExportError: Torch cannot write the part.
        InvalidGraphError, SignatureError, ParityError: The file fails verification.
    """
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingExtraError(f"Writing ONNX needs the package {package}: pip install 'mri-zoo[cpu]'") from None
    options = job.options
    key = export_key(job.artifact, job.name, options.precision, opset=options.onnx_opset)
    report_file = job.onnx.with_suffix(".json")
    kept, note = existing(report_file, key, job, backend="onnxruntime")
    if kept:
        return kept
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    module = cast_module(job.artifact.build().get_submodule(job.part.module), options.precision)
    job.onnx.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=job.onnx.parent) as folder:
        file = Path(folder) / job.onnx.name
        write_onnx(module, job.part, file, opset=options.onnx_opset, about=describe(job.artifact, job.name, options))
        job.progress(1, _STAGES)
        seconds["export"] = time.perf_counter() - started
        try:
            checks = _verify(job, file, module, seconds)
        except ZooError:
            put(file, rejected(job.onnx))
            raise
        files = put(file, job.onnx)
    runs = options.precision != "bf16"
    report = ExportReport(
        part=job.name,
        backend="onnxruntime",
        precision=options.precision,
        files=(*files, report_file),
        seconds=seconds,
        checks=checks,
        status="ok" if runs else "not run",
        note=note if runs else "ONNX Runtime has no bf16 on a CPU; the parity figures are of the torch module in bf16",
    )
    write_report(report_file, key, report)
    rejected(job.onnx).unlink(missing_ok=True)
    return report


def _verify(job: ExportJob, file: Path, module: nn.Module, seconds: dict[str, float]) -> dict[str, Any]:
    import onnx

    from zoo_onnx.runtime import open_session
    from zoo_onnx.verify import check_file, check_operators, check_signature

    started = time.perf_counter()
    check_file(file)
    model = onnx.load(str(file), load_external_data=False)
    check_signature(model, job.part)
    check_operators(model)
    checks: dict[str, Any] = {
        "opset": model.opset_import[0].version,
        "nodes": len(model.graph.node),
        "checker": "passed",
        "signature": "passed",
        "operators": "passed",
    }
    del model
    job.progress(2, _STAGES)
    seconds["checks"] = time.perf_counter() - started
    started = time.perf_counter()
    candidate: Callable[..., Any] = open_session(file, job.part, "cpu") if job.options.precision != "bf16" else module
    with torch.inference_mode():
        figures = check_parity(job, candidate)
    checks["parity"] = {"runtime": "onnxruntime" if candidate is not module else "torch", **figures}
    job.progress(3, _STAGES)
    seconds["parity"] = time.perf_counter() - started
    return checks


def write_onnx(module: nn.Module, part: Part, path: Path, *, opset: int, about: dict[str, str]) -> None:
    """Write a module as ONNX, with the weights in the same file up to `ONE_FILE_BYTES`.

    Args:
        module: The module, in evaluation mode.
        part: Names, types and dynamic axes of its tensors.
        path: The file; larger weights go to ``path`` with the suffix ``.data`` appended.
        opset: Version of the ONNX operator set.
        about: Metadata of the file.

    Raises:
        SignatureError: The module fixes a dynamic axis.
        UnsupportedOperatorError: Torch has no ONNX operator for an operation of the module.
        ExportError: The module cannot be traced.
    """
    axes = tuple(
        {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} or None for spec in part.inputs
    )
    # torch.export specialises a batch of 1.
    inputs = tuple(parity_inputs(part, 2))
    output = StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(output), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Graph(module),
                inputs,
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[spec.name for spec in part.inputs],
                output_names=[spec.name for spec in part.outputs],
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:
        raise _explain(error, part) from error
    assert program is not None
    for node in program.model.graph.all_nodes():
        # Stack traces would publish paths of the exporting machine.
        for entry in [entry for entry in node.metadata_props if entry not in _KEPT_METADATA]:
            del node.metadata_props[entry]
    program.model.metadata_props.update(about)
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    program.save(str(path), external_data=weights > ONE_FILE_BYTES)


def _explain(error: Exception, part: Part) -> ExportError:
    """Return torch's exception as an `ExportError` with the innermost reason."""
    reason: BaseException = error
    while reason.__cause__ is not None:
        reason = reason.__cause__
    first = next((line.strip() for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
    fixed = re.search(r"inferred a static shape of (\d+) for dimension inputs\[(\d+)\]\.shape\[(\d+)\]", str(reason))
    if fixed:
        size, number, axis = (int(found) for found in fixed.groups())
        return SignatureError(
            f"Axis {axis} of the input {part.inputs[number].name!r} is fixed at {size} by the module; declared is the "
            f"dynamic axis {part.inputs[number].shape[axis]!r}. Something in the module depends on its value, e.g. "
            f"int(x.shape[{axis}])."
        )
    missing = "No ONNX function found" in str(error) or "DispatchError" in type(reason).__name__
    if missing or "No ONNX function" in first:
        return UnsupportedOperatorError(f"ONNX has no operator for an operation of the part: {first}")
    return ExportError(f"Torch cannot export the part: {type(reason).__name__}: {first}")


def describe(artifact: Artifact, part: str, options: Any) -> dict[str, str]:
    """Return the metadata of an ONNX file: everything needed to use it without the zoo."""
    from zoo import __version__

    manifest = artifact.manifest
    spec = artifact.part_specs()[part]
    return {
        "zoo.schema": "1",
        "zoo.version": __version__,
        "zoo.method": artifact.method.name,
        "zoo.method_version": str(artifact.method.version),
        "zoo.part": part,
        "zoo.config": artifact.config.model_dump_json(),
        "zoo.inputs": json.dumps([tensor.__dict__ for tensor in spec.inputs]),
        "zoo.outputs": json.dumps([tensor.__dict__ for tensor in spec.outputs]),
        "zoo.spacing_mm": json.dumps(artifact.config.data.spacing_mm),
        "zoo.weights_sha256": artifact.sha256 or "",
        "zoo.untrained": json.dumps(untrained(artifact)),
        "zoo.precision": options.precision,
        "zoo.norms": "fp32",
        "zoo.opset": str(options.onnx_opset),
        "zoo.torch": torch.__version__,
        "zoo.licence": manifest["licence"],
        "zoo.intended_use": manifest["intended_use"],
    }


def put(file: Path, target: Path) -> list[Path]:
    """Move a graph, and its separate weights if there are any, into place; return the new files."""
    import onnx

    data = file.with_name(f"{file.name}.data")
    target_data = target.with_name(f"{target.name}.data")
    if not data.exists():
        os.replace(file, target)
        return [target]
    if target.name != file.name:  # the graph holds the name of the file of weights
        model = onnx.load(str(file), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = target_data.name
        file.write_bytes(model.SerializeToString())
    shutil.move(data, target_data)
    os.replace(file, target)
    return [target, target_data]
