"""Whole cohorts are filled into BIDS derivatives, once, and shown on one page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo.imaging.cohort import read_cohort
from zoo.tasks.fill.quality import FilledImage, write_quality_page


@pytest.fixture(scope="module")
def patients(phantom: Path) -> list[str]:
    return [scan.id for scan in read_cohort(phantom).scans if "lesion-mask" in scan.maps]


@pytest.mark.parametrize("workers", [1, 2])
def test_cohort_is_filled_once(zoo_command, trained, phantom: Path, patients, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "filled"
    arguments = ("fill", trained, "--data", phantom, "--out", out, "--workers", workers, "--json")
    code, said, notes = zoo_command(*arguments)
    assert code == 0, notes
    first = json.loads(said)
    assert [(scan["scan"], scan["status"]) for scan in first["scans"]] == [(name, "filled") for name in patients]
    assert "has no lesion-mask" not in said
    assert {row["name"] for row in first["quality"]} == set(patients)
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == ("derivative", "mri-zoo")
    for name in patients:
        image = out / name / "anat" / f"{name}_desc-filled_T1w.nii.gz"
        old = nibabel.load(phantom / name / "anat" / f"{name}_T1w.nii.gz")
        assert nibabel.load(image).shape == old.shape
        sidecar = json.loads(image.with_name(f"{name}_desc-filled_T1w.json").read_text())
        assert sidecar["VoxelsOutsideChanged"] == 0
        assert [given["Role"] for given in sidecar["Inputs"]] == ["T1w", "lesion-mask", "tissue"]
        assert (sidecar["WhiteMatter"], sidecar["WhiteMatterLabels"]) == ("segmentation", [3])
        assert sidecar["VoxelsAdded"] > 0
        tissue = nibabel.load(phantom / "derivatives" / "tissue" / name / "anat" / f"{name}_dseg.nii.gz")
        changed = np.asarray(nibabel.load(image).dataobj) != np.asarray(old.dataobj)
        assert (np.asarray(tissue.dataobj)[changed] == 3).all()
    page = (out / "quality.html").read_text()
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page

    # One result is lost and one is of other settings: these two are filled again, no other.
    (out / patients[0] / "anat" / f"{patients[0]}_desc-filled_T1w.json").unlink()
    again = json.loads(zoo_command(*arguments)[1])
    assert [scan["status"] for scan in again["scans"]] == ["filled", *["there already"] * (len(patients) - 1)]
    other = json.loads(zoo_command(*arguments, "--seed", 3)[1])
    assert {scan["status"] for scan in other["scans"]} == {"filled"}


def test_a_scan_that_fails_does_not_stop_the_others(zoo_command, phantom: Path, patients, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    shutil.copytree(phantom, cohort)
    (cohort / patients[0] / "anat" / f"{patients[0]}_T1w.nii.gz").write_bytes(b"broken")
    code, said, notes = zoo_command("fill", "biharmonic-filling", "--data", cohort, "--out", tmp_path / "out")
    assert code == 1
    assert f"failed: {patients[0]}: " in notes
    assert f"1 failed, {len(patients) - 1} filled" in said
    assert not list((tmp_path / "out").rglob(".part-*"))


def test_another_dataset_is_not_written_into(zoo_command, trained, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "mine"}')
    code, _, err = zoo_command("fill", trained, "--data", phantom, "--out", tmp_path)
    assert code == 1
    assert "is another dataset" in err
    for wrong in (("--image", phantom), ("--select", "1")):
        assert zoo_command("fill", trained, "--data", phantom, "--out", tmp_path, *wrong)[0] == 2


def test_the_page_puts_what_can_be_seen_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for number in range(6):
        before = rng.normal(100, 5, (30, 30, 20)).astype(np.float32)
        mask = np.zeros(before.shape, np.uint8)
        mask[8:12, 8:12, 8:12] = mask[20:22, 20:22, 5:7] = 1
        after = before.copy()
        after[mask > 0] = rng.normal(100, 5, int(mask.sum()))
        if number == 3:
            after[8:12, 8:12, 8:12] += 60  # a visible box
        paths = [tmp_path / f"{number}-{what}.nii" for what in ("before", "after", "mask")]
        for path, values in zip(paths, (before, after, mask), strict=True):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1, 2, 1])), path)
        images.append(FilledImage(f"image {number}", *paths))
    same = FilledImage("untouched", tmp_path / "0-before.nii", tmp_path / "0-before.nii", tmp_path / "empty.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((30, 30, 20), np.uint8), np.diag([1.0, 1, 2, 1])), same.lesions)
    quality = write_quality_page(tmp_path / "page.html", "a page", [*images, same])
    assert quality[0].name == "image 3"
    assert quality[0].seam > 2 > max(row.seam for row in quality[1:])
    assert len(quality) == 6
    assert {(row.lesions, row.filled_mm3) for row in quality} == {(2, 2 * (64 + 8))}
    page = (tmp_path / "page.html").read_text()
    assert page.index("image 3") < page.index("image 0")
    assert page.count('class="outlier"') == 1
    assert page.count("<figure") == 6 * 3 * 3  # a slice and two lesions each, three panels


def test_one_patient_gets_a_page_too(zoo_command, phantom: Path, patients, tmp_path: Path) -> None:
    name = patients[0]
    image = phantom / name / "anat" / f"{name}_T1w.nii.gz"
    mask = next((phantom / "derivatives/lesions" / name).rglob("*_mask.nii.gz"))
    page = tmp_path / "page.html"
    given = ("fill", "biharmonic-filling", "--image", image, "--lesions", mask, "--out", tmp_path / "filled.nii.gz")
    code, _, notes = zoo_command(*given, "--quality", page)
    assert code == 0, notes
    assert "slice with most lesion" in page.read_text()
    assert zoo_command("fill", "biharmonic-filling", "--data", phantom, "--out", tmp_path, "--quality", page)[0] == 2
