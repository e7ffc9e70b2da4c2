"""Turns TensorRT's messages into errors that name the node, its module, and the option that helps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import (
    ExportError,
    InvalidGraphError,
    NoGpuError,
    OutOfMemoryError,
    ProfileError,
    TypeMismatchError,
    UnsupportedOperatorError,
)
from zoo.exporting.job import ExportOptions

_KINDS: tuple[tuple[type[ExportError], str], ...] = (
    (
        OutOfMemoryError,
        r"workspace limit|insufficient (workspace|memory)|out ?of ?memory|could not be allocated|cudaError 2:",
    ),
    (TypeMismatchError, r"must have (the )?(same|identical) (\w+ )?types|types? mismatch|must be of the same type"),
    (
        ProfileError,
        r"optimization profile|and profile \d|in profile \d|not self-consistent|satisfy MIN<=OPT<=MAX",
    ),
    (
        UnsupportedOperatorError,
        r"Plugin not found|plugin registry|No importer registered|not supported by a dedicated kernel|"
        r"UNSUPPORTED_NODE",
    ),
    (InvalidGraphError, r"MODEL_DESERIALIZE_FAILED|Failed to parse the ONNX model"),
    (NoGpuError, r"cudaError (35|100)\b|CUDA initialization failure"),
)
"""Errors by the pattern of their text; the first match counts. From TensorRT-RTX 1.7 and native TensorRT."""

_INSTEAD = {
    "Attention": "Export with --opset 21, which writes attention as matrix products.",
    "Bernoulli": "Draw random numbers outside the part and make them an input.",
    "Col2Im": "Write nn.Fold as a pixel shuffle or a transposed convolution.",
    "DFT": "Compute Fourier transforms outside the part, or write them as products with a constant matrix.",
    "NonZero": "Use masks (torch.where with three arguments) instead of indices.",
}

# Without a GPU, the library adds a line on the missing driver to every error.
_NOISE = re.compile(r"^\[checkMacros\.cpp::catchCudaError")


def parse_error(onnx: Path, parser: Any, logged: Sequence[tuple[str, str]], options: ExportOptions) -> ExportError:
    """Return the error for a file that a parser refused."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:  # some refusals are only logged
        return build_error(onnx, logged, options)
    first = errors[0]
    text = f"{first.code().name}: {first.desc()}"
    kind = _kind([text])
    if kind is ExportError:
        kind = _kind(_errors(logged))
    return _make(kind, onnx, text, options, [first.node_name()] if first.node_name() else [])


def build_error(onnx: Path, logged: Sequence[tuple[str, str]], options: ExportOptions) -> ExportError:
    """Return the error for a build that ended without an engine, from the logged messages."""
    texts = _errors(logged)
    text = next((text for text in texts if _kind([text]) is not ExportError), texts[0] if texts else "no reason given")
    return _make(_kind(texts), onnx, text, options, [])


def profile_warning(logged: Sequence[tuple[str, str]]) -> str | None:
    """Return the warning that a profile does not work for its whole range; the library still builds the engine."""
    return next((text for _, text in logged if "not self-consistent" in text), None)


def profile_error(onnx: Path, text: str, options: ExportOptions) -> ProfileError:
    """Return the error for a profile that the library refused or warned about."""
    return _make(ProfileError, onnx, text, options, [])  # type: ignore[return-value]


def _errors(logged: Iterable[tuple[str, str]]) -> list[str]:
    return [text for severity, text in logged if "ERROR" in severity and not _NOISE.match(text)]


def _kind(texts: Sequence[str]) -> type[ExportError]:
    for text in texts:
        for kind, pattern in _KINDS:
            if re.search(pattern, text, re.IGNORECASE):
                return kind
    return ExportError


def _make(kind: type[ExportError], onnx: Path, text: str, options: ExportOptions, named: Sequence[str]) -> ExportError:
    reason = _short(text)
    batch = " ".join(map(str, options.batch))
    if kind is OutOfMemoryError:
        help_ = (
            f"If the GPU or the machine is full, lower --workspace (now {options.workspace_bytes} bytes), the largest "
            f"--batch (now {options.batch[2]}) or --size; if a layer lacks workspace, raise --workspace."
        )
        return kind(f"TensorRT ran out of memory on {onnx.name}: {reason}. {help_}")
    if kind is ProfileError:
        return kind(
            f"{onnx.name} does not fit the profile of --batch {batch}: {reason}. Choose another --batch, or with "
            "another --size write the ONNX file again: zoo export --force."
        )
    if kind is NoGpuError:
        return kind(
            f"TensorRT needs an NVIDIA GPU for this build of {onnx.name}, and finds none ({reason}). TensorRT-RTX "
            "builds without one: zoo export --trt-rtx."
        )
    if kind is InvalidGraphError:
        return kind(f"{onnx.name} is not a whole ONNX file ({reason}); write it again: zoo export --force.")
    where, operators = _located(onnx, text, named)
    if kind is UnsupportedOperatorError:
        what = f"the operator {operators[0]}" if operators else "an operator"
        instead = next((f" {_INSTEAD[name]}" for name in operators if name in _INSTEAD), "")
        return kind(f"TensorRT cannot compile {what} of {onnx.name}{where}: {reason}.{instead}")
    if kind is TypeMismatchError:
        return kind(
            f"{onnx.name} mixes types{where}: {reason}. TensorRT does not cast types; cast in the module, as "
            "zoo.models.precision does, not by autocast or a graph converter."
        )
    return kind(f"TensorRT could not compile {onnx.name}{where}: {reason}.")


def _short(text: str) -> str:
    """Return the reason in a message, without the library's file names and line numbers."""
    text = next((line for line in text.splitlines() if "Error Code" in line), text.splitlines()[0] if text else "")
    text = re.sub(r"^.*?Error Code \d+: [\w ]+\(", "", text)
    text = re.sub(r"\w+: (false|creator && )", "", text)  # assertions of the parser
    text = re.sub(r"\s*In \w+ at /\S+", "", text)
    text = re.sub(r"\[[\w./]+\.(cpp|h):\d+: \w+\] ", "", text)
    return text.strip(' ".?)') or "unknown to the parser"


def _located(onnx: Path, text: str, named: Sequence[str]) -> tuple[str, list[str]]:
    """Return the place of a message's nodes, as part of a sentence, and their operators.

    Args:
        onnx: The file; torch's exporter writes the module of each node into its metadata.
        text: The message, which is searched for names of nodes and operators.
        named: Names of the nodes, if they are known.
    """
    import onnx as onnx_package

    nodes = onnx_package.load(onnx, load_external_data=False).graph.node
    found = [node for node in nodes if node.name in named]
    if not found:
        words = set(re.findall(r"[\w./]+", text))
        found = [node for node in nodes if node.name in words] or [node for node in nodes if node.op_type in words]
    if not found:
        return "", []
    module = _module(found[0])
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f" at node {found[0].name!r}{module}{more}", [node.op_type for node in found]


def _module(node: Any) -> str:
    """Return the module of a node, as part of a sentence; torch writes it as ``path: class/path: class…``."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = notes.get("namespace", "").split("/")
    if len(scopes) < 2:  # the last entry is the operator
        return ""
    path, _, kind = scopes[-2].partition(": ")
    return f", in module {path!r} ({kind})" if path else f", in {kind}"
