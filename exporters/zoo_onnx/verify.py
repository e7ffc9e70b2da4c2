"""Checks of an ONNX file before it is used; each rule raises its own error and names the offending node or tensor."""

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
"""Entry of a node's metadata where torch names the modules that the node comes from."""


def check_file(path: Path) -> None:
    """Check that a file is valid ONNX with consistent shapes and types.

    Raises:
        InvalidGraphError: It is not; the message quotes the checker.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidGraphError(f"{path.name} is not valid ONNX: {str(error).strip()}") from None


def check_signature(model: onnx.ModelProto, part: Part) -> None:
    """Check that inputs and outputs have the declared names, order, types, sizes and dynamic axes.

    Raises:
        SignatureError: One differs; the message names the first.
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
    """Check that no operator draws random numbers or is control flow, and that all are standard ONNX operators.

    Raises:
        UnsupportedOperatorError: One is not; the message names the operator, its node and its module.
    """
    graphs = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for graph in graphs for node in _nodes(graph)):
        reason = ""
        if node.domain not in ("", "ai.onnx"):
            reason = f"is of the domain {node.domain!r}, which other runtimes do not know"
        elif node.op_type in _RANDOM:
            reason = "draws random numbers; give the noise as an input"
        elif node.op_type in _CONTROL:
            reason = "is control flow, which engines and CUDA graphs do not support; unroll it or compute it beforehand"
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
