"""What version 0.1.0 wrote is read by this version, or refused with the command that helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.errors import ArtifactError
from zoo.models.runtime import Runtime

GOLDEN = Path(__file__).parents[1] / "golden" / "0.1.0"
PATIENT = ("--image", "patient/sub-003_T1w.nii.gz", "--lesions", "patient/sub-003_label-lesion_mask.nii.gz")
FILLED = "filled/sub-003_desc-filled_T1w.nii.gz"
STOPPED_SETTINGS = (
    "--preset", "tiny", "--images", "96", "--set", "data.spacing_mm=4", "--set", "size=[16,16]",
    "--set", "unet.channels=[4,8]", "--set", "unet.groups=4", "--set", "unet.head_dim=4",
    "--set", "training.batch_size=8", "--set", "training.checkpoint_images=48", "--set", "training.sample_images=96",
    "--set", "training.log_images=24", "--set", "training.validation_images=8", "--set", "training.keep_checkpoints=1",
    "--set", "optimiser.warmup_steps=2", "--set", "optimiser.average_half_life_images=16",
)  # fmt: skip
"""Settings with which 0.1.0 started ``stopped-run``."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden folder as the working folder, with its images as the files that 0.1.0 wrote."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    for name, content in load_file(folder / "images.safetensors").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.numpy().tobytes())
    monkeypatch.chdir(folder)
    return folder


def _voxels(path: str | Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def _files(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_golden_files_name_no_folder_or_user() -> None:
    for file in (*GOLDEN.rglob("*.json"), *GOLDEN.rglob("*.jsonl"), *GOLDEN.rglob("*.md"), *GOLDEN.rglob("*.html")):
        text = file.read_text(encoding="utf-8")
        assert not any(start in text for start in ("/home/", "/root/", "/tmp/", "/Users/", "file://")), file


@pytest.mark.parametrize(
    ("run", "status"), [("filling-run", "finished"), ("stopped-run", "stopped"), ("stylegan-run", "finished")]
)
def test_info_reads_a_run(golden: Path, zoo_command: Command, run: str, status: str) -> None:
    code, text, _ = zoo_command("info", run)
    assert code == 0
    assert [line.split()[1] for line in text.splitlines() if line.startswith("plugin_version")] == ["0.1.0"]
    assert [line.split()[1] for line in text.splitlines() if line.startswith("status")] == [status]


@pytest.mark.parametrize("run", ["filling-run", "stopped-run", "stylegan-run"])
@pytest.mark.parametrize("place", ["", "checkpoints"])
def test_parts_repeat_their_outputs(golden: Path, run: str, place: str) -> None:
    folder = golden / run
    artifact = zoo.load(next((folder / place).glob("0*")) if place else folder)
    stored = load_file(folder / "golden.safetensors")
    parts = artifact.parts()
    assert {name.partition("/")[0] for name in stored} == set(parts)
    for name, part in artifact.part_specs().items():
        output = parts[name](*(stored[f"{name}/input/{spec.name}"] for spec in part.inputs))
        assert torch.allclose(output, stored[f"{name}/output/{part.outputs[0].name}"], atol=1e-5)


def test_fill_gives_the_same_image(golden: Path, zoo_command: Command) -> None:
    code, text, _ = zoo_command("fill", "filling-run", *PATIENT, "--dilate", "0", "--out", "new.nii.gz")
    assert code == 0
    assert "Outside both: 0 of" in text
    before, after, expected = (_voxels(path) for path in (PATIENT[1], "new.nii.gz", FILLED))
    mask = _voxels(PATIENT[3]) > 0
    assert np.array_equal(before[~mask], after[~mask])
    assert np.abs(after[mask] - before[mask].astype(float)).max() > 100
    # Integers; another processor may round one of them the other way.
    assert np.abs(after.astype(float) - expected).max() <= 1


def test_filled_image_gives_way_to_a_new_one(golden: Path, zoo_command: Command) -> None:
    sidecar = golden / FILLED.replace(".nii.gz", ".json")
    assert "Format" not in json.loads(sidecar.read_text())
    code, text, _ = zoo_command("fill", "filling-run", *PATIENT, "--out", FILLED)
    assert code == 0
    assert f"Replaced {FILLED}" in text
    assert json.loads(sidecar.read_text())["Format"] == 2


def test_filled_cohort_is_filled_anew(golden: Path, phantom: Path, zoo_command: Command) -> None:
    """Its masks held white matter by an estimate, so no scan counts as there already."""
    names = set(_files(golden / "filled-cohort"))
    code, text, _ = zoo_command("fill", "filling-run", "--data", phantom, "--out", "filled-cohort", "--json")
    assert code == 0
    assert {scan["scan"]: scan["status"] for scan in json.loads(text)["scans"]} == dict.fromkeys(
        ("sub-001", "sub-003", "sub-005"), "filled"
    )
    assert set(_files(golden / "filled-cohort")) == names
    for file in (golden / "filled-cohort").rglob("sub-*.json"):
        assert json.loads(file.read_text())["Format"] == 2


@pytest.mark.parametrize("run", ["filling-run", "stopped-run"])
def test_training_is_not_resumed(golden: Path, phantom: Path, zoo_command: Command, run: str) -> None:
    """Scaling and masks of training have changed since, so the same command would not go on exactly."""
    before = _files(golden / run)
    train = ("train", "lesion-filling", "--data", phantom, *STOPPED_SETTINGS)
    code, _, error = zoo_command(*train, "--out", run)
    assert code == 1
    assert f"{run} was started by mri-zoo 0.1.0" in error
    assert "data.scaling: percentile → head" in error
    assert "sampling.spacing: None → trailing" in error
    assert "training." not in error  # what the command says as 0.1.0 was told is no difference
    assert "pip install mri-zoo==0.1.0" in error
    assert "--out" in error
    assert _files(golden / run) == before

    code, text, _ = zoo_command(*train, "--out", "another")
    assert code == 0
    assert text.strip() == "Finished after 96 images: another/report.html"


@pytest.mark.parametrize(("backend", "flag"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_export_gives_what_torch_gives(golden: Path, zoo_command: Command, backend: str, flag: str) -> None:
    pytest.importorskip(backend)
    stored = load_file("filling-run/golden.safetensors")
    artifact = zoo.load("filling-run")
    inputs = [stored[f"denoiser/input/{spec.name}"] for spec in artifact.part_specs()["denoiser"].inputs]
    output = artifact.parts(Runtime(backend))["denoiser"](*inputs)
    assert torch.allclose(output, stored["denoiser/output/velocity"], atol=1e-4)

    code, _, _ = zoo_command(
        "fill", "filling-run", *PATIENT, "--dilate", "0", "--backend", backend, "--out", "new.nii.gz"
    )
    assert code == 0
    assert np.abs(_voxels("new.nii.gz").astype(float) - _voxels(FILLED)).max() <= 1

    shutil.copy("stopped-run/model.safetensors", "filling-run/model.safetensors")
    with pytest.raises(ArtifactError, match=f"Run: zoo export filling-run --{flag}"):
        zoo.load("filling-run").parts(Runtime(backend))


def test_sample_is_the_same(golden: Path, zoo_command: Command) -> None:
    code, _, _ = zoo_command("sample", "stylegan-run", "-n", "1", "--out", "new")
    assert code == 0
    image = "sample-0000_T1w.nii.gz"
    assert np.allclose(_voxels(f"new/{image}"), _voxels(f"samples/{image}"), atol=1e-4)


def test_projections_and_directions_are_edited(golden: Path, zoo_command: Command) -> None:
    code, _, _ = zoo_command(
        "edit", "apply", "stylegan-run", "projections/projections.safetensors", "directions/directions.safetensors",
        "--name", "group", "--alpha=-1,1", "--folds", "2", "--out", "edited",
    )  # fmt: skip
    assert code == 0
    assert (golden / "edited" / "edit.html").is_file()
    stored = load_file("projections/projections.safetensors")["reconstruction"]
    edited = sorted(Path("edited/group").glob("edit-*_T1w.nii.gz"))
    assert len(edited) == len(stored)
    for file, image in zip(edited, stored, strict=True):
        below, unchanged, above = np.moveaxis(_voxels(file)[:, :, 0], -1, 0)
        assert np.allclose(unchanged, (image[0].clamp(-1, 1) + 1) / 2, atol=1e-4)
        assert np.abs(above - below).max() > 1e-3


def test_directions_are_fitted_again_on_projections(golden: Path, zoo_command: Command) -> None:
    code, _, _ = zoo_command(
        "edit", "directions", "stylegan-run", "projections/projections.safetensors", "--by", "age", "--by", "group",
        "--folds", "2", "--out", "new",
    )  # fmt: skip
    assert code == 0
    before, after = (load_file(f"{folder}/directions.safetensors") for folder in ("directions", "new"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)


def test_projecting_with_the_same_command_finds_all_done(golden: Path, phantom: Path, zoo_command: Command) -> None:
    if not np.array_equal(_voxels(phantom / "sub-003/anat/sub-003_T1w.nii.gz"), _voxels(PATIENT[1])):
        pytest.skip("the phantom has changed, so these would be other images")
    before = load_file("projections/projections.safetensors")
    code, _, _ = zoo_command(
        "project", "stylegan-run", "--data", phantom, "--all", "--loss", "ssim+l2", "--iterations", "20",
        "--positions", "0.4,0.6", "--batch", "10", "--out", "projections",
    )  # fmt: skip
    assert code == 0
    after = load_file("projections/projections.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
