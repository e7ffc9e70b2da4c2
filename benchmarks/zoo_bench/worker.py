"""The child process of one row: reads a job as one line of JSON and writes one line of JSON per answer.

    python -m zoo_bench.worker

A new process per row keeps one runtime's threads, caches and memory out of another's figures.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zoo.errors import ConfigError, MissingExtraError, NoGpuError, ParityError, ZooError
from zoo.models.runtime import Runtime
from zoo.system import machine
from zoo.system.allocator import keep_freed_memory
from zoo_bench.jobs import Job

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.models.artifact import Artifact
    from zoo.tasks import Parts, Trial

Run = Callable[[Mapping[str, "Tensor"]], Any]

_CLEAR = 0.5
"""Seconds; a call that takes longer gains nothing from a call before it that refills the caches."""


class NotMeasured(ZooError):
    """A row that cannot run here, and why."""


def main() -> None:
    """Do one job. What libraries print goes to stderr, so that stdout holds answers alone."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job.model_validate_json(sys.stdin.readline())
    try:
        _prepare(job)
        if job.action == "reference":
            _answer(answers, make_reference(job))
        elif job.action == "export":
            _answer(answers, make_export(job))
        else:
            for answer in measure(job, sys.stdin):
                _answer(answers, answer)
    except (NotMeasured, MissingExtraError, NoGpuError, ConfigError) as error:
        _answer(answers, {"status": "not measured", "note": str(error)})
    except ImportError as error:
        _answer(
            answers, {"status": "not measured", "note": f"package {error.name} is missing: pip install {error.name}"}
        )
    except Exception as error:
        kind = "" if isinstance(error, ZooError) else f"{type(error).__name__}: "
        _answer(answers, {"status": "failed", "note": kind + (str(error).splitlines() or [""])[0]})


def _answer(answers: IO[str], content: Mapping[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def _prepare(job: Job) -> None:
    import torch

    if not job.contiguous:  # that row is torch as it comes
        keep_freed_memory()  # as the command line does
    torch.set_num_threads(job.threads)
    if job.device.startswith("cuda") and not torch.cuda.is_available():
        raise NotMeasured("no GPU")


def work_of(artifact: Artifact, job: Job, parts: Parts) -> Run:
    """Return the job's part or whole task as a function of its named inputs."""
    if job.kind == "part":
        part = parts[job.name]
        if not job.cuda_graph:
            return lambda inputs: part(*inputs.values())
        from zoo.system.cuda_graph import can_record, replayed

        if not can_record(part):
            raise NotMeasured(f"backend {job.backend!r} on {job.device!r} is not recorded as a CUDA graph from outside")
        return lambda inputs: replayed(part, "benchmark", part, *inputs.values())
    trial = trial_of(artifact, job)
    return lambda inputs: trial.run(parts, inputs, None)


def trial_of(artifact: Artifact, job: Job) -> Trial:
    """Return the trial of the task that is timed.

    Raises:
        NotMeasured: The verb has none, or a batch was asked for and its trial is one unit.
    """
    from zoo.registry import registry
    from zoo.tasks.trial import make_trial

    if registry().verbs[job.name].trial is None:
        raise NotMeasured(f"skipped: the verb {job.name!r} has no trial")
    trial = make_trial(artifact, job.name, job.options, what=f"zoo {job.name} in a benchmark")
    if max(job.batches) > 1 and not trial.batched:
        raise NotMeasured(f"the task {job.name!r} takes one of its {trial.unit} per call; leave --batch out")
    return trial


def example(artifact: Artifact, job: Job) -> Mapping[str, Tensor]:
    """Return synthetic inputs of the job for its largest batch.

    Raises:
        NotMeasured: The task has no trial.
        DataError: There is no synthetic input for the model.
    """
    from zoo.exporting.parity import parity_inputs

    if job.kind == "part":
        part = artifact.part_specs()[job.name]
        drawn = parity_inputs(part, max(job.batches))
        return {spec.name: tensor for spec, tensor in zip(part.inputs, drawn, strict=True)}
    return trial_of(artifact, job).inputs(max(job.batches))


def make_reference(job: Job) -> dict[str, Any]:
    """Run torch in fp32 once, without TF32, and keep inputs and outputs, which every row is compared with."""
    import torch
    from safetensors.torch import save_file

    from zoo.models.artifact import Artifact

    torch.backends.cudnn.allow_tf32 = False
    artifact = Artifact.open(job.model)
    inputs = example(artifact, job)
    calls: Counter[str] = Counter()
    parts = {name: _counted(name, part, calls) for name, part in artifact.parts(Runtime(device=job.device)).items()}
    outputs = work_of(artifact, job, parts)(inputs)
    kept = {f"in {name}": tensor for name, tensor in inputs.items()}
    kept |= {f"out {index}": tensor.float().cpu() for index, tensor in enumerate(_as_tuple(outputs))}
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, job.reference_file)
    unit = trial_of(artifact, job).unit if job.kind == "task" else "samples"
    return {"status": "ok", "network_calls": calls.total(), "unit": unit}


def _counted(name: str, part: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(part)  # with what the part says of its device
    def call(*inputs: Tensor) -> Any:
        calls[name] += 1
        return part(*inputs)

    return call


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


@contextmanager
def _silent(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show no progress: the parent shows its own."""
    yield lambda done, total: None


def make_export(job: Job) -> dict[str, Any]:
    """Make the files that the backend needs; files that exist and fit are used."""
    from zoo.exporting.export import ONNX_WRITER, export
    from zoo.exporting.job import ExportOptions
    from zoo.models.artifact import Artifact

    batches = sorted(job.batches)
    profile = (batches[0], batches[len(batches) // 2], batches[-1])
    options = ExportOptions(precision=job.precision, batch=profile)
    reports = export(Artifact.open(job.model), [job.backend], options, [], _silent)
    own = [report for report in reports if report.backend == job.backend]
    seconds = {"onnx": 0.0, "own": 0.0}
    for report in reports:
        seconds["onnx" if report.backend == ONNX_WRITER else "own"] += sum(report.seconds.values())
    return {
        "status": "ok",
        "export_s": seconds["onnx"] or None,
        "build_s": seconds["own"] or None,
        "bytes": sum(path.stat().st_size for report in own for path in report.files),
        "tasks": own[0].checks.get("tasks", {}),
        "not_run": "; ".join(report.note for report in own if report.status != "ok"),
    }


def measure(job: Job, orders: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Load, call once, compare with the reference, warm up; then run a round for every line of ``orders``.

    Yields:
        What the row is and what it cost to start; then the latencies of each round.
    """
    from safetensors.torch import load_file

    from zoo.models.artifact import Artifact

    used_before = machine.gpu_state().get("used_bytes")
    artifact = Artifact.open(job.model)
    kept = load_file(job.reference_file)
    inputs = {name.removeprefix("in "): tensor for name, tensor in kept.items() if name.startswith("in ")}
    expected = [kept[f"out {index}"] for index in range(sum(key.startswith("out ") for key in kept))]

    began = time.perf_counter()
    run = work_of(artifact, job, _parts(artifact, job))
    _synchronise(job)
    load_s = time.perf_counter() - began
    timed = _timed_inputs(artifact, job, inputs)
    began = time.perf_counter()
    results = _as_tuple(run(timed))
    _synchronise(job)
    first_call_s = time.perf_counter() - began
    held = [tensor[: len(result)] for tensor, result in zip(expected, results, strict=True)]
    quality = _quality(artifact, job, results, held, inputs)

    def call() -> Any:
        return run(timed)

    protocol = job.protocol
    warmup, _ = _round(
        call, job, {"calls": protocol.warmup_calls, "seconds": protocol.warmup_s, "limit_s": protocol.warmup_limit_s}
    )
    yield {
        "status": "ok",
        "cold": {"load_s": load_s, "first_call_s": first_call_s},
        "quality": quality,
        "shapes": {name: tuple(tensor.shape) for name, tensor in timed.items()},
        "warmup": len(warmup),
        "environment": environment(job),
    }
    for order in orders:
        if warmup[-1] < 1e3 * _CLEAR:
            call()  # the rows before this one have emptied its caches
        host, gpu = _round(call, job, json.loads(order))
        yield {"host_ms": host, "gpu_ms": gpu, "memory": _memory(used_before), "gpu_state": machine.gpu_state()}


def _parts(artifact: Artifact, job: Job) -> Parts:
    if not job.contiguous:
        return artifact.parts(Runtime(job.backend, job.precision, job.device))
    from zoo_torch.eager import as_callable, load_module

    modules = {name: load_module(artifact.folder, name, job.device, job.precision) for name in artifact.part_specs()}
    return {name: as_callable(module, job.device) for name, module in modules.items()}


def _timed_inputs(artifact: Artifact, job: Job, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the first samples, on the device; a task moves its tensors itself."""
    if job.kind == "task":
        batched = trial_of(artifact, job).batched
        return {name: tensor[: job.batch] if batched else tensor for name, tensor in inputs.items()}
    timed = {}
    for spec in artifact.part_specs()[job.name].inputs:
        tensor = inputs[spec.name]
        timed[spec.name] = (tensor[: job.batch] if spec.shape[:1] == ("batch",) else tensor).to(job.device)
    return timed


def _quality(
    artifact: Artifact, job: Job, found: tuple[Tensor, ...], expected: list[Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Compare results with torch in fp32: a part by the tolerances of an export, a task by the limits of its trial."""
    import torch

    from zoo.exporting.parity import TOLERANCES

    if job.kind == "task":
        trial = trial_of(artifact, job)
        images, truth = found[0].float().cpu(), expected[0]
        psnr, ssim = trial.fidelity(images, truth, inputs)
        where = inputs[trial.region].expand_as(truth) if trial.region else ...
        return _judged(_errors([images[where]], [truth[where]]), psnr, ssim, trial.limits[job.precision])
    errors = _errors(found, expected)
    # TF32, torch's default for convolutions on a GPU, has fp16's ten bits.
    tf32 = job.precision == "fp32" and job.device.startswith("cuda") and torch.backends.cudnn.allow_tf32
    rel_max, rel_l2 = TOLERANCES["fp16" if tf32 else job.precision]
    return {
        **errors,
        "parity": "passed" if errors["rel_max"] <= rel_max and errors["rel_l2"] <= rel_l2 else "failed",
        "note": f"{'TF32; ' if tf32 else ''}allowed: rel_max {rel_max:g}, rel_l2 {rel_l2:g}",
    }


def _judged(errors: dict[str, float], psnr: float, ssim: float, least: tuple[float, float]) -> dict[str, Any]:
    return {
        **errors,
        "psnr": psnr,
        "ssim": ssim,
        "gate": "passed" if psnr >= least[0] and ssim >= least[1] else "failed",
        "note": f"least: PSNR {least[0]:g} dB, SSIM {least[1]:g}",
    }


def _errors(found: Iterable[Tensor], expected: Iterable[Tensor]) -> dict[str, float]:
    """Return the largest errors over the outputs.

    Raises:
        ParityError: An output is not finite.
    """
    worst = {"max_abs": 0.0, "rel_max": 0.0, "rel_l2": 0.0}
    for output, truth in zip(found, expected, strict=True):
        if not output.isfinite().all():
            raise ParityError("The output holds values that are not finite.")
        difference, size = output.double().cpu() - truth.double(), truth.double().abs()
        figures = (difference.abs().max(), difference.abs().max() / size.max(), difference.norm() / size.norm())
        worst = {name: max(value, float(figure)) for (name, value), figure in zip(worst.items(), figures, strict=True)}
    return worst


def _round(call: Callable[[], Any], job: Job, order: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Time calls until their number and seconds are as ordered, or the limit is reached; ms by clock and by GPU."""
    import torch

    cuda = job.device.startswith("cuda")
    host: list[float] = []
    gpu: list[float] = []
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        if cuda:
            events[0].record()
        call()
        if cuda:
            events[1].record()
            torch.cuda.synchronize()
            gpu.append(events[0].elapsed_time(events[1]))
        end = time.perf_counter()
        host.append(1e3 * (end - start))
        enough = len(host) >= order["calls"] and end - began >= order["seconds"]
        if enough or end - began >= order["limit_s"]:
            return host, gpu


def _synchronise(job: Job) -> None:
    if job.device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def _memory(used_before: int | None) -> dict[str, int | None]:
    import torch

    used = machine.gpu_state().get("used_bytes")
    return {
        "host_peak": peak_memory(),
        "torch_cuda_peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "gpu_used": None if used is None or used_before is None else used - used_before,
    }


def peak_memory() -> int:
    """Return the most resident memory that this process had, bytes."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux's ru_maxrss begins at what the parent had when it started this process.
    [held] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(held.split()[1])


def environment(job: Job) -> dict[str, Any]:
    """Return what the figures depend on besides the job: machine, versions, threads, switches of torch."""
    import torch

    from zoo import __version__

    about: dict[str, Any] = {
        "zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": machine.cpu(),
        "threads": torch.get_num_threads(),
    }
    if job.device.startswith("cuda"):
        about |= {
            "gpu": machine.gpus()[torch.device(job.device).index or 0],
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": {
                "matmul": torch.backends.cuda.matmul.allow_tf32,
                "convolution": torch.backends.cudnn.allow_tf32,
            },
            "driver": machine.gpu_state().get("driver"),
        }
    return about


if __name__ == "__main__":
    main()
