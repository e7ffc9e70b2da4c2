"""Measuring cases: one process per row, interleaved in rounds."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from safetensors import safe_open

from zoo.config import Config, merge, read_config_file, validate
from zoo.errors import UnknownNameError, did_you_mean
from zoo.models.artifact import Artifact
from zoo.models.find import find_artifact, resized, untrained
from zoo.registry import registry
from zoo.system import machine
from zoo_bench.jobs import Job, Protocol
from zoo_bench.records import Backend, Cold, Latency, Model, Record, Work, write_records

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

PATIENCE_S = 3600.0
"""Longest wait for one answer of a child process."""

MODEL_COPIES = 4
"""Memory that a process needs on the CPU, in sizes of the model's file: weights, a runtime's copy, activations."""

PROCESS_BYTES = 1 << 30
"""Memory that a process needs in addition."""


class Row(Config):
    """How one row runs the work of its case."""

    backend: str = Field(description="As zoo list shows it")
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    cuda_graph: bool = Field(False, description="Capture the call once and replay it")
    contiguous: bool = Field(False, description="Torch with weights as they are stored, a baseline; else channels last")

    @model_validator(mode="after")
    def _torch_has_layouts(self) -> Row:
        if self.contiguous and self.backend != "torch":
            raise ValueError(f"contiguous is for backend 'torch', not {self.backend!r}")
        return self


class Case(Config):
    """The same work for several rows, side by side; the others are compared with the first row."""

    model: str = Field(description="Method, run folder or model file")
    preset: str | None = Field(None, description="With seeded random weights")
    part: str | None = Field(None, description="Time a network call of this part; default: the method's last one")
    task: str | None = Field(None, description="Time this task as a whole instead")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the task")
    size: tuple[int, ...] | None = Field(None, description="Side of the images, pixels; default: the model's")
    batch: tuple[int, ...] = Field((1,), min_length=1, description="Samples per call")
    device: str | None = Field(None, description="cpu or cuda; default: a GPU where there is one")
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Case:
        if self.part and self.task:
            raise ValueError(f"part {self.part!r} and task {self.task!r} exclude each other; give one")
        if self.task and any(row.cuda_graph for row in self.rows):
            raise ValueError(f"task {self.task!r} records its own CUDA graphs where it can; leave cuda_graph out")
        if min(self.batch) < 1:
            raise ValueError(f"batch {min(self.batch)} is not 1 or more")
        return self


class Suite(Config):
    """Cases that are measured by one command, the most important first."""

    protocol: Protocol = Field(default_factory=Protocol)
    seconds: float | None = Field(None, gt=0, description="Time box; rows not started by then are not measured")
    case: tuple[Case, ...] = Field(min_length=1)


def read_suite(path: Path, protocol: Mapping[str, Any]) -> Suite:
    """Read a suite and override settings of its protocol; see `zoo.config.read_config_file` for what it raises."""
    return validate(Suite, merge(read_config_file(path), {"protocol": protocol}), what=f"suite {path.name}")


def run_suite(suite: Suite, runs: Path, out: Path, bar: Bar) -> list[Record]:
    """Measure all cases; ``out`` holds what is measured after each of them.

    Args:
        suite: Cases and protocol.
        runs: Folder of runs, for models given by a method's name.
        out: JSONL file of the records.
        bar: Makes progress bars.

    Raises:
        UnknownNameError, ConfigError, ArtifactError: A case names what is not there.
    """
    for case in suite.case:
        for row in case.rows:
            registry().exporters[row.backend]  # raises with near names, before anything is measured
    bench = Bench(suite.protocol, suite.seconds, bar)
    records: list[Record] = []
    for case in suite.case:
        records += run_case(bench, case, runs)
        write_records(out, records)
    return records


class Child:
    """A process that does one job, and its answers."""

    def __init__(self, job: Job) -> None:
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zoo_bench.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, env={**os.environ, "OMP_NUM_THREADS": str(job.threads)},
        )  # fmt: skip
        self.tell(job.model_dump_json())

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def tell(self, line: str) -> None:
        """Send a line; a process that has died is noticed at the next `hear`."""
        assert self.process.stdin
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def hear(self, patience_s: float) -> dict[str, Any]:
        """Return the next answer, or that there was none."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], max(patience_s, 0))[0]:
            return {"status": "not measured", "note": f"no answer within {patience_s:.0f} s"}
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or [""])[-1]
        if code == -signal.SIGKILL:
            last = "killed, as the system does when memory runs out"
        return {"status": "failed", "note": f"the process ended with code {code}: {last}"}


class Bench:
    """What the measurements of one command share: identity, protocol and time box."""

    def __init__(self, protocol: Protocol, seconds: float | None, bar: Bar) -> None:
        self.protocol = protocol
        self.seconds = seconds
        self.bar = bar
        self.run_id = uuid.uuid4().hex[:12]
        self.threads = machine.physical_cores()
        self.ends = time.monotonic() + (seconds or math.inf)
        self.groups = 0

    @property
    def left_s(self) -> float:
        """Seconds until the time box is over, at most `PATIENCE_S`."""
        return min(self.ends - time.monotonic(), PATIENCE_S)

    def ask(self, job: Job) -> dict[str, Any]:
        """Return the answer to a job that has only one."""
        if self.left_s <= 0:
            return {"status": "not measured", "note": f"the time box of {self.seconds:g} s was over"}
        with Child(job) as child:
            return child.hear(self.left_s)


def run_case(bench: Bench, case: Case, runs: Path) -> list[Record]:
    """Measure the rows of a case; a row that cannot run is recorded with its reason.

    Args:
        bench: The command.
        case: What is measured.
        runs: Folder of runs, for models given by a method's name.

    Raises:
        UnknownNameError, ConfigError, ArtifactError: The case names what is not there.
    """
    artifact = find_artifact(case.model, case.preset, runs)
    if case.size:
        artifact = resized(artifact, case.size)
    if case.task:
        artifact.method.task(case.task)
    parts = list(artifact.part_specs())
    if case.part and case.part not in parts:
        raise UnknownNameError(
            f"This model has no part {case.part!r}.{did_you_mean(case.part, parts)} Parts: {', '.join(parts)}."
        )
    name = case.task or case.part or parts[-1]
    device = case.device or ("cuda" if _has_gpu() else "cpu")
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            action="reference", model=str(artifact.folder), backend="torch", precision="fp32", device=device,
            kind="task" if case.task else "part", name=name, batches=case.batch, options=case.options,
            threads=bench.threads, reference_file=str(Path(scratch) / "reference.safetensors"), protocol=bench.protocol,
        )  # fmt: skip
        with bench.bar(f"{name}: what torch makes of it in fp32"):
            reference = bench.ask(job)
        exports: dict[tuple[str, str], dict[str, Any]] = {}
        for row in case.rows:
            if reference["status"] == "ok" and registry().exporters[row.backend].export:
                asked = job.model_copy(update={"action": "export", "backend": row.backend, "precision": row.precision})
                with bench.bar(f"Exporting {name} for {row.backend} in {row.precision}"):
                    exports[row.backend, row.precision] = bench.ask(asked)
        blocked = {row: _blocked(reference, exports.get((row.backend, row.precision), {})) for row in case.rows}
        for batch in case.batch:
            for rows in _groups(case.rows, [row for row in case.rows if blocked[row] is None], artifact, device):
                bench.groups += 1
                unit = reference.get("unit", "samples")
                skeletons = [_skeleton(bench, case, artifact, job, row, batch, unit) for row in rows]
                jobs = [
                    job.model_copy(update={"action": "measure", "batch": batch, **row.model_dump()}) for row in rows
                ]
                with bench.bar(f"Timing {name}, batch {batch}") as progress:
                    outcomes = _measure(bench, jobs, [blocked[row] for row in rows], progress)
                records += [
                    _finished(skeleton, {**reference, **outcome}, exports.get((row.backend, row.precision), {}))
                    for skeleton, outcome, row in zip(skeletons, outcomes, rows, strict=True)
                ]
    return records


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _groups(rows: Sequence[Row], running: Sequence[Row], artifact: Artifact, device: str) -> Iterator[list[Row]]:
    """Yield rows whose processes fit into memory together; the first is in every group, as ratios need it."""
    size = artifact.path.stat().st_size if artifact.path else 0
    each = PROCESS_BYTES + (MODEL_COPIES * size if device == "cpu" else size)
    together = max(int(machine.available_memory() // each), 2)
    group, begun = [rows[0]], 1
    for row in rows[1:]:
        if row in running and begun == together:
            yield group
            group, begun = [rows[0]], 1
        group.append(row)
        begun += row in running
    yield group


def _blocked(reference: dict[str, Any], export: dict[str, Any]) -> dict[str, Any] | None:
    """Return why a row need not be started; ``None`` where it can run."""
    if reference["status"] != "ok":
        return reference
    if export.get("status", "ok") != "ok":
        return export
    return {"status": "not measured", "note": export["not_run"]} if export.get("not_run") else None


def _measure(
    bench: Bench, jobs: Sequence[Job], blocked: Sequence[dict[str, Any] | None], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Start one process per job, then let each run a round in turn; return the answers of each, with its rounds."""
    protocol = bench.protocol
    order = json.dumps(
        {
            "calls": math.ceil(protocol.calls / protocol.rounds),
            "seconds": protocol.seconds / protocol.rounds,
            "limit_s": protocol.limit_s / protocol.rounds,
        }
    )
    outcomes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        children: list[Child | None] = []
        total = len(jobs) * (1 + protocol.rounds)
        for number, (job, reason) in enumerate(zip(jobs, blocked, strict=True)):
            if reason is None and bench.left_s <= 0:
                reason = {"status": "not measured", "note": f"the time box of {bench.seconds:g} s was over"}
            child = stack.enter_context(Child(job)) if reason is None else None
            answer = child.hear(bench.left_s) if child else dict(reason or {})
            outcomes.append({**answer, "rounds": []})
            children.append(child if answer["status"] == "ok" else None)
            progress(number + 1, total)
        for turn in range(protocol.rounds):
            for number, child in enumerate(children):
                if child is None or bench.left_s <= 0:
                    continue
                child.tell(order)
                answer = child.hear(bench.left_s)
                if "host_ms" in answer:
                    outcomes[number]["rounds"].append(answer)
                elif bench.left_s > 0:  # a row that breaks is no row, however many rounds went well
                    outcomes[number] |= {**answer, "rounds": []}
                    children[number] = None
                progress(len(jobs) * (1 + turn) + number + 1, total)
    return outcomes


def _skeleton(bench: Bench, case: Case, artifact: Artifact, job: Job, row: Row, batch: int, unit: str) -> Record:
    """Return the record of a row before it has run."""
    parameters = 0
    if artifact.path:
        with safe_open(artifact.path, framework="np") as file:
            parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    shape = () if job.kind == "task" else artifact.part_specs()[job.name].outputs[0].shape
    return Record(
        run_id=bench.run_id,
        group=bench.groups,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Model(
            name=artifact.method.name,
            preset=case.preset,
            version=artifact.method.version,
            trained=not untrained(artifact),
            parameters=parameters or None,
            weights_sha256=artifact.sha256,
        ),
        backend=Backend(
            name=row.backend,
            version=machine.version_of(row.backend),
            cuda_graph=row.cuda_graph,
            contiguous=row.contiguous,
        ),
        precision=row.precision,
        device=job.device,
        work=Work(
            kind=job.kind,
            name=job.name,
            batch=batch,
            unit=unit,
            size=tuple(side for side in shape[2:] if isinstance(side, int)) or None,
            options=dict(job.options),
        ),
        artifact_bytes=artifact.path.stat().st_size if artifact.path else None,
        environment={"threads": bench.threads, "cpu": machine.cpu(), "load_before": round(os.getloadavg()[0], 2)},
    )


def _finished(skeleton: Record, outcome: dict[str, Any], export: dict[str, Any]) -> Record:
    """Return the record with what its process measured, or with the reason why it measured nothing."""
    made = {name: export.get(name) for name in ("export_s", "build_s")}
    skeleton = skeleton.model_copy(
        update={"cold": Cold(**made), "artifact_bytes": export.get("bytes") or skeleton.artifact_bytes}
    )
    if outcome["status"] != "ok":
        return skeleton.model_copy(
            update={"status": outcome["status"], "note": machine.without_folders(outcome["note"])}
        )
    rounds = outcome["rounds"]
    if not rounds:
        return skeleton.model_copy(update={"status": "not measured", "note": "the time box was over before a round"})
    host, gpu = ([answer[side] for answer in rounds] for side in ("host_ms", "gpu_ms"))
    latency = Latency.of(host, "perf_counter", outcome["warmup"])
    clocks = [answer["gpu_state"]["sm_mhz"] for answer in rounds if answer["gpu_state"]]
    environment = {**skeleton.environment, **outcome["environment"], **({"sm_mhz": clocks} if clocks else {})}
    return Record.model_validate(
        {
            **skeleton.model_dump(by_alias=True),
            "work": skeleton.work.model_dump() | {name: outcome[name] for name in ("shapes", "network_calls")},
            "environment": environment,
            "cold": made | outcome["cold"],
            "latency_ms": latency.model_dump(),
            "gpu_latency_ms": Latency.of(gpu, "cuda_event", outcome["warmup"]).model_dump() if gpu[0] else None,
            "throughput": 1e3 * skeleton.work.batch / latency.median,
            "memory": rounds[-1]["memory"],
            "quality": _gate(export) | outcome["quality"],
        }
    )


def _gate(export: dict[str, Any]) -> dict[str, Any]:
    """Return what the gates of the export said; one that fails leaves no file to be measured."""
    gates = [gate for gate in export.get("tasks", {}).values() if {"least", "skipped"} & gate.keys()]
    skipped = [gate["skipped"] for gate in gates if "skipped" in gate]
    if skipped or not gates:
        return {"gate": "not run"}
    return {"gate": "passed", **{name: gates[0].get(name) for name in ("psnr", "ssim")}}
