"""The schema ``zoo-bench/1``: one JSON object per line, one line per row of the table (docs/measured/benchmarks.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from zoo.config import Config
from zoo.errors import DataError
from zoo.system.files import write_text
from zoo_bench.statistics import median_interval, percentile

SCHEMA: Literal["zoo-bench/1"] = "zoo-bench/1"

Timer = Literal["perf_counter", "cuda_event"]


class Model(Config):
    """Which weights ran."""

    name: str = Field(description="Method, or the peer's own name")
    preset: str | None = Field(None, description="Preset; none for a run or a peer")
    version: int = Field(1, description="Version of the method")
    trained: bool = Field(True, description="False: seeded random weights, which have the same speed")
    parameters: int | None = Field(None, description="Numbers in the weights")
    weights_sha256: str | None = Field(None, description="Hash of model.safetensors")


class Backend(Config):
    """What ran them."""

    name: str = Field(description="As --backend takes it, or the peer's library")
    version: str = Field("", description="Of its package")
    cuda_graph: bool = Field(False, description="The call was captured once and is replayed")
    contiguous: bool = Field(False, description="Torch with weights as they are stored, instead of channels last")


class Work(Config):
    """What one timed call does."""

    kind: Literal["part", "task"] = Field(description="One network call, or a whole task")
    name: str = Field(description="Part (denoiser) or verb (fill)")
    batch: int = Field(description="Samples per call, or 1 for a task that takes one unit")
    unit: str = Field("samples", description="What throughput counts")
    size: tuple[int, ...] | None = Field(None, description="Side lengths, pixels or voxels")
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict, description="Shape of each input")
    network_calls: int = Field(1, description="Network calls in one timed call")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the task; seeds of the inputs")


class Cold(Config):
    """Seconds until the first result; none where a step was not needed. An export counts when it was made."""

    export_s: float | None = Field(None, description="Writing the ONNX file with its checks")
    build_s: float | None = Field(None, description="Compiling it for the backend, checks included")
    load_s: float | None = Field(None, description="Reading weights or engine, process and imports not counted")
    first_call_s: float | None = Field(None, description="First call, lazy compilation included")


class Latency(Config):
    """Milliseconds per call; a percentile is none where there were too few calls for it."""

    timer: Timer
    n: int = Field(description="Timed calls")
    warmup: int = Field(description="Untimed calls before them")
    median: float
    median_ci95: tuple[float, float] | None = Field(None, description="Bootstrap over rounds and calls")
    p90: float | None = Field(None, description="From 20 calls on")
    p95: float | None = Field(None, description="From 100 calls on")
    p99: float | None = Field(None, description="From 1000 calls on")
    minimum: float
    iqr: float = Field(description="75th minus 25th percentile")
    round_medians: tuple[float, ...] = Field(description="In order; rounds of all rows of a group were interleaved")

    @classmethod
    def of(
        cls, rounds: Sequence[Sequence[float]], timer: Literal["perf_counter", "cuda_event"], warmup: int
    ) -> Latency:
        """Return the figures of the calls of each round."""
        calls = [value for values in rounds for value in values]
        low, high = np.percentile(calls, (25, 75))
        return cls(
            timer=timer,
            n=len(calls),
            warmup=warmup,
            median=float(np.median(calls)),
            median_ci95=median_interval(rounds),
            p90=percentile(calls, 90),
            p95=percentile(calls, 95),
            p99=percentile(calls, 99),
            minimum=min(calls),
            iqr=float(high - low),
            round_medians=tuple(float(np.median(values)) for values in rounds if len(values)),
        )


class Memory(Config):
    """Most bytes held since the process began, weights and libraries included."""

    host_peak: int = Field(description="Resident memory of the process")
    torch_cuda_peak: int | None = Field(None, description="Of torch's allocator; other runtimes not counted")
    gpu_used: int | None = Field(None, description="Increase of the GPU's used memory (NVML), by any process")


class Quality(Config):
    """How far the results are from torch in fp32, on the same inputs."""

    max_abs: float | None = Field(None, description="Largest absolute difference")
    rel_max: float | None = Field(None, description="The same, divided by the largest value of the reference")
    rel_l2: float | None = Field(None, description="Norm of the difference divided by the norm of the reference")
    psnr: float | None = Field(None, description="Whole task, dB, inside the mask where there is one; 100 at most")
    ssim: float | None = Field(None, description="Whole task, inside the mask where there is one")
    parity: Literal["passed", "failed", "not run"] = Field(
        "not run", description="Errors within the tolerances of an export"
    )
    gate: Literal["passed", "failed", "not run"] = Field("not run", description="Task-level gate, as in zoo export")
    note: str = Field("", description="What was allowed, or what was found")


class Record(Config):
    """One row."""

    schema_: Literal["zoo-bench/1"] = Field(SCHEMA, alias="schema")
    run_id: str = Field(description="The same for all rows of a command")
    group: int = Field(0, description="Rows of one group ran side by side, interleaved; ratios are within it")
    time: str = Field(description="UTC, ISO 8601")
    model: Model
    backend: Backend
    precision: str = Field(description="fp32, fp16 or bf16; norms are fp32 in all")
    device: str = Field(description="cpu or cuda")
    work: Work
    environment: dict[str, Any] = Field(description="Machine, versions, threads, clocks; no names of people or folders")
    cold: Cold = Field(default_factory=Cold)
    latency_ms: Latency | None = Field(None, description="Time that the caller waits, the device synchronised")
    gpu_latency_ms: Latency | None = Field(None, description="Between CUDA events round the call")
    throughput: float | None = Field(None, description="Units per second: batch by median latency")
    memory: Memory | None = None
    artifact_bytes: int | None = Field(None, description="Files of the backend, or the weights")
    quality: Quality = Field(default_factory=Quality)
    status: Literal["ok", "not measured", "failed"] = "ok"
    note: str = Field("", description="Why it was not measured, or failed")

    def line(self) -> str:
        """Return the record as one line of JSON."""
        return self.model_dump_json(by_alias=True)

    @property
    def what(self) -> str:
        """The model and its work, in words."""
        size = "×".join(map(str, self.work.size or ()))
        words = (self.model.name, self.model.preset, "" if self.model.trained else "(untrained)", self.work.name, size)
        return " ".join(filter(None, words))

    @property
    def how(self) -> str:
        """Backend and precision, in words."""
        backend = self.backend
        more = (" + CUDA graph" if backend.cuda_graph else "") + (" contiguous" if backend.contiguous else "")
        return f"{backend.name}{more} {self.precision}"

    @property
    def key(self) -> tuple[Any, ...]:
        """What must be the same for two rows of different runs to be compared."""
        work = self.work
        asked = json.dumps([work.kind, work.options, self.environment.get("threads"), self.model.parameters])
        return self.what, self.how, self.device, work.batch, asked

    @property
    def case(self) -> tuple[str, int]:
        """What interleaved rows share; ratios are within it."""
        return self.run_id, self.group


def read_records(path: Path) -> list[Record]:
    """Read a JSONL file of records.

    Raises:
        DataError: It is missing, is empty, or a line is not of the schema; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. zoo bench NAME --out FILE.jsonl writes one.") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{path.name}, line {number} is not {SCHEMA}: {where}: {first['msg']}.") from None
    if not records:
        raise DataError(f"{path.name} holds no record; zoo bench NAME --out FILE.jsonl writes some.")
    return records


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records as JSONL, whole or not at all."""
    write_text(path, "".join(f"{record.line()}\n" for record in records))
