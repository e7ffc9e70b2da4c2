"""From a trained model to files that other runtimes run: which model, which files, and what was checked.

The files lie in ``exports/`` beside the model, each with a JSON report that holds the key it was made under. A file
is used only while its key is the model's: another model, setting or damaged file is refused and named.
Importing this imports no torch.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import filelock
from pydantic import Field, model_validator

from zoo.artifact import (
    MODEL_FILE,
    Artifact,
    check_precision,
    default_device,
    make_manifest,
    read_manifest,
    write_model,
)
from zoo.config import Config, MethodConfig, differences, resolve_config, validate
from zoo.descriptors import Exporter, Method, Part, resolve
from zoo.errors import (
    ArtifactError,
    ConfigError,
    MissingExtraError,
    ParityError,
    TaskGateError,
    UnknownNameError,
    did_you_mean,
)
from zoo.files import explain_write_error, replacing, sha256, write_text
from zoo.registry import registry
from zoo.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "exports"
"""Folder of exported files, beside ``model.safetensors``."""

ONNX_WRITER = "onnxruntime"
"""The exporter that writes the ONNX file other backends start from."""

TOLERANCES = {"fp32": (1e-4, 3e-5), "fp16": (1e-2, 2e-3), "bf16": (1e-1, 8e-2)}
"""Largest rel_max and rel_l2 of a part by precision.

The order of sums alone makes a rel_l2 of 5e-6 in a U-Net of 114 M parameters, 5e-7 in one of 4 M.
bf16 keeps less than three digits: U-Nets came out at a rel_l2 of 0.4e-2 to 1.5e-2 in torch and, where norms are cast,
too, of 1.1e-2 to 5.3e-2 in OpenVINO. What that does to images is for the task's gate to judge.
"""

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class ExportOptions(Config):
    """How parts are exported."""

    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="What weights and activations are held in")
    batch: tuple[int, int, int] = Field((1, 2, 4), description="Smallest, usual and largest batch")
    size: tuple[int, ...] | None = Field(None, description="Side of the images, pixels; default: the model's")
    opset: int | None = Field(None, ge=18, description="ONNX operator set; default: 21, for bf16 22")
    workspace_bytes: int = Field(4 << 30, gt=0, description="Memory an engine's builder may use for a layer")
    opt_level: int | None = Field(None, ge=0, le=5, description="Effort of an engine's builder; default: its own")
    target_cc: tuple[int, ...] = Field((), description="Compute capabilities an engine is built for, e.g. 86,89,120")
    timing_cache: str | None = Field(None, description="File in which native TensorRT keeps its timings")
    check_only: bool = Field(False, description="Check that engines would build, and build none")
    force: bool = Field(False, description="Export again what is there already")

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
        files: What was written, or was there already; the last is the JSON report.
        seconds: Time of each stage.
        checks: What was verified, with its figures.
        status: ``"not run"`` where the file could be made but not be run here.
        note: What the user should know: why it was not run, that it was there already.
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


# --- Which model. ---


def find_artifact(target: str | Path, preset: str | None = None, runs: Path = Path("runs")) -> Artifact:
    """Return the model that a run folder, a model file, or the name of a method stands for.

    A name stands for the newest finished run of the method. With ``preset``, or where there is no such run, it stands
    for that preset (the default one, if none is named) with seeded random weights, good for measuring speed and nothing
    else: they are written once to ``runs/NAME/untrained-PRESET`` and their manifest says ``"untrained": true``.

    Raises:
        UnknownNameError: No such method, run, file or preset.
        ConfigError: A preset beside a run, or a method without a network.
        ArtifactError: The run or file cannot be used.
    """
    methods, path = registry().methods, Path(target)
    if str(target) not in methods and (path.exists() or len(path.parts) > 1 or path.suffix):
        if preset is not None:
            raise ConfigError(f"{target} is a trained model with settings of its own; leave --preset {preset} out.")
        return Artifact.open(path)
    method = methods[str(target)]
    if not method.trainable:
        raise ConfigError(f"Method {method.name!r} has no network, so there is nothing to export or to measure.")
    if preset is None:
        folders = sorted(file.parent for file in (runs / method.name).glob("*/run.json"))
        finished = [folder for folder in folders if Run.open(folder).record.get("status") == "finished"]
        if finished:
            return Artifact.open(finished[-1])
    return _untrained(method, preset, runs)


def _untrained(method: Method, preset: str | None, runs: Path) -> Artifact:
    config = resolve_config(method, preset=preset)
    # The default preset may have a name: the one that changes nothing.
    name = preset or next((name for name, settings in method.presets.items() if not settings), "default")
    file = runs / method.name / f"untrained-{name}" / MODEL_FILE
    manifest = make_manifest(method, config, untrained=True)
    if not file.is_file() or read_manifest(file) != json.loads(json.dumps(manifest)):
        write_model(file, _seeded(method, config), manifest)
    return Artifact.open(file)


def _seeded(method: Method, config: MethodConfig) -> nn.Module:
    """Return the untrained model that the settings' seed gives."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return resolve(method.build)(config)


def untrained(artifact: Artifact) -> bool:
    """Return whether the weights are random numbers."""
    return bool(artifact.manifest.get("untrained"))


def copied(artifact: Artifact, folder: Path) -> Artifact:
    """Return the model as ``folder/model.safetensors``, which is used like a run folder; it is copied there once.

    Raises:
        ArtifactError: Another model is there.
    """
    file = folder / MODEL_FILE
    if file.exists() and sha256(file) != artifact.sha256:
        raise ArtifactError(f"{file} is another model; choose another --out.")
    if not file.exists() and artifact.path is not None:
        with replacing(file) as temporary:
            shutil.copyfile(artifact.path, temporary)
    return Artifact.open(folder)


def resized(artifact: Artifact, size: Sequence[int]) -> Artifact:
    """Return the model for images of another size: the same weights with another setting ``size``.

    It is written to ``size-128x128`` beside the model, and is used like a run folder of its own. A model that has not
    been trained is made anew.

    Args:
        artifact: The model.
        size: One side for all axes, or one an axis.

    Raises:
        ConfigError: The method has no such setting, the size does not fit, or the weights belong to one size.
    """
    values = artifact.config.model_dump(mode="json")
    if "size" not in values:
        raise ConfigError(
            f"The method {artifact.method.name!r} has no setting 'size', so --size cannot change it; leave it out."
        )
    sides = len(values["size"]) if isinstance(values["size"], list) else 1
    wanted = list(size) * sides if len(size) == 1 else list(size)
    if len(wanted) != sides:
        raise ConfigError(f"--size {','.join(map(str, size))} names {len(size)} sides; this model has {sides}.")
    values["size"] = wanted if isinstance(values["size"], list) else wanted[0]
    config = validate(resolve(artifact.method.config), values, what=f"{artifact.method.name} at another size")
    if config == artifact.config:
        return artifact
    manifest = make_manifest(artifact.method, config)
    manifest = {**artifact.manifest, "config": manifest["config"], "parts": manifest["parts"], "of": artifact.sha256}
    file = artifact.folder / f"size-{'x'.join(map(str, wanted))}" / MODEL_FILE
    if not file.is_file() or read_manifest(file) != json.loads(json.dumps(manifest)):
        model = _seeded(artifact.method, config)
        if not untrained(artifact):
            trained = artifact.build().state_dict()
            own = model.state_dict()
            if unfit := [name for name in own if own[name].shape != trained[name].shape]:
                raise ConfigError(f"The weights belong to the size {artifact.config.size} ({unfit[0]}); train again.")  # type: ignore[attr-defined]
            model.load_state_dict(trained)
        write_model(file, model, manifest)
    return Artifact.open(file)


# --- Files and the keys they were made under. ---


def export_key(artifact: Artifact, part: str, precision: str, **more: Any) -> dict[str, Any]:
    """Return what an exported file depends on: the model file, the part, the precision, and ``more``."""
    return {"model_sha256": artifact.sha256, "part": part, "precision": precision, **more}


def write_report(path: Path, key: Mapping[str, Any], report: ExportReport) -> None:
    """Write a JSON report beside exported files: what they are, their key and hashes, and what was checked."""
    files = {file.name: sha256(file) for file in report.files if file != path}
    about = {key: value for key, value in report.to_json().items() if key not in ("files", "note")}
    write_text(path, json.dumps({"format": 1, "key": dict(key), "files": files, **about}, indent=2) + "\n")


def why_stale(path: Path, key: Mapping[str, Any]) -> list[str]:
    """Return why the files of a report are not what ``key`` asks for; empty where they are.

    Args:
        path: The JSON report; its files lie beside it.
        key: What they must have been made under; entries of the report's key that are not in it may be anything.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        made_under, files = report["key"], report["files"]
    except FileNotFoundError:
        return ["not exported yet"]
    except (ValueError, KeyError, TypeError):
        return [f"{path.name} is damaged"]
    changed = differences({name: made_under.get(name) for name in key}, key)
    for name, digest in files.items():
        file = path.with_name(name)
        if not file.is_file():
            changed.append(f"{name} is missing")
        elif sha256(file) != digest:
            changed.append(f"{name} is damaged")
    return changed


def existing(path: Path, key: Mapping[str, Any], job: ExportJob, *, backend: str) -> tuple[ExportReport | None, str]:
    """Return the report of files that are there already and may stay; else ``None`` and why they are made again.

    Args:
        path: The JSON report.
        key: What files must have been made under.
        job: What is asked for.
        backend: Of the exporter that asks.
    """
    reasons = why_stale(path, key)
    if not reasons and not job.options.force:
        stored = json.loads(path.read_text(encoding="utf-8"))
        files = (*(path.with_name(name) for name in stored["files"]), path)
        return ExportReport(
            part=job.name, backend=backend, precision=job.options.precision, files=files, seconds=stored["seconds"],
            checks=stored["checks"], status=stored["status"], note="there already",
        ), ""  # fmt: skip
    return None, f"made again: {'; '.join(reasons)}" if reasons and path.exists() else ""


def require_export(path: Path, key: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return the report of exported files that are to be loaded.

    Raises:
        ArtifactError: They are not there, are of another model, or are damaged; the message names ``command``.
    """
    reasons = why_stale(path, key)
    if reasons:
        raise ArtifactError(f"{path.with_suffix('').name} cannot be used: {'; '.join(reasons)}. Run: {command}")
    return json.loads(path.read_text(encoding="utf-8"))


# --- Exporting. ---


def export(
    artifact: Artifact, backends: Sequence[str], options: ExportOptions, parts: Sequence[str], bar: Bar
) -> list[ExportReport]:
    """Export parts for backends; the ONNX file that a backend starts from is made first.

    Args:
        artifact: The model.
        backends: Names of exporters.
        options: Settings for all of them.
        parts: Names of parts; none for all.
        bar: Makes progress bars.

    Returns:
        One report a part and backend, in the order they were made.

    Raises:
        UnknownNameError: No such backend or part.
        MissingExtraError: A backend is not installed; nothing is exported then.
        ConfigError: A backend does not know the precision or needs no export, or the size does not fit.
        ExportError, ParityError: A part does not compile, or does not compute the same.
    """
    exporters = [registry().exporters[name] for name in backends]
    for exporter in exporters:
        if exporter.export is None:
            raise ConfigError(f"Backend {exporter.name!r} runs the model file as it is; there is nothing to export.")
        check_precision(exporter, options.precision)
        missing = resolve(exporter.available)()
        if missing:
            raise MissingExtraError(missing)
    if options.size is not None:
        artifact = resized(artifact, options.size)
    specs = artifact.part_specs()
    if unknown := [name for name in parts if name not in specs]:
        raise UnknownNameError(
            f"This model has no part {unknown[0]!r}.{did_you_mean(unknown[0], specs)} Parts: {', '.join(specs)}."
        )
    folder = artifact.folder / FOLDER
    reports: list[ExportReport] = []
    with _alone(folder):
        for exporter, precision in _steps(exporters, options.precision):
            asked = options.model_copy(update={"precision": precision})
            onnx_precision = exporter.onnx if exporter.onnx == "fp32" else precision
            made = []
            for name in parts or specs:
                with bar(f"{name} for {exporter.name}, {precision}") as progress:
                    job = ExportJob(
                        artifact=artifact, name=name, part=specs[name], folder=folder,
                        onnx=folder / f"{name}.{onnx_precision}.onnx", options=asked, progress=progress,
                    )  # fmt: skip
                    made.append(resolve(exporter.export or "")(job))
            with bar(f"Tasks with {exporter.name}, {precision}") as progress:
                reports += _gated(artifact, exporter, precision, made, progress)
    return reports


def _gated(
    artifact: Artifact,
    exporter: Exporter,
    precision: str,
    reports: Sequence[ExportReport],
    progress: Callable[[int, int], None],
) -> list[ExportReport]:
    """Check the tasks with what was just exported, and write the figures into its reports.

    A part that was not exported now runs in torch, and so does a bf16 ONNX file, which nothing runs on a CPU. A
    failing file is left as ``NAME.rejected``.
    """
    from zoo.gates import check_tasks

    if all("tasks" in report.checks for report in reports):
        return list(reports)
    runs = {report.part for report in reports if report.status == "ok"}
    if exporter.onnx and not runs:
        return list(reports)  # the ONNX file that it starts from has been through this
    backends = {True: exporter.name, False: "torch"}
    loaders = {here: resolve(registry().exporters[name].load) for here, name in backends.items()}
    candidates = {
        name: loaders[name in runs](artifact.folder, name, default_device(backends[name in runs]), precision)
        for name in artifact.part_specs()
    }
    about = {"parts": {name: backends[name in runs] for name in candidates}}
    try:
        tasks = {"tasks": {**about, **check_tasks(artifact, candidates, precision, progress)}}
    except TaskGateError:
        for file in (file for report in reports for file in report.files):
            file.replace(rejected(file)) if file.suffix != ".json" else file.unlink()
        raise
    for report in reports:
        path = report.files[-1]
        stored = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**stored, "checks": {**stored["checks"], **tasks}}, indent=2) + "\n")
    return [replace(report, checks={**report.checks, **tasks}) for report in reports]


def rejected(file: Path) -> Path:
    """Return the name under which a file that failed a check is left for a look at it."""
    return file.with_suffix(f".rejected{file.suffix}")


def _steps(exporters: Sequence[Exporter], precision: str) -> list[tuple[Exporter, str]]:
    """Return each exporter and its precision, after the one of the ONNX file it starts from."""
    steps: dict[tuple[str, str], tuple[Exporter, str]] = {}
    for exporter in exporters:
        if exporter.onnx:
            writer = registry().exporters[ONNX_WRITER]
            source = precision if exporter.onnx == "same" else exporter.onnx
            steps[writer.name, source] = writer, source
        steps[exporter.name, precision] = exporter, precision
    return list(steps.values())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other exports off a folder; the system frees the lock when the process ends, however it ends."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ArtifactError(f"Another process is exporting into {folder}; wait for it.") from None
    except OSError as error:
        raise explain_write_error(error, folder) or error from error
    try:
        yield
    finally:
        lock.release()


# --- Do the numbers agree? ---


def parity(
    reference: Callable[..., Any],
    candidate: Callable[..., Any],
    part: Part,
    precision: str,
    batches: Sequence[int],
) -> dict[str, Any]:
    """Compare a part on two backends, at several batches; every sample has its own seed and timestep.

    The reference runs once, on the largest batch; smaller ones are slices of it.

    Args:
        reference: The part as torch runs it in float32.
        candidate: The part as it is to be used.
        part: What goes in and out.
        precision: Of the candidate; decides what is tolerated.
        batches: Batch sizes to try.

    Returns:
        The largest ``max_abs`` (absolute), ``rel_max`` (over the reference's largest value) and ``rel_l2`` (norm of the
        difference over the reference's norm) over batches and outputs, the smallest ``cosine``, and the tolerances.

    Raises:
        ParityError: A figure is beyond its tolerance, or the output is not finite; the message names the output, the
            batch, the sample and its place.
    """
    inputs = parity_inputs(part, max(batches))
    return compare(inputs, _as_tuple(reference(*inputs)), candidate, part, precision, batches)


def parity_inputs(part: Part, samples: int) -> list[Tensor]:
    """Return seeded inputs: each sample from a seed of its own, whole numbers spread evenly over their range."""
    import torch

    from zoo.sampling import example_inputs

    drawn = [example_inputs(part, seed=number, axes={"batch": 1}) for number in range(samples)]
    inputs = []
    for spec in part.inputs:
        if spec.shape[:1] != ("batch",):
            inputs.append(drawn[0][spec.name])
        elif spec.dtype == "int64" and spec.range is not None:
            spread = torch.linspace(spec.range[1], spec.range[0], samples).round().long()
            shape = drawn[0][spec.name].shape[1:]
            inputs.append(spread.view(-1, *[1] * len(shape)).expand(samples, *shape).contiguous())
        else:
            inputs.append(torch.cat([sample[spec.name] for sample in drawn]))
    return inputs


def compare(
    inputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    candidate: Callable[..., Any],
    part: Part,
    precision: str,
    batches: Sequence[int],
) -> dict[str, Any]:
    """Compare what ``candidate`` makes of ``inputs`` with ``expected``, which `parity` explains."""
    rel_max, rel_l2 = TOLERANCES[precision]
    worst = {"max_abs": 0.0, "rel_max": 0.0, "rel_l2": 0.0, "cosine": 1.0}
    for batch in sorted(set(batches)):
        fed = [_first(tensor, batch, spec.shape) for tensor, spec in zip(inputs, part.inputs, strict=True)]
        outputs = _as_tuple(candidate(*fed))
        if len(outputs) != len(part.outputs):
            raise ParityError(f"At batch {batch} the part has {len(outputs)} outputs, not {len(part.outputs)}.")
        for spec, whole, output in zip(part.outputs, expected, outputs, strict=True):
            truth = _first(whole, batch, spec.shape).double().cpu()
            found = output.double().cpu()
            if found.shape != truth.shape:
                raise ParityError(
                    f"At batch {batch} the output {spec.name!r} is {list(found.shape)}, not {list(truth.shape)}."
                )
            figures = _figures(found, truth)
            bounds = (("rel_max", rel_max), ("rel_l2", rel_l2))
            if beyond := [(name, bound) for name, bound in bounds if not figures[name] <= bound]:  # nan is beyond, too
                name, bound = beyond[0]
                raise ParityError(
                    f"At batch {batch} the output {spec.name!r} differs from torch in float32 by {name} "
                    f"{figures[name]:.2g}; {bound:g} is allowed in {precision}. {_where(found, truth, fed, part)}"
                )
            worst = {
                name: min(worst[name], value) if name == "cosine" else max(worst[name], value)
                for name, value in figures.items()
            }
    return {**worst, "tolerance": {"rel_max": rel_max, "rel_l2": rel_l2}, "batches": sorted(set(batches))}


def _figures(found: Tensor, truth: Tensor) -> dict[str, float]:
    difference = found - truth
    tiny = 1e-30
    return {
        "max_abs": float(difference.abs().max()),
        "rel_max": float(difference.abs().max() / truth.abs().max().clamp(min=tiny)),
        "rel_l2": float(difference.norm() / truth.norm().clamp(min=tiny)),
        "cosine": float((found * truth).sum() / (found.norm() * truth.norm()).clamp(min=tiny)),
    }


def _where(found: Tensor, truth: Tensor, inputs: Sequence[Tensor], part: Part) -> str:
    """Say where two outputs differ most."""
    flat = int((found - truth).abs().nan_to_num(nan=float("inf")).argmax())
    place: list[int] = []
    for size in reversed(found.shape):
        flat, index = divmod(flat, size)
        place.insert(0, index)
    whole = [
        f"{spec.name} {tensor[place[0]].flatten()[0].item()}"
        for spec, tensor in zip(part.inputs, inputs, strict=True)
        if spec.dtype == "int64" and spec.shape[:1] == ("batch",)
    ]
    at = f" ({', '.join(whole)})" if whole else ""
    return f"Most at {place[1:]} of sample {place[0]}{at}: {found[tuple(place)]:.6g}, not {truth[tuple(place)]:.6g}."


def _first(tensor: Tensor, batch: int, shape: Sequence[int | str]) -> Tensor:
    return tensor[:batch] if shape[:1] == ("batch",) else tensor


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


@functools.lru_cache(maxsize=2)
def expected_outputs(file: Path, digest: str, part: str, samples: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Return parity inputs and what torch makes of them in float32, computed once for all backends.

    Args:
        file, digest: The model file and its hash.
        part: Name of the part.
        samples: How many.
    """
    import torch

    artifact = Artifact.open(file)
    spec = artifact.part_specs()[part]
    inputs = parity_inputs(spec, samples)
    with torch.inference_mode():
        return inputs, _as_tuple(artifact.build().get_submodule(spec.module)(*inputs))


def check_parity(job: ExportJob, candidate: Callable[..., Any]) -> dict[str, Any]:
    """Compare an exported part with torch at the job's three batches; see `parity`."""
    assert job.artifact.path is not None
    assert job.artifact.sha256 is not None
    inputs, expected = expected_outputs(job.artifact.path, job.artifact.sha256, job.name, job.options.batch[2])
    return compare(inputs, expected, candidate, job.part, job.options.precision, job.options.batch)
