"""The model file: rebuilt from itself alone, and refused when it is not what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from tests.conftest import ROOT
from zoo.errors import ArtifactError, ConfigError, UnknownNameError, ZooError
from zoo.models.runtime import Runtime

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "model.safetensors", tmp_path / "model.safetensors"))


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None], drop: str | None = None) -> None:
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["zoo"])
    change(manifest)
    tensors = load_file(path)
    if drop:
        tensors.pop(drop)
    save_file(tensors, path, metadata={"zoo": json.dumps(manifest)})


def test_manifest_says_what_the_model_is(trained: Path) -> None:
    artifact = zoo.load(trained)
    assert artifact.manifest["format"] == 1
    assert artifact.manifest["method"] == "lesion-filling"
    assert artifact.manifest["plugin"] == "mri-zoo"
    assert artifact.manifest["images_seen"] == 64
    assert artifact.manifest["parts"]["denoiser"]["inputs"][0]["name"] == "noisy"
    assert all(len(digest) == 64 for digest in artifact.manifest["trained_on"])
    assert artifact.config.training.images == 64


def test_checkpoint_folder_is_a_model_too(trained: Path) -> None:
    last = sorted((trained / "checkpoints").iterdir())[-1]
    first, second = zoo.load(trained).build(), zoo.load(last).build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.update(format=2), ArtifactError, "has format 2; this version of mri-zoo knows up to 1"),
        (lambda m: m.update(method_version=9), ArtifactError, "trained with version 9 of 'lesion-filling'"),
        (lambda m: m.update(method="os:system"), UnknownNameError, "No method is called 'os:system'"),
        (lambda m: m["config"].update(hook="os:system"), ConfigError, "no setting 'hook'"),
        (lambda m: m.pop("method"), ArtifactError, "damaged manifest"),
        (lambda m: m.update(config=[]), ArtifactError, "damaged manifest"),
    ],
)
def test_wrong_manifests_are_refused(
    model: Path, change: Callable[[dict[str, Any]], None], error: type[ZooError], message: str
) -> None:
    _rewrite(model, change)
    with pytest.raises(error, match=message):
        zoo.load(model)


def test_missing_and_misshapen_tensors_are_named(model: Path) -> None:
    _rewrite(model, lambda manifest: None, drop="unet.conv_in.weight")
    with pytest.raises(ArtifactError, match=r"no unet\.conv_in\.weight"):
        zoo.load(model).build()


def test_other_architecture_is_refused(model: Path) -> None:
    _rewrite(model, lambda manifest: manifest["config"]["unet"].update(channels=[16, 48]))
    with pytest.raises(ArtifactError, match=r"is \[.*\], not \[.*\]"):
        zoo.load(model).build()


def test_truncated_and_foreign_files_are_refused(model: Path, tmp_path: Path) -> None:
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        zoo.load(model)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ArtifactError, match="not written by the zoo"):
        zoo.load(foreign)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_files_that_may_hold_code_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    with pytest.raises(ArtifactError, match="may hold code"):
        zoo.load(tmp_path / name)


def test_places_without_a_model(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no model"):
        zoo.load(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"not a run folder.*Models near by: .*run"):
        zoo.load(trained.parent)
    (tmp_path / "run.json").write_text('{"format": 1, "method": "lesion-filling"}')
    with pytest.raises(ArtifactError, match="has no model yet"):
        zoo.load(tmp_path)
    with pytest.raises(ArtifactError, match=r"'lesion-filling' is a method"):
        zoo.load("lesion-filling")


def test_unknown_backend_names_the_known(trained: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"No exporter is called 'tourch'. Did you mean 'torch'"):
        zoo.load(trained).parts(Runtime("tourch"))


@pytest.mark.parametrize("model", sorted(GOLDEN.glob("*-v[0-9].safetensors")), ids=lambda path: path.stem)
def test_models_of_earlier_versions_repeat_their_outputs(model: Path) -> None:
    artifact = zoo.load(model)
    stored = load_file(model.with_name(f"{model.stem}-golden.safetensors"))
    for name, part in artifact.part_specs().items():
        inputs = [stored[f"{name}/input/{spec.name}"] for spec in part.inputs]
        output = artifact.build().get_submodule(part.module)(*inputs)
        assert torch.allclose(output, stored[f"{name}/output/{part.outputs[0].name}"], atol=1e-5)
