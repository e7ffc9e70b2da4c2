"""ONNX files and the runtimes that start from them; every rung of the verification fails when it should."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.descriptors import Part, TensorSpec
from zoo.errors import (
    ConfigError,
    ExportError,
    InvalidGraphError,
    MissingExtraError,
    NoGpuError,
    ParityError,
    ProviderError,
    SignatureError,
    TaskGateError,
    UnknownNameError,
    UnsupportedOperatorError,
)
from zoo.exporting.export import export
from zoo.exporting.job import ExportOptions
from zoo.exporting.parity import TOLERANCES
from zoo.models.artifact import Artifact
from zoo.models.find import copied
from zoo.models.runtime import Runtime
from zoo.tasks.fill.trial import FILL_LIMITS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import zoo_onnx.write  # noqa: E402
import zoo_openvino.runtime  # noqa: E402
from zoo_onnx.runtime import check_provider, open_session  # noqa: E402
from zoo_onnx.verify import check_file, check_operators, check_signature  # noqa: E402
from zoo_onnx.write import write_onnx  # noqa: E402

PART = Part(
    module="",
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 3), range=None, meaning=""),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 3), range=None, meaning=""),),
)


def _no_bar(what: str):  # type: ignore[no-untyped-def]
    from contextlib import nullcontext

    return nullcontext(lambda done, total: None)


def _graph(*nodes: onnx.NodeProto, shape: tuple[int | str, ...] = ("batch", 3), kind: int = 1) -> onnx.ModelProto:
    """Return a graph from ``x`` to ``y``."""
    tensors = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = onnx.helper.make_graph(list(nodes), "graph", tensors[:1], tensors[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


# --- The rungs, one by one. ---


def test_a_plain_graph_passes(tmp_path: Path) -> None:
    model = _graph(onnx.helper.make_node("Relu", ["x"], ["y"]))
    onnx.save(model, tmp_path / "plain.onnx")
    check_file(tmp_path / "plain.onnx")
    check_signature(model, PART)
    check_operators(model)


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    onnx.save(_graph(onnx.helper.make_node("Relu", ["absent"], ["y"])), tmp_path / "broken.onnx")
    with pytest.raises(InvalidGraphError, match=r"broken.onnx is not valid ONNX.*absent"):
        check_file(tmp_path / "broken.onnx")


@pytest.mark.parametrize(
    ("part", "model", "message"),
    [
        (PART, {"shape": (2, 3)}, "Axis 0 of the input 'x' is fixed at 2 .* dynamic axis 'batch'"),
        (PART, {"shape": ("batch", 4)}, r"'x' is \['batch', 4\] in the graph; declared is \['batch', 3\]"),
        (PART, {"kind": 10}, "'x' is of type FLOAT16; declared is float32"),
        (Part(module="", inputs=PART.outputs, outputs=PART.outputs), {}, "graph's inputs are x; declared are y"),
    ],
)
def test_another_signature_is_refused(part: Part, model: dict, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        check_signature(_graph(onnx.helper.make_node("Relu", ["x"], ["y"]), **model), part)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (("RandomNormalLike", {}), "RandomNormalLike .* give the noise as an input"),
        (("Relu", {"domain": "com.vendor"}), "of the domain 'com.vendor'"),
        (("If", {"then_branch": 1, "else_branch": 1}), "If .* is control flow"),
    ],
)
def test_operators_that_may_not_be_there(node: tuple[str, dict], message: str) -> None:
    kind, attributes = node
    branch = onnx.helper.make_graph([], "branch", [], [])
    attributes = {name: branch if value == 1 else value for name, value in attributes.items()}
    with pytest.raises(UnsupportedOperatorError, match=message):
        check_operators(_graph(onnx.helper.make_node(kind, ["x"], ["y"], name="culprit", **attributes)))


def test_operators_inside_branches_are_found() -> None:
    inner = onnx.helper.make_graph([onnx.helper.make_node("Bernoulli", ["a"], ["b"])], "inner", [], [])
    outer = onnx.helper.make_node("Custom", ["x"], ["y"], body=inner)
    with pytest.raises(UnsupportedOperatorError, match="Bernoulli"):
        check_operators(_graph(outer))


# --- Modules that torch exports, but wrongly. ---


class Noisy(nn.Module):
    """Draws noise of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.randn_like(x)


class TwoOnly(nn.Module):
    """Works for a batch of two."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2, 3)


def test_a_module_that_draws_noise_is_refused(tmp_path: Path) -> None:
    write_onnx(Noisy().eval(), PART, tmp_path / "noisy.onnx", opset=21, about={})
    with pytest.raises(UnsupportedOperatorError, match="RandomNormalLike"):
        check_operators(onnx.load(tmp_path / "noisy.onnx"))


def test_a_module_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="Axis 0 of the input 'x' is fixed at 2 by the module"):
        write_onnx(TwoOnly(), PART, tmp_path / "two.onnx", opset=21, about={})
    assert not list(tmp_path.iterdir())


# --- Runtimes. ---


def test_a_fall_back_to_the_cpu_is_refused(tmp_path: Path) -> None:
    import onnxruntime

    onnx.save(_graph(onnx.helper.make_node("Relu", ["x"], ["y"])), tmp_path / "plain.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx", options, providers=["CPUExecutionProvider"])
    check_provider(session, "CPUExecutionProvider")
    with pytest.raises(ProviderError, match=r"CPUExecutionProvider instead of CUDA.*pip install 'mri-zoo\[gpu\]'"):
        check_provider(session, "CUDAExecutionProvider")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(tmp_path: Path) -> None:
    onnx.save(_graph(onnx.helper.make_node("Relu", ["x"], ["y"])), tmp_path / "plain.onnx")
    with pytest.raises(NoGpuError, match="--device cuda needs an NVIDIA GPU"):
        open_session(tmp_path / "plain.onnx", PART, "cuda")


def test_operators_that_the_cpu_lacks_are_named(tmp_path: Path) -> None:
    logging.disable()
    node = onnx.helper.make_node("MatMul", ["x", "x"], ["y"])
    onnx.save(_graph(node, shape=(3, 3), kind=onnx.TensorProto.BFLOAT16), tmp_path / "bf16.onnx")
    with pytest.raises(UnsupportedOperatorError, match=r"bf16\.onnx here: .*NOT_IMPLEMENTED.*another --precision"):
        open_session(tmp_path / "bf16.onnx", PART, "cpu")


def test_openvino_takes_batches_by_turns(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    onnx.save(_graph(onnx.helper.make_node("Relu", ["x"], ["y"])), tmp_path / "plain.onnx")
    relu = zoo_openvino.runtime.open_model(tmp_path / "plain.onnx", PART, "fp32")
    for batch in (2, 1, 5, 2, 1):
        x = torch.randn(batch, 3)
        assert torch.equal(relu(x), x.relu())
    with pytest.raises(ExportError, match=r"x has the size \[2, 4\]; plain\.onnx takes \[\?,3\], \? for any"):
        relu(torch.randn(2, 4))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"OpenVINO cannot read broken\.onnx"):
        zoo_openvino.runtime.open_model(tmp_path / "broken.onnx", PART, "fp32")


class _Attention(nn.Module):
    """Self-attention of 8 channels a head; its queries, keys and values are parts of one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, -1, 8)).permute(2, 0, 3, 1, 4).unbind()
        return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("tokens", [16, 12])
def test_openvino_is_right_where_attention_has_as_many_heads_as_tokens(tokens: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = _Attention(16 * 8).eval()
    nn.init.normal_(network.qkv.weight, std=0.3)  # so that attention looks at few tokens
    shape = ("batch", tokens, 16 * 8)
    part = Part(
        module="",
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape, range=None, meaning=""),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=shape, range=None, meaning=""),),
    )
    write_onnx(network, part, tmp_path / "attention.onnx", opset=21, about={})
    call = zoo_openvino.runtime.open_model(tmp_path / "attention.onnx", part, "fp32")
    x = torch.randn(2, tokens, 16 * 8)
    with torch.inference_mode():
        expected = network(x)
    for _ in range(3):
        torch.testing.assert_close(call(x), expected, rtol=0, atol=1e-4)


# --- A trained model, whole. ---


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A run that is exported for ONNX Runtime and OpenVINO."""
    artifact = copied(zoo.load(trained), tmp_path_factory.mktemp("exported"))
    reports = export(artifact, ["onnxruntime", "openvino"], ExportOptions(), (), _no_bar)
    assert [(report.backend, report.status) for report in reports] == [("onnxruntime", "ok"), ("openvino", "ok")]
    for report in reports:
        assert report.checks["parity"]["rel_max"] < 1e-4
        assert report.checks["tasks"]["fill"]["psnr"] > 60
        assert all(file.is_file() for file in report.files)
    return artifact


def test_the_file_describes_itself(exported: Artifact) -> None:
    import onnxruntime

    path = exported.folder / "exports" / "denoiser.fp32.onnx"
    about = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert about["zoo.method"] == "lesion-filling"
    assert about["zoo.weights_sha256"] == exported.sha256
    assert json.loads(about["zoo.config"]) == exported.config.model_dump(mode="json")
    assert [spec["name"] for spec in json.loads(about["zoo.inputs"])] == ["noisy", "context", "lesion_mask", "timestep"]
    assert json.loads(about["zoo.inputs"])[3]["range"] == [0, 999]
    assert about["zoo.precision"] == "fp32"
    assert about["zoo.untrained"] == "false"
    assert about["zoo.spacing_mm"] == "4.0"
    assert about["zoo.licence"] == "Apache-2.0"
    assert "Not a medical device" in about["zoo.intended_use"]
    assert str(Path.cwd()).encode() not in path.read_bytes()


def test_exporting_again_keeps_what_is_there(
    exported: Artifact, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    file = exported.folder / "exports" / "denoiser.fp32.onnx"
    written = file.stat().st_mtime_ns
    code, out, _ = zoo_command("export", exported.folder, "--openvino", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["untrained"] is False
    assert [report["note"] for report in found["exports"]] == ["there already", "there already"]
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_filling_is_the_same_on_every_backend(
    exported: Artifact, phantom: Path, tmp_path: Path, backend: str, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    import nibabel

    mask = next(phantom.glob("derivatives/lesions/sub-*/anat/*_mask.nii.gz"))
    subject = mask.name.split("_")[0]
    image = phantom / subject / "anat" / f"{subject}_T1w.nii.gz"
    arguments = ["fill", exported.folder, "--image", image, "--lesions", mask, "--dilate", "0", "--device", "cpu"]
    voxels = {}
    for name in ("torch", backend):
        code, _, said = zoo_command(*arguments, "--out", tmp_path / f"{name}.nii.gz", "--backend", name)
        assert code == 0, said
        voxels[name] = np.asarray(nibabel.load(tmp_path / f"{name}.nii.gz").dataobj, np.float32)
        sidecar = json.loads((tmp_path / f"{name}.json").read_text())
        assert (sidecar["Backend"], sidecar["Precision"]) == (name, "fp32")
    assert np.abs(voxels["torch"] - voxels[backend]).max() <= 1  # stored as whole numbers
    assert (voxels[backend] != np.asarray(nibabel.load(image).dataobj)).any()


def test_bf16_is_verified_where_it_runs(exported: Artifact) -> None:
    pytest.importorskip("openvino")
    try:
        reports = export(exported, ["openvino"], ExportOptions(precision="bf16"), (), _no_bar)
    except ProviderError as error:
        pytest.skip(str(error))
    assert [report.precision for report in reports] == ["fp32", "bf16"]
    assert 1e-4 < reports[1].checks["parity"]["rel_max"] < 1e-1
    assert reports[1].checks["tasks"]["fill"]["psnr"] > 40


def test_a_part_whose_numbers_differ_is_rejected(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = copied(zoo.load(trained), tmp_path)
    monkeypatch.setitem(TOLERANCES, "fp32", (1e-12, 1e-12))
    with pytest.raises(ParityError, match="'velocity' differs from torch"):
        export(artifact, ["onnxruntime"], ExportOptions(batch=(1, 1, 2)), (), _no_bar)
    left = {path.name for path in (tmp_path / "exports").iterdir()}
    assert left == {".lock", "denoiser.fp32.rejected.onnx"}


def test_a_model_that_fails_its_task_is_rejected(
    exported: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = copied(exported, tmp_path)
    (tmp_path / "exports").mkdir()
    for name in ("denoiser.fp32.onnx", "denoiser.fp32.json"):
        (tmp_path / "exports" / name).write_bytes((exported.folder / "exports" / name).read_bytes())
    report = tmp_path / "exports" / "denoiser.fp32.json"
    stored = json.loads(report.read_text())
    del stored["checks"]["tasks"]
    report.write_text(json.dumps(stored))
    monkeypatch.setitem(FILL_LIMITS, "fp32", (101.0, 1.0))
    with pytest.raises(TaskGateError, match="101 dB"):
        export(artifact, ["onnxruntime"], ExportOptions(), (), _no_bar)
    assert {path.name for path in report.parent.iterdir()} == {".lock", "denoiser.fp32.rejected.onnx"}


def test_what_cannot_be_exported_is_refused(exported: Artifact) -> None:
    with pytest.raises(ConfigError, match="'torch' runs the model file as it is"):
        export(exported, ["torch"], ExportOptions(), (), _no_bar)
    with pytest.raises(ConfigError, match="'openvino' does not run in 'fp16'"):
        export(exported, ["openvino"], ExportOptions(precision="fp16"), (), _no_bar)
    with pytest.raises(UnknownNameError, match=r"has no part 'denoise'\. Did you mean 'denoiser'"):
        export(exported, ["onnxruntime"], ExportOptions(), ("denoise",), _no_bar)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workspace", "4X"), "'4X' is not an amount of memory"),
        (("--size", "big"), "'big' is not a list of whole numbers"),
        (("--batch", "4", "2", "1"), "must rise from 1 or more"),
    ],
)
def test_wrong_arguments(
    zoo_command: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], message: str
) -> None:
    code, _, said = zoo_command("export", "lesion-filling", *arguments)
    assert code in (1, 2)
    assert message in said


# --- Files of large models, and what is not installed. ---


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo_onnx.write, "ONE_FILE_BYTES", 0)
    module = nn.Linear(3, 3).eval().requires_grad_(False)
    inputs = torch.randn(5, 3)
    (tmp_path / "made").mkdir()
    write_onnx(module, PART, tmp_path / "made" / "part.onnx", opset=21, about={"zoo.part": "part"})
    for name in ("part.rejected.onnx", "part.onnx"):
        if name == "part.onnx":
            write_onnx(module, PART, tmp_path / "made" / "part.onnx", opset=21, about={})
        files = zoo_onnx.write.put(tmp_path / "made" / "part.onnx", tmp_path / name)
        assert [file.name for file in files] == [name, f"{name}.data"]
        assert not list((tmp_path / "made").iterdir())
        assert torch.allclose(open_session(files[0], PART, "cpu")(inputs), module(inputs), atol=1e-6)


def test_missing_packages_name_the_line_that_helps(exported: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"needs the package onnxscript: pip install 'mri-zoo\[cpu\]'"):
        export(exported, ["onnxruntime"], ExportOptions(force=True), (), _no_bar)
    monkeypatch.setattr(zoo_openvino.runtime.util, "find_spec", lambda name: None)
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(MissingExtraError, match=r"is not installed: pip install 'mri-zoo\[cpu\]'"):
            exported.parts(Runtime(backend))
