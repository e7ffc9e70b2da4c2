"""Builds engines from ONNX files, and knows when one that is there can be used again.

An engine is a cache. The JSON file beside it holds the key it was built under: the model and the ONNX file, the
library and its version, profile, precision, workspace, effort, flags and targets, and for native TensorRT the GPU,
CUDA and the driver. Where one of them differs it is built again, and the report says which.
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
"""Smallest, usual and largest shape of each input."""


def export(job: ExportJob) -> ExportReport:
    """Build an engine for native TensorRT; see `build`."""
    return build(open_library("tensorrt"), job)


def export_rtx(job: ExportJob) -> ExportReport:
    """Build an engine for TensorRT-RTX, with or without a GPU; see `build`."""
    return build(open_library("tensorrt-rtx"), job)


def build(library: Library, job: ExportJob) -> ExportReport:
    """Build the engine of a part from its ONNX file, unless one with the same key is there.

    Where a GPU can run it, it is compared with torch first, and what the library's inspector says of its layers is
    written beside it. One that computes something else is kept as ``NAME.rejected.engine``.

    Raises:
        ConfigError: An option that this flavour does not have.
        ExportError: One of its children says what does not compile: an operator, types, the profile, memory, no GPU.
        ParityError: The engine computes something else than the model.
    """
    options = job.options
    check_options(library, options)
    if not job.onnx.is_file():
        raise ArtifactError(f"There is no {job.onnx} to build an engine from; zoo export --onnx writes it.")
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
        why = str(error).partition(". ")[0]
        notes.append(f"built, but not run, and its layers are not listed: {why}")
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
    """Return where an engine and its JSON file go in ``exports/``."""
    name = f"{part}.{options.precision}.b{'-'.join(map(str, options.batch))}"
    return folder / library.flavour / f"{name}.engine", folder / library.flavour / f"{name}.json"


def engine_key(library: Library, job: ExportJob) -> dict[str, Any]:
    """Return everything an engine depends on.

    Engines of TensorRT-RTX are for the compute capabilities they were compiled for, and do not depend on where.
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
    """Return the hashes of an ONNX file and of the weights beside it, where they are a file of their own."""
    data = onnx.with_name(f"{onnx.name}.data")
    return {"onnx_sha256": sha256(onnx), "onnx_data_sha256": sha256(data) if data.is_file() else None}


def profile_of(part: Part, options: ExportOptions) -> Profile:
    """Return the shapes an engine is built for; only the batch is free.

    Raises:
        ProfileError: The part has another dynamic axis.
    """
    for spec in part.inputs:
        others = [size for size in spec.shape if isinstance(size, str) and size != "batch"]
        if others:
            raise ProfileError(
                f"Engines are built with the batch free and every other size fixed; the input {spec.name!r} has the "
                f"dynamic axis {others[0]!r}. Give it a size in the method's parts."
            )
    return {
        spec.name: [tuple(batch if size == "batch" else int(size) for size in spec.shape) for batch in options.batch]
        for spec in part.inputs
    }


def check_options(library: Library, options: ExportOptions) -> None:
    """Refuse options that a flavour does not have.

    Raises:
        ConfigError: It would have no effect, or there is no such compute capability.
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
        library: Which TensorRT.
        onnx: The file; weights in a file of their own lie beside it.
        part: What goes in and out.
        options: With ``check_only`` nothing is built.
        progress: Called with (thousandths done, 1000).

    Returns:
        The serialised engine, a buffer, or ``None`` for ``check_only``; and what the parser says of the network.

    Raises:
        ExportError: One of its children, as for `build`.
    """
    trt = library.trt
    with library.listening() as heard, _timing_cache(options.timing_cache) as timings:
        try:
            builder = trt.Builder(library.log)
        except TypeError:  # its factory returned nothing
            raise build_error(onnx, heard, options) from None
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, library.log)
        if not parser.parse_from_file(str(onnx)):
            raise parse_error(onnx, parser, heard, options)

        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
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
            raise build_error(onnx, heard, options)
        facts = {"nodes": network.num_layers, "inputs": network.num_inputs, "outputs": network.num_outputs}
        if options.check_only:
            if not builder.is_network_supported(network, config):
                raise build_error(onnx, heard, options)
            return None, facts

        if timings is not None:
            timings.give(config)
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor.stopped_by is not None:
            raise monitor.stopped_by
        if plan is None:
            raise build_error(onnx, heard, options)
        if warning := profile_warning(heard):
            raise profile_error(onnx, warning, options)
        if timings is not None:
            timings.keep(config)
        progress(1000, 1000)
        return plan, facts


def _flags(library: Library) -> list[str]:
    # Without it the runtime allocates as it goes, which cannot be captured in a CUDA graph.
    return ["REQUIRE_USER_ALLOCATION"] if library.rtx else []


def _write(path: Path, plan: Any) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(plan)


class _TimingCache:
    """A file of kernel timings of native TensorRT."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def give(self, config: Any) -> None:
        """Let the builder use what is there."""
        cache = config.create_timing_cache(self.path.read_bytes() if self.path.exists() else b"")
        if not config.set_timing_cache(cache, False):
            raise ArtifactError(
                f"{self.path} holds timings of another GPU or version of TensorRT; name another --timing-cache."
            )

    def keep(self, config: Any) -> None:
        """Write what is known after the build."""
        with replacing(self.path) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())


@contextmanager
def _timing_cache(path: str | None) -> Iterator[_TimingCache | None]:
    """Hold a timing cache for the length of a build; others that share it wait, and then find its timings."""
    if path is None:
        yield None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        yield _TimingCache(Path(path))


def _monitor(trt: Any, progress: Callable[[int, int], None]) -> Any:
    """Return what the builder reports to: phases within phases, each of so many steps."""

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
            # An exception, Ctrl-C say, may not pass through the library: it is kept, and the build is stopped.
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
                inside = max((done(child) for child, (up, _, _) in self.phases.items() if up == name), default=0.0)
                return min((steps_done + inside) / steps, 1.0)

            return max((done(name) for name, (parent, _, _) in self.phases.items() if not parent), default=0.0)

    return Monitor()
