"""Verbs that make one image of another: files in, files out, on their own grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo.config import changed
from zoo.errors import ConfigError, DataError
from zoo.models.artifact import Artifact
from zoo.registry import registry
from zoo.tasks import FillOptions, Runtime, image_to_image_files

OPTIONS: dict[str, object] = {"seed": 3}


def same(parts: object, config: object, image: Tensor, options: FillOptions, progress: object = None) -> Tensor:
    assert options.seed == 3
    return image


def brighter(parts: object, config: object, image: Tensor, options: FillOptions, progress: object = None) -> Tensor:
    return (image + 0.2).clamp(max=1)


def cropped(parts: object, config: object, image: Tensor, options: FillOptions, progress: object = None) -> Tensor:
    return image[..., 1:]


def broken(parts: object, config: object, image: Tensor, options: FillOptions, progress: object = None) -> Tensor:
    return image * torch.nan


@pytest.fixture
def artifact(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Artifact]:
    """A trained model whose task ``lighten`` is the named function."""

    def make(function: str) -> Artifact:
        monkeypatch.setitem(registry().verbs.items, "lighten", replace(registry().verbs["fill"], name="lighten"))
        opened = zoo.load(trained)
        task = zoo.Task(run=f"{__name__}:{function}", options="zoo.tasks:FillOptions")
        opened.method = replace(opened.method, tasks={"lighten": task})
        return opened

    return make


def _image(phantom: Path) -> Path:
    return phantom / "sub-001/anat/sub-001_T1w.nii.gz"


def _run(artifact: Artifact, image: Path, out: Path, **options: object) -> dict[str, object]:
    return image_to_image_files(
        artifact, "lighten", [image], [out], options={**OPTIONS, **options}, runtime=Runtime(),
        description="A test.", command=["zoo", "lighten", f"{image}"],
    )  # fmt: skip


def test_a_result_lies_on_the_grid_and_in_the_units_of_its_image(
    artifact: Callable[[str], Artifact], phantom: Path, tmp_path: Path
) -> None:
    before = nibabel.load(_image(phantom))
    values = before.get_fdata()
    _run(artifact("same"), _image(phantom), tmp_path / "same.nii.gz")
    sidecar = _run(artifact("brighter"), _image(phantom), tmp_path / "brighter.nii.gz")
    same_image, brighter_image = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("same", "brighter"))
    assert np.array_equal(same_image.affine, before.affine)
    assert same_image.shape == before.shape
    middle = (values > 0.1 * values.max()) & (values < 0.7 * values.max())
    assert np.abs(same_image.get_fdata() - values)[middle].max() < 0.01 * values.max()
    assert (brighter_image.get_fdata() > values)[middle].all()
    assert sidecar == json.loads((tmp_path / "brighter.json").read_text())
    assert sidecar["Synthetic"] is True
    assert brighter_image.header["descrip"].item() == b"mri-zoo: synthetic image"
    assert sidecar["Command"] == "zoo lighten sub-001_T1w.nii.gz"


@pytest.mark.parametrize(
    ("function", "message"),
    [("cropped", r"'lighten' returned \[1, .*; it must be \[1, .* for T1w"), ("broken", "NaN or infinite")],
)
def test_a_wrong_result_is_refused_and_nothing_is_written(
    artifact: Callable[[str], Artifact], phantom: Path, tmp_path: Path, function: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _run(artifact(function), _image(phantom), tmp_path / "out.nii.gz")
    assert not list(tmp_path.iterdir())


def test_a_result_of_this_program_is_replaced_and_another_file_is_not(
    artifact: Callable[[str], Artifact], phantom: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.nii.gz"
    for function in ("same", "brighter"):
        _run(artifact(function), _image(phantom), out)
    assert nibabel.load(out).get_fdata().mean() > nibabel.load(_image(phantom)).get_fdata().mean()
    out.write_bytes(_image(phantom).read_bytes())
    (tmp_path / "out.json").unlink()
    with pytest.raises(DataError, match="not made by this program"):
        _run(artifact("same"), _image(phantom), out)


def test_wrong_requests_are_refused(artifact: Callable[[str], Artifact], phantom: Path, tmp_path: Path) -> None:
    model, image = artifact("same"), _image(phantom)
    with pytest.raises(DataError, match="is the input"):
        _run(model, image, image)
    with pytest.raises(ConfigError, match="strength"):
        _run(model, image, tmp_path / "out.nii.gz", strength=2)
    with pytest.raises(DataError, match=r"makes T1w of T1w: give 1 images and 1 outputs.* got 2 and 2"):
        image_to_image_files(
            model, "lighten", [image] * 2, [tmp_path / "a.nii", tmp_path / "b.nii"], options=OPTIONS,
            runtime=Runtime(), description="",
        )  # fmt: skip


def halfway(parts: object, config: object, image: Tensor, options: FillOptions, progress: object = None) -> Tensor:
    return torch.stack([torch.zeros_like(image[0]), torch.full_like(image[0], 3.0)])


def test_targets_are_written_in_their_unit_and_not_clamped(
    artifact: Callable[[str], Artifact], phantom: Path, tmp_path: Path
) -> None:
    model = artifact("halfway")
    scales = {"PET": {"unit": "ml/cm3", "range": (0.0, 0.002)}, "change": {"range": (-1.0, 1.0)}}
    model.config = changed(model.config, {"data": {"targets": ("PET", "change"), "scales": scales}})
    outputs = [tmp_path / "pet.nii.gz", tmp_path / "change.nii.gz"]
    sidecar = image_to_image_files(
        model, "lighten", [_image(phantom)], outputs, options=OPTIONS, runtime=Runtime(), description="A test."
    )
    pet, change = (nibabel.load(path) for path in outputs)
    assert pet.shape == nibabel.load(_image(phantom)).shape
    assert np.allclose(pet.get_fdata(), 0.001)
    assert np.allclose(change.get_fdata(), 3.0)
    assert sidecar["Outputs"][0]["Units"] == "ml/cm3"  # type: ignore[index]
    assert set(sidecar["OutputSHA256"]) == {"pet.nii.gz", "change.nii.gz"}  # type: ignore[call-overload]


def test_a_target_like_a_contrast_is_written_in_its_units(
    artifact: Callable[[str], Artifact], phantom: Path, tmp_path: Path
) -> None:
    model = artifact("same")
    model.config = changed(model.config, {"data": {"targets": ("T2w",), "scales": {"T2w": {"like": "T1w"}}}})
    sidecar = _run(model, _image(phantom), tmp_path / "out.nii.gz")
    before, after = (nibabel.load(path).get_fdata() for path in (_image(phantom), tmp_path / "out.nii.gz"))
    middle = (before > 0.1 * before.max()) & (before < 0.7 * before.max())
    assert np.abs(after - before)[middle].max() < 0.01 * before.max()
    assert sidecar["Outputs"][0]["Units"] == "as in T1w"  # type: ignore[index]
