"""TensorRT: engines of TensorRT-RTX are really built here, without a GPU; what needs one runs on a stand-in."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from zoo.descriptors import Part, TensorSpec
from zoo.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    ExportError,
    InvalidGraphError,
    MissingExtraError,
    NoGpuError,
    OutOfMemoryError,
    ProfileError,
    TypeMismatchError,
    UnsupportedOperatorError,
)
from zoo.exporting.job import ExportJob, ExportOptions
from zoo.models.artifact import Artifact
from zoo.models.find import find_artifact
from zoo.models.runtime import Runtime
from zoo_tensorrt import library as library_module
from zoo_tensorrt import runtime
from zoo_tensorrt.build import build, compile_plan, engine_files
from zoo_tensorrt.library import Library, available, available_rtx, open_library
from zoo_tensorrt.runtime import EnginePart, load_engine, load_rtx

needs_rtx = pytest.mark.skipif(bool(available_rtx()), reason=available_rtx())
no_gpu_here = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def _part(*shape: int | str, name: str = "x") -> Part:
    def tensor(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=shape or ("batch", 1, 16, 16), range=None, meaning="")

    return Part(module="", inputs=(tensor(name),), outputs=(tensor("y"),))


def _write_onnx(path: Path, nodes: list[Any], shape: tuple[Any, ...] = ("batch", 1, 16, 16), **constants: Any) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = 23 if nodes[-1].op_type == "Attention" else 21
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def _node(operator: str, *inputs: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs or ["x"], ["y"], name=f"the_{operator}", **attributes)


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    weight = np.ones((4, 1, 3, 3), np.float32)
    return _write_onnx(tmp_path / "convolution.onnx", [_node("Conv", "x", "weight", pads=[1, 1, 1, 1])], weight=weight)


def _compile(onnx: Path, part: Part | None = None, progress: Callable[[int, int], None] | None = None, **options: Any):
    rtx = open_library("tensorrt-rtx")
    # What the command line would refuse must not get past the library, either.
    asked = ExportOptions.model_construct(**{**ExportOptions().model_dump(), **options})
    return compile_plan(rtx, onnx, part or _part(), asked, progress or (lambda done, total: None))


# --- Building. ---


@needs_rtx
def test_an_engine_is_built_without_a_gpu(convolution: Path) -> None:
    shown: list[int] = []
    plan, facts = _compile(convolution, progress=lambda done, total: shown.append(done), target_cc=(86, 120))
    assert memoryview(plan).nbytes > 10_000
    assert (facts["inputs"], facts["outputs"]) == (1, 1)
    assert shown == sorted(shown)
    assert len(set(shown)) > 5
    assert shown[-1] == 1000


@needs_rtx
def test_a_check_parses_and_builds_nothing(convolution: Path) -> None:
    plan, facts = _compile(convolution, check_only=True)
    assert plan is None
    assert facts["inputs"] == 1


@needs_rtx
def test_a_build_can_be_interrupted_and_repeated(convolution: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _compile(convolution, progress=stop)
    assert _compile(convolution)[0] is not None


class _Folds(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Unfold(2, stride=2), torch.nn.Fold((16, 16), 2, stride=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@needs_rtx
def test_an_operator_that_does_not_compile_is_named_with_its_module(tmp_path: Path) -> None:
    program = torch.onnx.export(
        _Folds().eval(),
        (torch.zeros(2, 1, 16, 16),),
        dynamo=True,
        opset_version=21,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes={"x": {0: "batch"}},
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "folds.onnx")
    with pytest.raises(UnsupportedOperatorError) as error:
        _compile(tmp_path / "folds.onnx")
    assert "Col2Im of folds.onnx at node 'node_col2im', in module 'inner.1' (torch.nn.modules.fold.Fold)" in str(
        error.value
    )
    assert "pixel shuffle" in str(error.value)


@needs_rtx
@pytest.mark.parametrize("check_only", [False, True])
def test_an_operator_without_a_plugin_is_refused(tmp_path: Path, check_only: bool) -> None:
    from onnx import helper

    nodes = [helper.make_node("NonZero", ["x"], ["n"], name="the_nonzero"), _node("Cast", "n", to=1)]
    with pytest.raises(UnsupportedOperatorError, match=r"NonZero of nonzero\.onnx at node 'the_nonzero'.*torch\.where"):
        _compile(_write_onnx(tmp_path / "nonzero.onnx", nodes), check_only=check_only)


@needs_rtx
def test_attention_without_a_kernel_names_the_operator_set_that_helps(tmp_path: Path) -> None:
    shape = ("batch", 2, 16, 8)
    from onnx import helper

    three = [helper.make_node("Mul", ["x", name], [f"x_{name}"], name=f"times_{name}") for name in "qkv"]
    nodes = [*three, _node("Attention", "x_q", "x_k", "x_v")]
    weights = {name: np.full(1, value, np.float32) for name, value in zip("qkv", (1, 2, 3), strict=True)}
    onnx = _write_onnx(tmp_path / "attention.onnx", nodes, shape, **weights)
    with pytest.raises(UnsupportedOperatorError, match=r"Attention of attention\.onnx at node .*--opset 21"):
        _compile(onnx, _part(*shape))


@needs_rtx
def test_mixed_types_are_named(tmp_path: Path) -> None:
    onnx = _write_onnx(tmp_path / "mixed.onnx", [_node("Mul", "x", "half")], half=np.ones(1, np.float16))
    with pytest.raises(TypeMismatchError, match=r"mixed\.onnx mixes types at node 'the_Mul'.*Float and Half"):
        _compile(onnx)


@needs_rtx
@pytest.mark.parametrize(
    ("part", "batch", "words"),
    [
        (_part("batch", 1, 32, 32), (1, 2, 4), r"profile has min=32.*but tensor has 16"),
        (_part(), (4, 2, 1), r"--batch 4 2 1.*MIN<=OPT<=MAX"),
        (_part(name="other"), (1, 2, 4), r"tensor x is missing"),
        (_part("batch", 1, "rows", 16), (1, 2, 4), r"'x' has the dynamic axis 'rows'"),
    ],
)
@pytest.mark.parametrize("check_only", [False, True])
def test_a_profile_that_does_not_fit_is_refused(
    convolution: Path, part: Part, batch: tuple[int, int, int], words: str, check_only: bool
) -> None:
    with pytest.raises(ProfileError, match=words):
        _compile(convolution, part, batch=batch, check_only=check_only)


@needs_rtx
def test_too_little_memory_names_the_options(convolution: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"workspace limit.*lower --workspace \(now 1 bytes\).*--batch.*--size"):
        _compile(convolution, workspace_bytes=1)


@needs_rtx
def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"not a graph")
    with pytest.raises(InvalidGraphError, match=r"damaged\.onnx is not a whole ONNX file"):
        _compile(tmp_path / "damaged.onnx")


@needs_rtx
@no_gpu_here
def test_what_needs_a_gpu_says_so(convolution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = open_library("tensorrt-rtx").trt.ComputeCapability.CURRENT
    monkeypatch.setattr(Library, "compute_capabilities", lambda self: {86: current})
    with pytest.raises(NoGpuError, match=r"needs an NVIDIA GPU for this build.*--trt-rtx"):
        _compile(convolution, target_cc=(86,))


# --- Engines as caches. ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return find_artifact("lesion-filling", "tiny", tmp_path_factory.mktemp("runs"))


@pytest.fixture
def job(model: Artifact, tmp_path: Path, convolution: Path) -> ExportJob:
    return ExportJob(
        artifact=model, name="denoiser", part=_part(), folder=tmp_path / "exports", onnx=convolution,
        options=ExportOptions(), progress=lambda done, total: None,
    )  # fmt: skip


def _changed(job: ExportJob, **options: Any) -> ExportJob:
    return replace(job, options=job.options.model_copy(update=options))


@needs_rtx
@no_gpu_here
def test_an_engine_is_reused_until_its_key_changes(job: ExportJob) -> None:
    rtx = open_library("tensorrt-rtx")
    first = build(rtx, job)
    engine, sidecar = first.files
    assert first.status == "not run"
    assert "torch sees none here" in first.note
    key = json.loads(sidecar.read_text())["key"]
    assert key["model_sha256"] == job.artifact.sha256
    assert key["profile"]["x"] == [[1, 1, 16, 16], [2, 1, 16, 16], [4, 1, 16, 16]]
    assert (key["library"], key["version"]) == ("tensorrt-rtx", rtx.trt.__version__)

    written = engine.stat().st_mtime_ns
    assert build(rtx, job).note == "there already"
    assert engine.stat().st_mtime_ns == written
    again = build(rtx, _changed(job, workspace_bytes=1 << 30, opt_level=2))
    assert "workspace_bytes: 4294967296 → 1073741824" in again.note
    assert "opt_level: None → 2" in again.note
    assert engine.stat().st_mtime_ns > written
    assert build(rtx, _changed(job, workspace_bytes=1 << 30, opt_level=2)).note == "there already"

    job.onnx.write_bytes(job.onnx.read_bytes() + b"\x42\x00")
    assert "onnx_sha256: " in build(rtx, _changed(job, workspace_bytes=1 << 30, opt_level=2)).note


@needs_rtx
@no_gpu_here
def test_force_builds_again_and_damage_is_mended(job: ExportJob) -> None:
    rtx = open_library("tensorrt-rtx")
    engine = build(rtx, job).files[0]
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1])
    assert f"{engine.name} is damaged" in build(rtx, job).note
    assert engine.read_bytes() == whole  # TensorRT-RTX builds the same engine twice
    written = engine.stat().st_mtime_ns
    assert build(rtx, _changed(job, force=True)).note.startswith("built")
    assert engine.stat().st_mtime_ns > written


@needs_rtx
def test_a_failed_build_and_a_check_leave_nothing(job: ExportJob) -> None:
    rtx = open_library("tensorrt-rtx")
    report = build(rtx, _changed(job, check_only=True))
    assert (report.files, report.note) == ((), "checked; no engine was built")
    with pytest.raises(OutOfMemoryError):
        build(rtx, _changed(job, workspace_bytes=1))
    assert not job.folder.exists()
    job.onnx.unlink()
    with pytest.raises(ArtifactError, match="zoo export --onnx"):
        build(rtx, job)


@needs_rtx
def test_options_without_effect_are_refused(job: ExportJob) -> None:
    rtx = open_library("tensorrt-rtx")
    with pytest.raises(ConfigError, match="--timing-cache has no effect"):
        build(rtx, _changed(job, timing_cache="cache"))
    with pytest.raises(ConfigError, match="no compute capability 90; --target-cc takes 75, 80, 86, 89, 120"):
        build(rtx, _changed(job, target_cc=(86, 90)))
    with pytest.raises(ConfigError, match="--target-cc has no effect"):
        build(Library("tensorrt", None, None), _changed(job, target_cc=(86,)))


@needs_rtx
def test_loading_refuses_what_is_missing_or_stale(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = open_library("tensorrt-rtx")
    monkeypatch.setattr(runtime, "require_gpu", lambda library, device: torch.device("cpu"))
    with pytest.raises(ArtifactError, match=r"not exported yet\. Run: zoo export .* --trt-rtx --part denoiser"):
        load_rtx(model.folder, "denoiser", "cuda", "fp32")
    engine, sidecar = engine_files(rtx, model.folder / "exports", "denoiser", ExportOptions())
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"an engine")
    key = {"model_sha256": "other", "part": "denoiser", "precision": "fp32", "version": "1.0"}
    sidecar.write_text(json.dumps({"key": key, "files": {engine.name: "0"}}))
    with pytest.raises(ArtifactError) as error:
        load_rtx(model.folder, "denoiser", "cuda", "fp32")
    for words in (f"model_sha256: other → {model.sha256}", f"version: 1.0 → {rtx.trt.__version__}", "is damaged"):
        assert words in str(error.value)


# --- Where it is missing. ---


def test_a_missing_package_names_the_exact_command(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "find_spec", lambda name: None)
    assert "pip install 'mri-zoo[tensorrt]'" in available()
    assert "pip install 'mri-zoo[tensorrt-rtx]'" in available_rtx()
    with pytest.raises(MissingExtraError, match=r"mri-zoo\[tensorrt\]"):
        model.parts(Runtime("tensorrt", device="cuda"))
    with pytest.raises(MissingExtraError, match=r"mri-zoo\[tensorrt-rtx\]"):
        model.parts(Runtime("tensorrt-rtx", device="cuda"))


@pytest.mark.parametrize(
    ("version", "words"),
    [("8.6.1", "TensorRT 8.6.1 is too old: pip install -U"), (None, "cannot be opened .*--force-reinstall")],
)
def test_a_library_that_cannot_be_used_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, version: str | None, words: str
) -> None:
    def imported(name: str) -> Any:
        if version is None:
            raise ImportError("libnvinfer.so.11: cannot open shared object file")
        return SimpleNamespace(__version__=version)

    monkeypatch.setattr(library_module, "find_spec", lambda name: name)
    monkeypatch.setattr(library_module, "importlib", SimpleNamespace(import_module=imported))
    with pytest.raises(ExportError, match=words):
        open_library.__wrapped__("tensorrt")


@needs_rtx
@no_gpu_here
def test_no_gpu_is_an_error_that_says_what_works(model: Artifact) -> None:
    with pytest.raises(NoGpuError, match="Engines can be built here and run elsewhere"):
        model.parts(Runtime("tensorrt-rtx", device="cuda"))
    with pytest.raises(ConfigError, match="runs on cuda, not on 'cpu'"):
        model.parts(Runtime("tensorrt-rtx", device="cpu"))


def test_a_gpu_that_rtx_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    enum = type("ComputeCapability", (), {"SM86": 0, "SM120": 1, "NONE": 2})
    rtx = Library("tensorrt-rtx", SimpleNamespace(ComputeCapability=enum), None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    with pytest.raises(
        NoGpuError, match=r"no kernels for NVIDIA H200 \(compute capability 9\.0\); it runs on 8\.6, 12\.0"
    ):
        library_module.require_gpu(rtx, "cuda:0")
    assert library_module.require_gpu(replace(rtx, flavour="tensorrt"), "cuda:0") == torch.device("cuda", 0)
    with pytest.raises(NoGpuError, match="--device cuda"):
        library_module.require_gpu(rtx, "cpu")


# --- Native TensorRT, which needs a GPU: a stand-in that logs and keeps what a build is given. ---


class _Native:
    """As much of TensorRT as a build calls; ``says`` is logged, and the build then fails."""

    def __init__(self, says: str = "", *, no_builder: bool = False, foreign_cache: bool = False) -> None:
        self.given: bytes | None = None
        log = SimpleNamespace(messages=[])
        anything = SimpleNamespace(STRONGLY_TYPED=0, WORKSPACE=0, DETAILED=0, TF32=0)

        def builder(_: Any) -> Any:
            if no_builder:
                log.messages.append(("ERROR", says))
                raise TypeError("factory function returned nullptr")
            return SimpleNamespace(
                create_network=lambda flags: SimpleNamespace(num_layers=1, num_inputs=1, num_outputs=1),
                create_builder_config=lambda: config,
                create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shapes: None),
                build_serialized_network=plan,
            )

        def plan(*_: Any) -> bytes | None:
            log.messages += [("ERROR", says)] if says else []
            return None if says else b"plan"

        def timings(data: bytes) -> bytes:
            self.given = data
            return data

        config = SimpleNamespace(
            set_memory_pool_limit=lambda pool, size: None,
            clear_flag=lambda flag: None,
            add_optimization_profile=lambda profile: 0,
            create_timing_cache=timings,
            set_timing_cache=lambda cache, ignore: not foreign_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )
        trt = SimpleNamespace(
            Builder=builder,
            OnnxParser=lambda network, log: SimpleNamespace(parse_from_file=lambda path: True),
            IProgressMonitor=object,
            NetworkDefinitionCreationFlag=anything,
            MemoryPoolType=anything,
            ProfilingVerbosity=anything,
            BuilderFlag=anything,
        )
        self.library = Library("tensorrt", trt, log)

    def compile(self, onnx: Path, **options: Any) -> Any:
        return compile_plan(self.library, onnx, _part(), ExportOptions(**options), lambda done, total: None)


def test_native_timings_are_kept_between_builds(convolution: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timings" / "cache"
    first, second = _Native(), _Native()
    assert first.compile(convolution, timing_cache=str(cache))[0] == b"plan"
    second.compile(convolution, timing_cache=str(cache))
    assert (first.given, second.given) == (b"", b"timings")
    with pytest.raises(ArtifactError, match="another GPU or version"):
        _Native(foreign_cache=True).compile(convolution, timing_cache=str(cache))


@pytest.mark.parametrize(
    ("says", "no_builder", "error", "words"),
    [
        ("CUDA initialization failure with error: 35", True, NoGpuError, "zoo export --trt-rtx"),
        ("Error Code 2: OutOfMemory (Requested size was 99 bytes.)", False, OutOfMemoryError, "lower --workspace"),
        (
            "Error Code 10: Internal Error (it does not like it)",
            False,
            ExportError,
            "could not compile.*does not like",
        ),
    ],
)
def test_what_native_tensorrt_logs_becomes_an_error(
    convolution: Path, says: str, no_builder: bool, error: type[ExportError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        _Native(says, no_builder=no_builder).compile(convolution)
    assert raised.type is error


# --- Running: a stand-in engine that doubles what it reads at the addresses it is given. ---


class _Context:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []
        self.scratch: tuple[int, int] | None = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["x"]

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = address, size

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        size = int(np.prod(self.shapes["x"]))
        read, write = ((ctypes.c_float * size).from_address(self.addresses[name]) for name in ("x", "y"))
        np.ctypeslib.as_array(write)[:] = 2 * np.ctypeslib.as_array(read)
        return True


class _Engine:
    device_memory_size_v2 = 4096

    def __init__(self) -> None:
        self.contexts: list[_Context] = []

    def create_execution_context(self, how: Any) -> _Context:
        self.contexts.append(_Context())
        return self.contexts[-1]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, 1, 2, 3) for batch in (1, 2, 4)]


def _engine_part(monkeypatch: pytest.MonkeyPatch, **trt: Any) -> tuple[EnginePart, _Engine]:
    engine = _Engine()
    monkeypatch.setattr(runtime, "_on", lambda device: nullcontext())
    monkeypatch.setattr(runtime, "_stream", lambda device: nullcontext(7))
    fake = SimpleNamespace(
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    )
    library = Library("tensorrt", SimpleNamespace(**{**vars(fake), **trt}), SimpleNamespace(messages=[]))
    part = _part("batch", 1, 2, 3)
    return EnginePart(library, b"plan", part, torch.device("cpu"), "denoiser.fp32.b1-2-4.engine"), engine


def test_an_engine_reads_and_writes_the_tensors_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    part, engine = _engine_part(monkeypatch)
    x = torch.arange(12.0).view(2, 1, 2, 3)
    strided = torch.arange(12.0).view(2, 1, 3, 2).transpose(2, 3)
    assert torch.equal(part(x), 2 * x)
    assert torch.equal(part(strided), 2 * strided)
    assert torch.equal(part(x[:1]), 2 * x[:1])
    kept, other = engine.contexts  # one a shape, as a CUDA graph holds on to it
    assert kept.streams == [7, 7]
    assert kept.scratch == other.scratch
    assert kept.scratch is not None
    assert kept.scratch[1] == 4096
    assert part.capturable
    assert part.device == torch.device("cpu")
    assert part.largest_batch == 4


def test_what_the_engine_was_not_built_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    part, engine = _engine_part(monkeypatch)
    with pytest.raises(ProfileError, match=r"batch of 1 to 4, got 12\..*--batch 1 12 12"):
        part(torch.zeros(12, 1, 2, 3))
    with pytest.raises(ProfileError, match=r"takes x as \[1 … 4, 1, 2, 3\], got \[2, 1, 2, 5\]"):
        part(torch.zeros(2, 1, 2, 5))
    with pytest.raises(TypeMismatchError, match=r"x as torch\.float32, got torch\.float16"):
        part(torch.zeros(2, 1, 2, 3, dtype=torch.float16))
    with pytest.raises(DataError, match="takes 1 inputs, got 2"):
        part(torch.zeros(2, 1, 2, 3), torch.zeros(2))
    assert not engine.contexts


def test_an_engine_that_cannot_be_opened_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"denoiser\.fp32\.b1-2-4\.engine cannot be opened.*--force"):
        _engine_part(monkeypatch, Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: None))


@needs_rtx
@no_gpu_here
def test_rtx_says_itself_that_an_engine_is_not_valid_here(convolution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = open_library("tensorrt-rtx")
    plan, _ = _compile(convolution)
    monkeypatch.setattr(runtime, "_on", lambda device: nullcontext())
    with pytest.raises(ArtifactError, match=r"an\.engine does not run here.*--target-cc"):
        EnginePart(rtx, plan, _part(), torch.device("cpu"), "an.engine")


@pytest.mark.gpu
def test_an_engine_computes_what_torch_does(model: Artifact, tmp_path: Path) -> None:
    """The whole way on a GPU: export, load, run, and the same again from a CUDA graph."""
    from zoo.exporting.export import export
    from zoo.exporting.parity import parity_inputs
    from zoo.models.find import copied
    from zoo.system.cuda_graph import replayed

    flavour = next(
        (name for name, why in (("tensorrt", available()), ("tensorrt-rtx", available_rtx())) if not why), ""
    )
    if not flavour:
        pytest.skip(available())
    try:
        library_module.require_gpu(open_library(flavour), "cuda")  # type: ignore[arg-type]
    except NoGpuError as error:
        pytest.skip(str(error))
    artifact = copied(model, tmp_path / "model")
    reports = export(artifact, [flavour], ExportOptions(), [], lambda what: nullcontext(lambda done, total: None))
    assert reports[-1].status == "ok"
    part = load_engine(flavour, artifact.folder, "denoiser", "cuda", "fp32")  # type: ignore[arg-type]
    inputs = [tensor.cuda() for tensor in parity_inputs(artifact.part_specs()["denoiser"], 2)]
    once = part(*inputs)
    for _ in range(3):
        assert torch.equal(replayed(part, "part", part, *inputs), once)
