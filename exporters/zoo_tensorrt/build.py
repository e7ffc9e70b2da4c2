"""Builds engines from ONNX files, and reuses an engine whose key is unchanged.

An engine is a cache. The JSON file beside it holds the key: the model and the ONNX file, the library and its version,
profile, precision, workspace, optimisation level, flags and targets, and for native TensorRT the GPU, CUDA and the
driver. If one of them differs, the engine is built again, and the report names the difference.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import filelock

from zoo.descriptors import Part
from zoo.errors import ArtifactError, ConfigError, NoGpuError, ParityError, ProfileError
from zoo.exporting.files import existing, export_key, rejected, write_report
from zoo.exporting.job import ExportJob, ExportOptions, ExportReport
from zoo.exporting.parity import check_parity
from zoo.system.files import replacing, sha256, write_text
from zoo_tensorrt.library import Library, machine, open_library, require_gpu
from zoo_tensorrt.messages import build_error, parse_error, profile_error, profile_warning
from zoo_tensorrt.runtime import EnginePart

Profile = dict[str, list[tuple[int, ...]]]
"""Smallest, optimal and largest shape of each input."""


def export(job: ExportJob) -> ExportReport:
    """Build an engine for native TensorRT; see `build`."""
    return build(open_library("tensorrt"), job)


def export_rtx(job: ExportJob) -> ExportReport:
    """Build an engine for TensorRT-RTX, with or without a GPU; see `build`."""
    return build(open_library("tensorrt-rtx"), job)


def build(library: Library, job: ExportJob) -> ExportReport:
    """Build the engine of a part from its ONNX file, unless an engine with the same key exists.

    If a GPU can run the engine, it is compared with torch, and the library's report on its layers is written beside it.
    An engine that differs from torch is kept as ``NAME.rejected.engine``.

    Raises:
        ConfigError: This flavour does not have an option.
        ExportError: The part does not compile; the subclass names the reason: operator, types, profile, memory, no GPU.
        ParityError: The engine differs from torch.
    """
    options = job.options
    check_options(library, options)
    if not job.onnx.is_file():
        raise ArtifactError(f"There is no {job.onnx} to build an engine from; write it with zoo export --onnx.")
    key = engine_key(library, job)
    engine, sidecar = engine_files(library, job.folder, job.name, options)

    started = time.perf_counter()
    if options.check_only:
        _, facts = compile_plan(library, job.onnx, job.part, options, job.progress)
        note = "checked; no engine was built"
        return _report(library, job, (), {"check": time.perf_counter() - started}, facts, "not run", [note])
    kept, note = existing(sidecar, key, job, backend=library.flavour)
    if kept:
        return kept
    plan, facts = compile_plan(library, job.onnx, job.part, options, job.progress)
    seconds = {"build": time.perf_counter() - started}

    notes, files = [note], [engine]
    layers = engine.with_suffix(".layers.json")
    try:
        device = require_gpu(library, "cuda")
    except NoGpuError as error:
        reason = str(error).partition(". ")[0]
        notes.append(f"built, but not run, and its layers are not listed: {reason}")
        layers.unlink(missing_ok=True)
    else:
        part = EnginePart(library, plan, job.part, device, engine.name)
        try:
            facts["parity"] = check_parity(job, part)
        except ParityError:
            _write(rejected(engine), plan)
            raise
        write_text(layers, part.layer_report())
        files.append(layers)
    _write(engine, plan)
    report = _report(library, job, (*files, sidecar), seconds, facts, "ok" if "parity" in facts else "not run", notes)
    write_report(sidecar, key, report)
    return report


def _report(
    library: Library,
    job: ExportJob,
    files: tuple[Path, ...],
    seconds: dict[str, float],
    checks: dict[str, Any],
    status: Literal["ok", "not run"],
    notes: list[str],
) -> ExportReport:
    return ExportReport(
        part=job.name, backend=library.flavour, precision=job.options.precision, files=files, seconds=seconds,
        checks=checks, status=status, note="; ".join(filter(None, notes)),
    )  # fmt: skip


def engine_files(library: Library, folder: Path, part: str, options: ExportOptions) -> tuple[Path, Path]:
    """Return the paths of an engine and its JSON file in ``exports/``."""
    name = f"{part}.{options.precision}.b{'-'.join(map(str, options.batch))}"
    return folder / library.flavour / f"{name}.engine", folder / library.flavour / f"{name}.json"


def engine_key(library: Library, job: ExportJob) -> dict[str, Any]:
    """Return everything an engine depends on.

    Engines of TensorRT-RTX depend on the target compute capabilities, but not on the machine that builds them.
    """
    options = job.options
    here = machine()
    return export_key(
        job.artifact,
        job.name,
        options.precision,
        **onnx_hashes(job.onnx),
        library=library.flavour,
        version=library.trt.__version__,
        profile=json.loads(json.dumps(profile_of(job.part, options))),
        tf32=False,
        workspace_bytes=options.workspace_bytes,
        opt_level=options.opt_level,
        flags=_flags(library),
        target_cc=list(options.target_cc),
        machine={"platform": here["platform"]} if library.rtx else here,
    )


def onnx_hashes(onnx: Path) -> dict[str, str | None]:
    """Return the hashes of an ONNX file and of its separate file of weights, if there is one."""
    data = onnx.with_name(f"{onnx.name}.data")
    return {"onnx_sha256": sha256(onnx), "onnx_data_sha256": sha256(data) if data.is_file() else None}


def profile_of(part: Part, options: ExportOptions) -> Profile:
    """Return the shapes for which an engine is built; only the batch is dynamic.

    Raises:
        ProfileError: The part has another dynamic axis.
    """
    for spec in part.inputs:
        others = [size for size in spec.shape if isinstance(size, str) and size != "batch"]
        if others:
            raise ProfileError(
                f"Engines take a dynamic batch and no other dynamic axis; the input {spec.name!r} has the dynamic "
                f"axis {others[0]!r}. Give it a size in the method's parts."
            )
    return {
        spec.name: [tuple(batch if size == "batch" else int(size) for size in spec.shape) for batch in options.batch]
        for spec in part.inputs
    }


def check_options(library: Library, options: ExportOptions) -> None:
    """Refuse options that a flavour does not have.

    Raises:
        ConfigError: An option would have no effect, or there is no such compute capability.
    """
    if library.rtx and options.timing_cache is not None:
        raise ConfigError(
            "TensorRT-RTX times no kernels when it builds, so --timing-cache has no effect; leave it out."
        )
    if not library.rtx and options.target_cc:
        raise ConfigError(
            "Native TensorRT builds for the GPU it runs on, so --target-cc has no effect; leave it out, or use "
            "--trt-rtx."
        )
    if library.rtx:
        known = library.compute_capabilities()
        if unknown := [number for number in options.target_cc if number not in known]:
            raise ConfigError(
                f"TensorRT-RTX {library.trt.__version__} has no compute capability {unknown[0]}; --target-cc takes "
                f"{', '.join(map(str, known))}."
            )


def compile_plan(
    library: Library, onnx: Path, part: Part, options: ExportOptions, progress: Callable[[int, int], None]
) -> tuple[Any, dict[str, Any]]:
    """Parse an ONNX file and build its engine, strongly typed: every tensor keeps the type it has in the file.

    Args:
        library: The opened library.
        onnx: The ONNX file; a separate file of weights lies beside it.
        part: Inputs and outputs of the part.
        options: Options of the build; with ``check_only`` nothing is built.
        progress: Called with (thousandths done, 1000).

    Returns:
        The serialised engine, a buffer, or ``None`` for ``check_only``; and facts about the network from the parser.

    Raises:
        ExportError: As for `build`.
    """
    trt = library.trt
    with library.logged() as logged, _timing_cache(options.timing_cache) as timings:
        try:
            builder = trt.Builder(library.log)
        except TypeError:  # the library's factory returned no builder
            raise build_error(onnx, logged, options) from None
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, library.log)
        if not parser.parse_from_file(str(onnx)):
            raise parse_error(onnx, parser, logged, options)

        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 must not become TF32
        for name in _flags(library):
            config.set_flag(getattr(trt.BuilderFlag, name))
        if options.opt_level is not None:
            config.builder_optimization_level = options.opt_level
        if options.target_cc:
            known = library.compute_capabilities()
            config.num_compute_capabilities = len(options.target_cc)
            for index, number in enumerate(options.target_cc):
                config.set_compute_capability(known[number], index)
        profile = builder.create_optimization_profile()
        for name, shapes in profile_of(part, options).items():
            profile.set_shape(name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise build_error(onnx, logged, options)
        facts = {"nodes": network.num_layers, "inputs": network.num_inputs, "outputs": network.num_outputs}
        if options.check_only:
            if not builder.is_network_supported(network, config):
                raise build_error(onnx, logged, options)
            return None, facts

        if timings is not None:
            timings.give(config)
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor.stopped_by is not None:
            raise monitor.stopped_by
        if plan is None:
            raise build_error(onnx, logged, options)
        if warning := profile_warning(logged):
            raise profile_error(onnx, warning, options)
        if timings is not None:
            timings.keep(config)
        progress(1000, 1000)
        return plan, facts


def _flags(library: Library) -> list[str]:
    # Without this flag the runtime allocates during a call, which a CUDA graph cannot capture.
    return ["REQUIRE_USER_ALLOCATION"] if library.rtx else []


def _write(path: Path, plan: Any) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(plan)


class _TimingCache:
    """A file of kernel timings of native TensorRT."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def give(self, config: Any) -> None:
        """Give the builder the stored timings."""
        cache = config.create_timing_cache(self.path.read_bytes() if self.path.exists() else b"")
        if not config.set_timing_cache(cache, False):
            raise ArtifactError(
                f"{self.path} holds timings of another GPU or version of TensorRT; name another --timing-cache."
            )

    def keep(self, config: Any) -> None:
        """Store the timings after the build."""
        with replacing(self.path) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())


@contextmanager
def _timing_cache(path: str | None) -> Iterator[_TimingCache | None]:
    """Lock a timing cache during a build; other builds that share it wait and then use its timings."""
    if path is None:
        yield None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        yield _TimingCache(Path(path))


def _monitor(trt: Any, progress: Callable[[int, int], None]) -> Any:
    """Return the builder's progress monitor: nested phases, each with its number of steps."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.stopped_by: BaseException | None = None
            self.phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps done, steps
            self.shown = 0
            self.lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self.lock:
                self.phases[phase_name] = parent_phase, 0, max(num_steps, 1)

        def step_complete(self, phase_name: str, step: int) -> bool:
            # An exception such as Ctrl-C must not pass through the library: store it and stop the build.
            try:
                with self.lock:
                    parent, _, steps = self.phases[phase_name]
                    self.phases[phase_name] = parent, step + 1, steps
                    self.shown = max(self.shown, round(1000 * self._share()))
                    progress(self.shown, 1000)
            except BaseException as error:
                self.stopped_by = error
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            with self.lock:
                self.phases.pop(phase_name, None)

        def _share(self) -> float:
            def done(name: str) -> float:
                _, steps_done, steps = self.phases[name]
                children = (child for child, (parent, _, _) in self.phases.items() if parent == name)
                inside = max(map(done, children), default=0.0)
                return min((steps_done + inside) / steps, 1.0)

            return max((done(name) for name, (parent, _, _) in self.phases.items() if not parent), default=0.0)

    return Monitor()
