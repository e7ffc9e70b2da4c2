"""Filling a patient from the command line, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import zoo
from tests.conftest import TINY
from zoo.imaging.cohort import read_cohort
from zoo.tasks.fill.patient import sample_seeds


@pytest.fixture(scope="module")
def patient(phantom: Path) -> dict[str, Any]:
    scan = next(scan for scan in read_cohort(phantom).scans if "lesion-mask" in scan.maps)
    maps = {"lesions": scan.maps["lesion-mask"], "tissue": scan.maps["tissue"]}
    return {"subject": scan.subject, "image": scan.images["T1w"], **maps}


def _fill(zoo_command, trained: Path, image: Path, lesions: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return zoo_command("fill", trained, "--image", image, "--lesions", lesions, "--out", out, *more)


def _like(source: Path, path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, nibabel.load(source).affine), path)
    return path


def test_patient_is_filled_with_picture_and_sidecar(zoo_command, trained: Path, patient: dict, tmp_path: Path) -> None:
    out = tmp_path / "results" / "filled.nii.gz"
    before = {path: path.read_bytes() for path in patient["image"].parent.iterdir()}
    code, said, notes = _fill(zoo_command, trained, patient["image"], patient["lesions"], out, "--seed", 4)
    assert code == 0, notes
    sidecar = json.loads((out.parent / "filled.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["ModelSHA256"] == zoo.load(trained).sha256
    assert sidecar["Scaling"] == "head"
    assert sidecar["Seed"] == 4
    assert sidecar["Command"].startswith("zoo fill run --image")
    assert str(tmp_path) not in json.dumps(sidecar)
    mask = np.asarray(nibabel.load(patient["lesions"]).dataobj) > 0
    old, new = (np.asarray(nibabel.load(path).dataobj) for path in (patient["image"], out))
    assert sidecar["VoxelsDrawn"] == mask.sum()
    assert sidecar["VoxelsDrawnChanged"] == (old != new)[mask].sum()
    assert sidecar["VoxelsAdded"] == sidecar["VoxelsAddedChanged"] == (old != new)[~mask].sum() == 0
    assert sidecar["WhiteMatter"] == "none"
    assert sidecar["VoxelsOutside"] == mask.size - sidecar["VoxelsDrawn"] - sidecar["VoxelsAdded"]
    assert sidecar["VoxelsOutsideChanged"] == 0
    assert (
        f"Drawn: {sidecar['VoxelsDrawnChanged']} of {mask.sum()} voxels changed. Added by dilation: "
        f"{sidecar['VoxelsAddedChanged']} of {sidecar['VoxelsAdded']} changed. Outside both: 0 of "
        f"{sidecar['VoxelsOutside']} changed."
    ) in said
    assert "white matter is not known, so no rim is added" in notes
    assert (out.parent / "filled.png").stat().st_size > 1000
    assert {path: path.read_bytes() for path in patient["image"].parent.iterdir()} == before


def test_dilation_takes_the_white_matter_it_is_given(zoo_command, trained, patient, tmp_path: Path) -> None:
    tissue = np.asarray(nibabel.load(patient["tissue"]).dataobj)
    white = _like(patient["image"], tmp_path / "wm.nii.gz", (tissue == 3).astype(np.uint8))
    code, _, notes = _fill(
        zoo_command, trained, patient["image"], patient["lesions"], tmp_path / "out.nii", "--wm", white, "--dilate", 2
    )
    assert code == 0
    assert "no rim" not in notes
    old, new = (np.asarray(nibabel.load(path).dataobj) for path in (patient["image"], tmp_path / "out.nii"))
    assert (tissue[old != new] == 3).all()
    sidecar = json.loads((tmp_path / "out.json").read_text())
    assert 0 < sidecar["VoxelsAddedChanged"] <= sidecar["VoxelsAdded"]
    assert sidecar["WhiteMatter"] == "given"


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm-solver++"])
def test_every_solver_fills(zoo_command, trained, patient, tmp_path: Path, solver: str) -> None:
    out = tmp_path / "out.nii.gz"
    code, _, notes = _fill(
        zoo_command, trained, patient["image"], patient["lesions"], out, "--solver", solver, "--steps", 3
    )
    assert code == 0, notes
    assert np.isfinite(nibabel.load(out).get_fdata()).all()


def _two_lesions(patient: dict, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Return a mask of a large and a small lesion in white matter, and each of them."""
    tissue = np.asarray(nibabel.load(patient["tissue"]).dataobj)
    places = np.argwhere(tissue == 3)
    large, small = (np.zeros(tissue.shape, bool) for _ in range(2))
    large[tuple(slice(index - 1, index + 2) for index in places[len(places) // 4])] = True
    small[tuple(places[3 * len(places) // 4])] = True
    return _like(patient["image"], tmp_path / "two.nii.gz", (large | small).astype(np.uint8)), large, small


def test_lesions_are_listed_largest_first(zoo_command, patient, tmp_path: Path) -> None:
    lesions, _, small = _two_lesions(patient, tmp_path)
    code, said, _ = zoo_command("fill", "--list", "--lesions", lesions, "--json")
    assert code == 0
    listed = json.loads(said)
    assert [(row["number"], row["voxels"], row["volume_mm3"]) for row in listed] == [(1, 27, 27 * 64), (2, 1, 64)]
    affine = nibabel.load(lesions).affine
    assert listed[1]["centre_mm"] == pytest.approx(list(affine[:3, :3] @ np.argwhere(small)[0] + affine[:3, 3]))


@pytest.mark.parametrize(("option", "filled_is_small"), [("--select", True), ("--keep", False)])
@pytest.mark.parametrize("dilate", [0, 1])
def test_only_the_chosen_lesion_is_filled(
    zoo_command, trained, patient, tmp_path: Path, option: str, filled_is_small: bool, dilate: int
) -> None:
    lesions, large, small = _two_lesions(patient, tmp_path)
    filled, kept = (small, large) if filled_is_small else (large, small)
    out = tmp_path / "out.nii.gz"
    code, _, notes = _fill(zoo_command, trained, patient["image"], lesions, out, option, "2", "--dilate", dilate)
    assert code == 0, notes
    changed = np.asarray(nibabel.load(patient["image"]).dataobj) != np.asarray(nibabel.load(out).dataobj)
    assert changed[filled].any()
    assert not changed[kept].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--select", "3"), "no lesion 3; the mask has 2"), (("--select", "1", "--keep", "2"), "not both")],
)
def test_a_choice_of_lesions_that_cannot_be_is_refused(
    zoo_command, trained, patient, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    lesions, _, _ = _two_lesions(patient, tmp_path)
    out = tmp_path / "never.nii.gz"
    code, _, err = _fill(zoo_command, trained, patient["image"], lesions, out, *options)
    assert (code, message in err) == (1, True), err
    assert not out.exists()


def test_numbers_of_lesions_are_numbers_and_need_a_model(zoo_command, trained, patient) -> None:
    assert zoo_command("fill", "--lesions", patient["lesions"])[0] == 2
    assert zoo_command("fill", trained, "--lesions", patient["lesions"], "--select", "x")[0] == 2


def test_samples_are_averaged_and_their_spread_is_written(zoo_command, trained, patient, tmp_path: Path) -> None:
    mask = np.asarray(nibabel.load(patient["lesions"]).dataobj) > 0
    image = _like(patient["image"], tmp_path / "image.nii", nibabel.load(patient["image"]).get_fdata(dtype=np.float32))
    values = []
    for seed in sample_seeds(5, 3):
        out = tmp_path / f"{seed}.nii.gz"
        more = ("--seed", seed, "--dilate", 0, "--steps", 10)
        assert _fill(zoo_command, trained, image, patient["lesions"], out, *more)[0] == 0
        values.append(nibabel.load(out).get_fdata()[mask])
    out = tmp_path / "mean.nii.gz"
    more = ("--seed", 5, "--dilate", 0, "--samples", 3)
    code, _, err = _fill(zoo_command, trained, image, patient["lesions"], out, *more)
    assert (code, "Use --steps N with N of 10 or more" in err, out.exists()) == (1, True, False)
    more = (*more, "--steps", 10)
    assert _fill(zoo_command, trained, image, patient["lesions"], out, *more)[0] == 0
    mean, deviation = (nibabel.load(path).get_fdata() for path in (out, tmp_path / "mean-sd.nii.gz"))
    assert np.allclose(mean[mask], np.mean(values, axis=0), atol=1e-2)
    assert np.allclose(deviation[mask], np.std(values, axis=0, ddof=1), atol=1e-2)
    assert (deviation[mask] > 0).mean() > 0.9
    assert not deviation[~mask].any()
    assert json.loads((tmp_path / "mean.json").read_text())["Samples"] == 3


def test_contrasts_are_filled_together(zoo_command, phantom: Path, patient, tmp_path: Path) -> None:
    settings = ("--images", 32, *TINY, "--set", "data.contrasts=T1w,FLAIR")
    code, _, err = zoo_command("train", "lesion-filling", "--data", phantom, "--out", tmp_path / "run", *settings)
    assert code == 0, err
    flair = Path(str(patient["image"]).replace("_T1w", "_FLAIR"))
    outs = [tmp_path / "T1w-filled.nii.gz", tmp_path / "FLAIR-filled.nii.gz"]
    code, _, err = zoo_command(
        "fill", tmp_path / "run", "--image", patient["image"], "--image", flair, "--lesions", patient["lesions"],
        "--out", outs[0], "--out", outs[1], "--dilate", 0,
    )  # fmt: skip
    assert code == 0, err
    mask = np.asarray(nibabel.load(patient["lesions"]).dataobj) > 0
    for before, after, brighter in ((patient["image"], outs[0], True), (flair, outs[1], False)):
        old, new = (nibabel.load(path).get_fdata() for path in (before, after))
        assert np.array_equal(old[~mask], new[~mask])
        assert (new[mask].mean() > old[mask].mean()) == brighter  # dark lesions and bright ones

    for contrast, path in (("T1w", patient["image"]), ("FLAIR", flair)):
        (tmp_path / contrast).mkdir()
        shutil.copy(path, tmp_path / contrast / "001.nii.gz")
    rows = ("participant_id\tT1w\tFLAIR\tlesion-mask", f"1\tT1w/001.nii.gz\tFLAIR/001.nii.gz\t{patient['lesions']}")
    (tmp_path / "one-name.tsv").write_text("\n".join(rows) + "\n")
    code, _, err = zoo_command(
        "fill", tmp_path / "run", "--data", tmp_path / "one-name.tsv", "--out", tmp_path / "cohort", "--dilate", 0
    )
    assert code == 1
    assert "Two contrasts of sub-1 have the file name 001.nii.gz" in err


@pytest.mark.parametrize("method", ["biharmonic-filling", "neighbour-filling"])
def test_classic_fillers_need_no_training(zoo_command, patient, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out.nii.gz"
    code, said, notes = zoo_command(
        "fill", method, "--image", patient["image"], "--lesions", patient["lesions"], "--out", out
    )
    assert code == 0, notes
    assert "Outside both: 0 of" in said
    assert json.loads((tmp_path / "out.json").read_text())["ModelSHA256"] is None
    flair = _like(
        patient["image"],
        tmp_path / f"{patient['subject']}_FLAIR.nii.gz",
        np.asarray(nibabel.load(patient["image"]).dataobj),
    )
    code, _, notes = zoo_command("fill", method, "--image", flair, "--lesions", patient["lesions"], "--out", out)
    assert code == 0, notes
    assert json.loads((tmp_path / "out.json").read_text())["VoxelsAdded"] == 0  # whatever the contrast
    code, _, err = zoo_command("train", method)
    assert code == 1
    assert "needs no training" in err


def test_empty_mask_returns_the_image(zoo_command, trained, patient, tmp_path: Path) -> None:
    shape = nibabel.load(patient["image"]).shape
    empty = _like(patient["image"], tmp_path / "empty.nii.gz", np.zeros(shape, np.uint8))
    out = tmp_path / "out.nii.gz"
    code, said, notes = _fill(zoo_command, trained, patient["image"], empty, out)
    assert code == 0
    assert "the lesion mask is empty; the image is returned unchanged" in notes
    assert "Drawn: 0 of 0 voxels changed. Added by dilation: 0 of 0 changed." in said
    assert np.array_equal(nibabel.load(out).dataobj, nibabel.load(patient["image"]).dataobj)


def test_each_wrong_input_has_its_own_error(zoo_command, trained, patient, tmp_path: Path) -> None:
    image = patient["image"]
    shape = nibabel.load(image).shape
    full = _like(image, tmp_path / "full.nii.gz", np.ones(shape, np.uint8))
    small = _like(image, tmp_path / "small.nii.gz", np.ones((3, 3, 3), np.uint8))
    nan = _like(image, tmp_path / "nan.nii.gz", np.full(shape, np.nan, np.float32))
    text = tmp_path / "text.nii.gz"
    text.write_text("hello")
    good, out = patient["lesions"], tmp_path / "out" / "out.nii.gz"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((image, full, out), "covers 100% of the image"),
        ((image, small, out), "different grids"),
        ((nan, good, out), "that are NaN"),
        ((text, good, out), "not a NIfTI file"),
        ((tmp_path / "absent.nii.gz", good, out), "There is no file"),
        ((image, good, tmp_path / "out.png"), "must end in .nii.gz or .nii"),
        ((image, good, image), "is the input"),
        ((image, good, image.parent / "filled.nii.gz"), "inside the dataset of the input"),
        ((image, good, out, "--image", image), "fills T1w together: give 1 --image"),
        ((image, good, out, "--solver", "euler"), "solver: "),
        ((image, good, out, "--set", "stesp=3"), "Did you mean 'steps'"),
        ((image, good, out, "--backend", "onnx"), "No exporter is called 'onnx'"),
    ]
    for arguments, message in cases:
        code, _, err = _fill(zoo_command, trained, *arguments)  # type: ignore[arg-type]
        assert code == 1, (message, err)
        assert message in err, (message, err)
        assert "Traceback" not in err
    assert not out.parent.exists()
    assert not (image.parent / "filled.nii.gz").exists()


def test_frames_of_a_4d_image_are_filled_one_by_one(zoo_command, trained, patient, tmp_path: Path) -> None:
    data = np.asarray(nibabel.load(patient["image"]).dataobj)
    image = _like(patient["image"], tmp_path / "image.nii.gz", np.stack([data, data // 2], axis=3))
    out = tmp_path / "out.nii.gz"
    assert _fill(zoo_command, trained, image, patient["lesions"], out, "--dilate", 0)[0] == 0
    mask = np.asarray(nibabel.load(patient["lesions"]).dataobj) > 0
    old, new = (np.asarray(nibabel.load(path).dataobj) for path in (image, out))
    assert new.shape == old.shape
    assert np.array_equal(old[~mask], new[~mask])
    assert all((old[mask, frame] != new[mask, frame]).any() for frame in range(2))


@pytest.mark.parametrize("axes", ["LAS", "PSR"])
def test_other_grids_are_filled_on_themselves(zoo_command, trained, patient, tmp_path: Path, axes: str) -> None:
    turn = nibabel.orientations.axcodes2ornt(axes)
    paths = {}
    for name in ("image", "lesions"):
        turned = nibabel.load(patient[name]).as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
        )
        thick = turned.affine @ np.diag([1, 1, 1.5, 1])  # anisotropic: the model's grid is another one
        paths[name] = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), thick), paths[name])
    out = tmp_path / "out.nii.gz"
    code, said, _ = _fill(zoo_command, trained, paths["image"], paths["lesions"], out, "--dilate", 0)
    assert code == 0
    assert "Added by dilation: 0 of 0 changed. Outside both: 0 of" in said
    old, new = nibabel.load(paths["image"]), nibabel.load(out)
    mask = np.asarray(nibabel.load(paths["lesions"]).dataobj) > 0
    assert "".join(nibabel.aff2axcodes(new.affine)) == axes
    assert np.array_equal(np.asarray(old.dataobj)[~mask], np.asarray(new.dataobj)[~mask])
    assert (np.asarray(old.dataobj)[mask] != np.asarray(new.dataobj)[mask]).mean() > 0.5


def test_a_voxel_that_a_lesion_only_touches_is_computed_but_not_written(
    zoo_command, trained, patient, tmp_path: Path
) -> None:
    source = nibabel.load(patient["image"])
    fine = np.asarray(source.dataobj).repeat(2, 0).repeat(2, 1).repeat(2, 2)  # the model sees every eight as one
    affine = source.affine @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] -= affine[:3, :3].sum(axis=1) / 2
    mask = np.zeros(fine.shape, np.uint8)
    tissue = np.argwhere(np.asarray(nibabel.load(patient["tissue"]).dataobj) == 3)
    for place in tissue[:: len(tissue) // 40]:
        mask[tuple(2 * place + 1)] = 1  # one of the eight
    for name, values in (("image", fine), ("lesions", mask)):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out.nii.gz"
    code, _, err = _fill(
        zoo_command, trained, tmp_path / "image.nii.gz", tmp_path / "lesions.nii.gz", out, "--dilate", 0
    )
    assert code == 0, err
    differs = fine != np.asarray(nibabel.load(out).dataobj)
    assert not differs[mask == 0].any()
    assert differs[mask == 1].mean() > 0.8
