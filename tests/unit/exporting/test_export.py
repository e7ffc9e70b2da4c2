"""Which model is exported, under which key, and whether its numbers and its fills are torch's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.config import validate
from zoo.descriptors import Exporter, Part, TensorSpec, resolve
from zoo.errors import ArtifactError, ConfigError, ParityError, TaskGateError, UnknownNameError
from zoo.exporting.files import export_key, require_export, why_stale, write_report
from zoo.exporting.gates import check_tasks
from zoo.exporting.job import ExportOptions, ExportReport
from zoo.exporting.parity import parity, parity_inputs
from zoo.models.artifact import Artifact, write_model
from zoo.models.find import copied, find_artifact, resized, untrained
from zoo.models.precision import Float32Norm, cast_module
from zoo.models.runtime import Runtime
from zoo.registry import registry
from zoo.tasks import FillOptions, Trial, phantom_patient

PART = Part(
    module="",
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", 8, 6, 6), range=None, meaning="noise"),
        TensorSpec(name="timestep", dtype="int64", shape=("batch",), range=(0, 999), meaning="noise level"),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 4, 6, 6), range=None, meaning="noise"),),
)


class Network(nn.Module):
    """A convolution, a norm, and a timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)
        self.conv = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        scale = (timestep.float() / 1000).to(self.conv.weight.dtype)
        return self.conv(self.norm(x)) + scale[:, None, None, None]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval().requires_grad_(False)


# --- Which model. ---


def test_a_name_is_its_newest_finished_run(trained: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, status in (("2026-01-01T00-00-00", "finished"), ("2026-01-02T00-00-00", "training")):
        folder = runs / "lesion-filling" / name
        folder.mkdir(parents=True)
        shutil.copy(trained / "model.safetensors", folder)
        record = json.loads((trained / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "status": status}))
    found = find_artifact("lesion-filling", None, runs)
    assert found.folder.name == "2026-01-01T00-00-00"
    assert not untrained(found)
    assert untrained(find_artifact("lesion-filling", "tiny", runs))


def test_a_path_is_the_run_there(trained: Path) -> None:
    assert find_artifact(trained).path == trained / "model.safetensors"
    with pytest.raises(ConfigError, match="settings of its own; leave --preset tiny out"):
        find_artifact(trained, "tiny")
    with pytest.raises(ArtifactError, match="There is no model"):
        find_artifact(trained / "absent")


def test_without_a_run_there_are_random_weights_that_say_so(tmp_path: Path) -> None:
    first = find_artifact("lesion-filling", None, tmp_path)
    assert first.folder == tmp_path / "lesion-filling" / "untrained-small"
    assert first.manifest["untrained"] is True
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    again = find_artifact("lesion-filling", "small", tmp_path)
    assert again.path.stat().st_mtime_ns == written  # type: ignore[union-attr]
    other = find_artifact("lesion-filling", "small", tmp_path / "other")
    assert other.sha256 == first.sha256


def test_names_that_cannot_be_exported() -> None:
    with pytest.raises(UnknownNameError, match=r"No method is called 'lesion-fill'. Did you mean"):
        find_artifact("lesion-fill")
    with pytest.raises(ConfigError, match="'biharmonic-filling' has no network"):
        find_artifact("biharmonic-filling")
    with pytest.raises(UnknownNameError, match="has no preset 'huge'"):
        find_artifact("lesion-filling", "huge")


def test_another_size_keeps_the_weights(trained: Path, tmp_path: Path) -> None:
    artifact = copied(zoo.load(trained), tmp_path / "copy")
    larger = resized(artifact, (48,))
    assert larger.folder == tmp_path / "copy" / "size-48"
    assert larger.part_specs()["denoiser"].inputs[0].shape == ("batch", 1, 48, 48)
    weights = zip(artifact.build().parameters(), larger.build().parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    assert resized(artifact, (32, 32)) is artifact
    assert larger.config.size == (32, 32)  # training's  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="names 3 sides; this model has 2"):
        resized(artifact, (32, 32, 32))
    with pytest.raises(ConfigError, match="must be multiples of 2"):
        resized(artifact, (33,))


def test_a_copy_does_not_replace_another_model(trained: Path, tmp_path: Path) -> None:
    other = find_artifact("lesion-filling", "tiny", tmp_path / "runs")
    with pytest.raises(ArtifactError, match="is another model"):
        copied(zoo.load(trained), other.folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": (2, 1, 4)}, "batch 2 1 4 must rise"),
        ({"precision": "bf16", "opset": 21}, "opset 21 has no convolution in bf16"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_options_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ExportOptions, settings, what="zoo export")


def test_an_exporter_names_what_it_can_do() -> None:
    with pytest.raises(ConfigError, match="names precisions"):
        Exporter(name="x", summary="", available="a:b", load="a:b", precisions=("int4",))
    assert Runtime.choose("openvino").device == "cpu"


# --- Keys. ---


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> tuple[Artifact, Path]:
    """A file with a report beside it."""
    artifact = copied(zoo.load(trained), tmp_path / "run")
    file = artifact.folder / "exports" / "denoiser.fp32.onnx"
    file.parent.mkdir()
    file.write_bytes(b"a graph")
    report = ExportReport(
        part="denoiser", backend="onnxruntime", precision="fp32", files=(file, file.with_suffix(".json"))
    )
    write_report(file.with_suffix(".json"), export_key(artifact, "denoiser", "fp32", opset=21), report)
    return artifact, file


def test_a_file_of_the_same_key_is_used(exported: tuple[Artifact, Path]) -> None:
    artifact, file = exported
    key = export_key(artifact, "denoiser", "fp32")
    assert why_stale(file.with_suffix(".json"), key) == []
    assert require_export(file.with_suffix(".json"), key, "")["key"]["opset"] == 21
    assert why_stale(file.with_suffix(".json"), {**key, "opset": 22}) == ["opset: 21 → 22"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.write_bytes(b"another"), r"denoiser\.fp32\.onnx is damaged"),
        (lambda file: file.unlink(), r"denoiser\.fp32\.onnx is missing"),
        (lambda file: file.with_suffix(".json").write_text("{"), "is damaged"),
        (lambda file: file.with_suffix(".json").unlink(), "not exported yet"),
    ],
)
def test_files_that_are_not_what_was_verified_are_refused(
    exported: tuple[Artifact, Path], harm: Callable[[Path], object], reason: str
) -> None:
    artifact, file = exported
    harm(file)
    with pytest.raises(ArtifactError, match=f"{reason}.*Run: zoo export"):
        artifact.parts(Runtime("onnxruntime"))


def test_files_of_another_model_are_refused(exported: tuple[Artifact, Path]) -> None:
    artifact, _ = exported
    other = find_artifact("lesion-filling", "tiny", artifact.folder / "runs")
    shutil.copy(other.path or "", artifact.folder)
    with pytest.raises(ArtifactError, match=r"model_sha256: .* → .*zoo export .* --onnx --precision fp32"):
        Artifact.open(artifact.folder).parts(Runtime("onnxruntime"))


def test_backends_refuse_what_they_do_not_run(trained: Path) -> None:
    with pytest.raises(ConfigError, match="'openvino' does not run in 'fp16'; it runs in fp32, bf16"):
        zoo.load(trained).parts(Runtime("openvino", "fp16"))
    with pytest.raises(ConfigError, match="'openvino' runs on cpu, not on 'cuda'"):
        zoo.load(trained).parts(Runtime("openvino", device="cuda"))


# --- Precision. ---


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_keeps_norms_and_borders_in_float32(network: Network, precision: str) -> None:
    network.norm.weight.data.fill_(1.0001)  # bf16 would make it 1
    cast = cast_module(network, precision)
    assert isinstance(network.norm, Float32Norm)
    assert network.norm.norm.weight.dtype is torch.float32
    assert float(network.norm.norm.weight[0]) == pytest.approx(1.0001, abs=1e-6)
    assert network.conv.weight.dtype is {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert cast(*parity_inputs(PART, 2)).dtype is torch.float32


def test_float32_is_left_alone(network: Network) -> None:
    assert cast_module(network, "fp32") is network
    assert isinstance(network.norm, nn.GroupNorm)


def test_a_norm_alone_is_cast_too() -> None:
    cast = cast_module(nn.LayerNorm(8), "bf16")
    assert cast(torch.randn(3, 8)).dtype is torch.float32


# --- Parity. ---


def test_inputs_of_parity_differ_within_a_batch() -> None:
    x, timestep = parity_inputs(PART, 4)
    assert timestep.tolist() == [999, 666, 333, 0]
    assert len({float(sample.sum()) for sample in x}) == 4
    assert torch.equal(parity_inputs(PART, 2)[0], x[:2])


def test_equal_parts_agree(network: Network) -> None:
    figures = parity(network, network, PART, "fp32", (1, 2, 4))
    assert figures["max_abs"] < 1e-6  # kernels may differ by batch
    assert figures["cosine"] == pytest.approx(1)
    assert figures["batches"] == [1, 2, 4]


def test_half_precision_is_near_but_not_float32(network: Network) -> None:
    reference = Network().eval().requires_grad_(False)
    reference.load_state_dict(network.state_dict())
    cast = cast_module(network, "bf16")
    assert 1e-4 < parity(reference, cast, PART, "bf16", (2,))["rel_max"] < 5e-2
    with pytest.raises(ParityError, match=r"rel_max .* 0.0001 is allowed in fp32"):
        parity(reference, cast, PART, "fp32", (2,))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda y: torch.cat([y[:-1], 1.5 * y[-1:]]) if len(y) == 4 else y, r"At batch 4 .*sample 3 \(timestep 0\)"),
        (lambda y: y.where(y < y.max(), torch.nan), "rel_max nan"),
        (lambda y: y[..., :-1], r"is \[1, 4, 6, 5\], not \[1, 4, 6, 6\]"),
        (lambda y: (y, y), "has 2 outputs, not 1"),
    ],
)
def test_parts_that_differ_are_named(network: Network, harm: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ParityError, match=message):
        parity(network, lambda *inputs: harm(network(*inputs)), PART, "fp32", (1, 4))


# --- The task. ---


def test_the_gate_of_fill_compares_whole_fills(trained: Path) -> None:
    artifact = zoo.load(trained)
    parts = artifact.parts()
    found = check_tasks(artifact, parts, "fp32", lambda done, total: None)["fill"]
    assert found["psnr"] == 100
    assert found["ssim"] == pytest.approx(1)
    with pytest.raises(TaskGateError, match=r"PSNR .* dB and SSIM .*; 40 dB and 0.99 are the least"):
        check_tasks(
            artifact, {"denoiser": lambda *inputs: -parts["denoiser"](*inputs)}, "bf16", lambda done, total: None
        )


def test_random_weights_have_no_gate(tmp_path: Path) -> None:
    artifact = find_artifact("lesion-filling", "tiny", tmp_path)
    assert check_tasks(artifact, {}, "fp32", lambda done, total: None) == {
        "fill": {"skipped": "the weights are random"}
    }


def test_the_gate_of_sampling_compares_whole_images(tmp_path: Path) -> None:
    artifact = _as_if_trained("stylegan2-ada", tmp_path)
    parts = artifact.parts()
    figures = check_tasks(artifact, parts, "fp32", lambda done, total: None)
    assert (figures["sample"]["psnr"], round(figures["sample"]["ssim"], 6)) == (100, 1)
    assert figures["sample"]["on"] == "4 generated images"
    assert figures["project"] == {"skipped": "the verb 'project' has no trial"}

    def shifted(*inputs: torch.Tensor) -> torch.Tensor:
        return parts["synthesis"](*inputs) + 0.05

    with pytest.raises(TaskGateError, match=r"'sample' with fp16 parts .* PSNR 33\.\d dB"):
        check_tasks(artifact, {**parts, "synthesis": shifted}, "fp16", lambda done, total: None)


def test_a_gate_that_would_take_long_leaves_slices_out(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.exporting import gates

    gates._case.cache_clear()
    monkeypatch.setattr(gates, "_SECONDS", 0.0)
    artifact = zoo.load(trained)
    whole = check_tasks(artifact, artifact.parts(), "fp32", lambda done, total: None)["fill"]
    gates._case.cache_clear()
    assert re.search(r"lesions of a phantom patient, T1w, 1 of \d\d? slices", whole["on"])
    assert whole["psnr"] == 100


def test_a_verb_of_another_plugin_has_its_gate_from_its_trial(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verb under another name: nothing in the host knows it."""
    artifact = zoo.load(trained)
    monkeypatch.setitem(registry().verbs.items, "mend", replace(registry().verbs["fill"], name="mend"))
    monkeypatch.setattr(artifact, "method", replace(artifact.method, tasks={"mend": artifact.method.task("fill")}))
    monkeypatch.setitem(registry().methods.items, "lesion-filling", artifact.method)
    monkeypatch.setattr("zoo.tasks.fill.trial.fill_trial", _trial_of_mend)
    found = check_tasks(artifact, artifact.parts(), "fp32", lambda done, total: None)
    assert found["mend"]["on"] == "a mended head"
    assert found["mend"]["psnr"] == 100


def _trial_of_mend(artifact: Artifact, options: FillOptions) -> Trial:
    run = resolve(artifact.method.task("mend").run)
    return Trial(
        inputs=lambda count: dict(zip(("image", "mask"), phantom_patient(artifact.config.data), strict=True)),
        run=lambda parts, inputs, progress: run(parts, artifact.config, *inputs.values(), options, progress)[None],
        on="a mended head",
    )


def _as_if_trained(name: str, folder: Path) -> Artifact:
    """Return a model with random weights that does not say so."""
    artifact = find_artifact(name, "tiny", folder)
    file = folder / "as-if-trained" / "model.safetensors"
    manifest = {key: value for key, value in artifact.manifest.items() if key != "untrained"}
    write_model(file, artifact.build(), manifest)
    return zoo.load(file)


def test_openvino_leaves_signals_alone(tmp_path: Path) -> None:
    """Two models that overlap in time: afterwards a signal is handled, and does not end the process."""
    pytest.importorskip("openvino")
    code = """
import signal, sys
from pathlib import Path
import numpy as np, openvino, torch
from openvino import opset13
from zoo.descriptors import Part, TensorSpec
from zoo_openvino.runtime import open_model

one = opset13.parameter([1, 4], np.float32, name="x")
openvino.save_model(openvino.Model([opset13.relu(one)], [one]), sys.argv[1])
spec = TensorSpec(name="x", dtype="float32", shape=(1, 4), range=None, meaning="")
part = Part(module="", inputs=(spec,), outputs=())
first = open_model(Path(sys.argv[1]), part, "fp32")
first(torch.ones(1, 4))
second = open_model(Path(sys.argv[1]), part, "fp32")
second(torch.ones(1, 4))
del first
del second
caught = []
signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
signal.raise_signal(signal.SIGTERM)
sys.exit(caught != [signal.SIGTERM])
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "relu.xml")], check=False).returncode == 0
