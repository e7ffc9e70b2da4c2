"""What an exporter gets, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from zoo.config import Config
from zoo.descriptors import Part
from zoo.models.artifact import Artifact


class ExportOptions(Config):
    """How parts are exported."""

    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="Number format of weights and activations")
    batch: tuple[int, int, int] = Field((1, 2, 4), description="Smallest, usual and largest batch")
    size: tuple[int, ...] | None = Field(None, description="Side of the images, pixels; default: the model's")
    opset: int | None = Field(None, ge=18, description="ONNX operator set; default: 21, for bf16 22")
    workspace_bytes: int = Field(4 << 30, gt=0, description="Memory an engine's builder may use per layer")
    opt_level: int | None = Field(None, ge=0, le=5, description="Effort of an engine's builder; default: its own")
    target_cc: tuple[int, ...] = Field((), description="Compute capabilities an engine is built for, e.g. 86,89,120")
    timing_cache: str | None = Field(None, description="File in which native TensorRT keeps its timings")
    check_only: bool = Field(False, description="Check that engines would build, without building them")
    force: bool = Field(False, description="Export again what exists already")

    @model_validator(mode="after")
    def _fits(self) -> ExportOptions:
        smallest, usual, largest = self.batch
        if not 1 <= smallest <= usual <= largest:
            raise ValueError(f"batch {smallest} {usual} {largest} must rise from 1 or more: MIN OPT MAX")
        if self.precision == "bf16" and (self.opset or 22) < 22:
            raise ValueError(f"opset {self.opset} has no convolution in bf16; use 22 or more")
        return self

    @property
    def onnx_opset(self) -> int:
        """The operator set that is written: 21 has GroupNormalization, 22 convolutions in bf16."""
        return self.opset or (22 if self.precision == "bf16" else 21)


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """One part to be exported for one backend.

    Attributes:
        artifact, name, part: The model and which of its parts.
        folder: Where files go, ``exports/`` beside the model.
        onnx: The ONNX file: what the exporter writes, or starts from.
        options: Settings.
        progress: Called with (steps done, steps in all).
    """

    artifact: Artifact
    name: str
    part: Part
    folder: Path
    onnx: Path
    options: ExportOptions
    progress: Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What one export did.

    Attributes:
        part, backend, precision: What was exported for what.
        files: Written files, or those that existed already; the last is the JSON report.
        seconds: Time of each stage.
        checks: What was verified, with its figures.
        status: ``"not run"`` where the file could be made but cannot run here.
        note: What the user should know: why it was not run, or that it existed already.
    """

    part: str
    backend: str
    precision: str
    files: tuple[Path, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    status: Literal["ok", "not run"] = "ok"
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON data."""
        return {
            "part": self.part,
            "backend": self.backend,
            "precision": self.precision,
            "files": [str(path) for path in self.files],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "checks": self.checks,
            "status": self.status,
            "note": self.note,
        }
