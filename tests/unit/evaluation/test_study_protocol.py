"""A protocol keeps the subjects and lesion masks of training, tuning and test apart."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

import zoo
from tests.conftest import ROOT, TINY
from zoo.errors import ConfigError, DataError
from zoo.evaluation.run import evaluate_by_protocol
from zoo.evaluation.study_protocol import Protocol
from zoo.evaluation.unseen import seen_subjects, unlaid
from zoo.imaging.cohort import read_cohort
from zoo_lesion_diffusion.cases import place_masks
from zoo_lesion_diffusion.config import InpaintingOptions


def _write(folder: Path, **changes: object) -> Path:
    parts = {
        "training": {"subjects": ["sub-001", "sub-002"], "lesion_mask_subjects": ["sub-A"]},
        "tuning": {"subjects": ["sub-003"], "lesion_mask_subjects": ["sub-B"]},
        "test": {"subjects": ["sub-004"], "lesion_mask_subjects": ["sub-C"]},
    }
    lines = ['name = "phantom"']
    for part, settings in parts.items():
        lines += [f"[{part}]", 'cohort = "cohort"', 'lesion_masks = "masks"']
        lines += [f"{key} = {json.dumps(changes.get(f'{part}_{key}', value))}" for key, value in settings.items()]
    file = folder / "protocol.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom, and three patients with one lesion each in its white matter."""
    root = tmp_path_factory.mktemp("protocol")
    shutil.copytree(phantom, root / "cohort")
    scan = read_cohort(phantom).scans[0]
    tissue = nibabel.load(scan.maps["tissue"])
    places = np.argwhere(np.asarray(tissue.dataobj) == 3)
    for patient, share in (("A", 0.3), ("B", 0.5), ("C", 0.7)):
        mask = np.zeros(tissue.shape, np.uint8)
        i, j, k = places[int(share * len(places))]
        mask[i - 1 : i + 2, j - 1 : j + 2, k] = 1
        anat = root / "masks" / f"sub-{patient}" / "anat"
        anat.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(mask, tissue.affine), anat / f"sub-{patient}_label-lesion_mask.nii.gz")
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    from zoo.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["train", "lesion-filling", "--protocol", str(_write(folder)), "--data", str(folder),
              "--out", str(folder / "run"), "--images", "16", *TINY])  # fmt: skip
    assert not stop.value.code
    return folder / "run"


def test_training_sees_only_its_own_part(run: Path, folder: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["split"] == {"train": ["sub-001", "sub-002"], "validation": ["sub-003"], "test": []}
    artifact = zoo.load(run)
    cohort, masks = read_cohort(folder / "cohort"), read_cohort(folder / "masks")
    assert seen_subjects(artifact, cohort) == {"sub-001", "sub-002", "sub-003"}
    assert seen_subjects(artifact, cohort, tuning=True) == {"sub-001", "sub-002"}
    assert unlaid(artifact, masks).subjects == ("sub-B", "sub-C")


def test_scores_name_the_protocol(run: Path, folder: Path, zoo_command) -> None:
    file = _write(folder)
    code, out, _ = zoo_command("evaluate", run, "--protocol", file, "--on", "test", "--data", folder, "--json")
    assert code == 0
    found = json.loads(out)["inpainting"]
    assert found["about"]["protocol"] == Protocol.read(file, folder).about("test")
    assert found["about"]["protocol"]["part"] == "test"
    assert found["about"]["sampling"]["steps"] == 1
    assert "/" not in found["scores"]["lesions/model/lpips"]["note"]  # no folder of the machine
    assert found["about"]["lesion masks"] == "masks (1 patients: none laid in training)"
    assert {row["subject"] for row in found["by_subject"]} == {"sub-004"}
    kept = json.loads(next((run / "evaluations").glob("*.json")).read_text(encoding="utf-8"))
    assert kept["about"] == found["about"]


def test_subjects_and_masks_of_training_are_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    def measure(**changes: object) -> None:
        # The parts are apart in the file, but the model was trained on some.
        swapped = {"training_subjects": ["sub-005"], "training_lesion_mask_subjects": ["sub-C"], **changes}
        protocol = Protocol.read(_write(tmp_path, **swapped), folder)
        evaluate_by_protocol(artifact, protocol, "test", evaluators=(), options={}, bar=None)  # type: ignore[arg-type]

    artifact = zoo.load(run)
    with pytest.raises(DataError, match="Training has seen sub-001 of the protocol's test part"):
        measure(test_subjects=["sub-001"], test_lesion_mask_subjects=["sub-B"], tuning_lesion_mask_subjects=["sub-A"])
    with pytest.raises(DataError, match="Training has seen sub-003"):  # seen by the choice of a checkpoint
        measure(test_subjects=["sub-003"], tuning_subjects=["sub-004"], test_lesion_mask_subjects=["sub-A"])
    with pytest.raises(DataError, match="Training has used the lesion masks of sub-A"):
        measure(test_lesion_mask_subjects=["sub-A"])


def test_a_mask_is_recognised_by_its_voxels(run: Path, folder: Path, tmp_path: Path) -> None:
    name = "anat/sub-{}_label-lesion_mask.nii.gz"
    for patient in "AB":
        image = nibabel.load(folder / "masks" / f"sub-{patient}" / name.format(patient))
        copy = tmp_path / "copy" / f"sub-{patient}9" / name.format(f"{patient}9")
        copy.parent.mkdir(parents=True)
        retyped = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), image.affine)
        copy.write_bytes(gzip.compress(retyped.to_bytes(), 1))
    assert unlaid(zoo.load(run), read_cohort(tmp_path / "copy")).subjects == ("sub-B9",)


def test_masks_of_training_are_not_used_in_evaluation(run: Path, folder: Path) -> None:
    artifact, cohort = zoo.load(run), read_cohort(folder / "cohort").subset(["sub-004"])
    bank, _ = place_masks(artifact, cohort, InpaintingOptions(lesion_masks=str(folder / "masks")))
    assert bank is not None
    assert bank.subjects == ("sub-B", "sub-C")


def test_a_share_of_the_patients_masks_is_kept_from_training(folder: Path, zoo_command) -> None:
    masks = f"data.lesion_masks={folder / 'masks'}"
    _, out, _ = zoo_command("train", "lesion-filling", "--data", folder / "cohort", "--set", masks, "--dry-run", *TINY)
    assert "lesion masks    2, from" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"test_subjects": ["sub-001"]},
            r"\[training\] and \[test\]: subjects must be apart, and 'sub-001' is in both",
        ),
        ({"tuning_lesion_mask_subjects": ["sub-C"]}, r"\[tuning\] and \[test\]: lesion_mask_subjects must be apart"),
        ({"test_subjects": []}, "must be named in both"),
        ({"test_lesion_mask_subjects": []}, "must be named in both"),
    ],
)
def test_parts_that_are_not_apart_are_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Protocol.read(_write(tmp_path, **changes), tmp_path)


def test_cohorts_and_subjects_of_a_protocol_must_exist(folder: Path, tmp_path: Path) -> None:
    protocol = Protocol.read(_write(tmp_path, test_subjects=["sub-04"]), folder)
    with pytest.raises(DataError, match=r"no subject 'sub-04'\. Did you mean 'sub-004'"):
        protocol.subjects("test")
    with pytest.raises(DataError, match="--data is the folder that holds the protocol's cohorts"):
        Protocol.read(_write(tmp_path), tmp_path).training_settings()


def test_the_repositorys_protocol_keeps_its_parts_apart(tmp_path: Path) -> None:
    content = Protocol.read(ROOT / "docs" / "protocol.toml", tmp_path).content
    assert len(content.training.subjects) == 20
    assert len(content.tuning.subjects) == 6
    assert not {"sub-07", "sub-19"} & set(content.training.lesion_mask_subjects)  # shown in pictures
    assert content.test.cohort != content.training.cohort
    assert content.test.lesion_masks != content.training.lesion_masks
