"""What must hold of an ONNX file before it is used: each rule has an error of its own that names what broke it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from zoo.descriptors import Part, TensorSpec
from zoo.errors import InvalidGraphError, SignatureError, UnsupportedOperatorError

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
_CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
_TYPES = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
MODULE_PATH = "pkg.torch.onnx.name_scopes"
"""Entry of a node's metadata in which torch names the modules that it came from."""


def check_file(path: Path) -> None:
    """Check that a file is valid ONNX with consistent shapes and types.

    Raises:
        InvalidGraphError: With the checker's words.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidGraphError(f"{path.name} is not valid ONNX: {str(error).strip()}") from None


def check_signature(model: onnx.ModelProto, part: Part) -> None:
    """Check that inputs and outputs are the declared ones, by name, order, type and size, and dynamic where declared.

    Raises:
        SignatureError: With the first that is not.
    """
    for kind, specs, values in (
        ("input", part.inputs, model.graph.input),
        ("output", part.outputs, model.graph.output),
    ):
        names, declared = [value.name for value in values], [spec.name for spec in specs]
        if names != declared:
            raise SignatureError(f"The graph's {kind}s are {', '.join(names)}; declared are {', '.join(declared)}.")
        for spec, value in zip(specs, values, strict=True):
            _check_tensor(kind, spec, value.type.tensor_type)


def _check_tensor(kind: str, spec: TensorSpec, found: onnx.TypeProto.Tensor) -> None:
    if found.elem_type != _TYPES[spec.dtype]:
        name = onnx.TensorProto.DataType.Name(found.elem_type)
        raise SignatureError(f"The {kind} {spec.name!r} is of type {name}; declared is {spec.dtype}.")
    shape = tuple(size.dim_param or size.dim_value for size in found.shape.dim)
    if shape == spec.shape:
        return
    if len(shape) == len(spec.shape):
        for axis, (size, declared) in enumerate(zip(shape, spec.shape, strict=True)):
            if isinstance(declared, str) and not isinstance(size, str):
                raise SignatureError(
                    f"Axis {axis} of the {kind} {spec.name!r} is fixed at {size} in the graph; declared is the dynamic "
                    f"axis {declared!r}. Something in the module depends on its value, e.g. int(x.shape[{axis}])."
                )
    raise SignatureError(f"The {kind} {spec.name!r} is {list(shape)} in the graph; declared is {list(spec.shape)}.")


def check_operators(model: onnx.ModelProto) -> None:
    """Check that no operator draws random numbers, none decides what runs, and all are ONNX's own.

    Raises:
        UnsupportedOperatorError: With the operator, its node, and the module that it came from.
    """
    graphs = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for graph in graphs for node in _nodes(graph)):
        reason = ""
        if node.domain not in ("", "ai.onnx"):
            reason = f"is of the domain {node.domain!r}, which other runtimes do not know"
        elif node.op_type in _RANDOM:
            reason = "draws random numbers; give the noise as an input"
        elif node.op_type in _CONTROL:
            reason = "is control flow, which engines and CUDA graphs do not take; unroll it or compute it beforehand"
        if reason:
            raise UnsupportedOperatorError(f"The operator {node.op_type} (node {node.name!r}{_module(node)}) {reason}.")


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _module(node: onnx.NodeProto) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == MODULE_PATH), "")
    names = [name.strip(" '\"") for name in scopes.strip("[]").split(",")]
    # The last entry is the node, the one before it the innermost module.
    return f", in module {names[-2]!r}" if len(names) > 1 and names[-2] else ""
