"""Lesions of patients are laid on healthy subjects, within their white matter."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo.config import DataConfig
from zoo.errors import DataError, MissingExtraError
from zoo.imaging.cache import pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.imaging.transfer import transfer_masks


@pytest.fixture(scope="module")
def masks(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = read_cohort(phantom)
    healthy = cohort.subset([scan.subject for scan in cohort.scans if "lesion-mask" not in scan.maps])
    transfer_masks(cohort, healthy, tmp_path_factory.mktemp("transfer") / "masks")
    return tmp_path_factory.getbasetemp() / "transfer0" / "masks"


def test_every_pair_has_a_mask_in_white_matter(phantom: Path, masks: Path) -> None:
    rows = list(csv.DictReader((masks / "participants.tsv").open(), delimiter="\t"))
    assert {row["patient"] for row in rows} == {"sub-001", "sub-003", "sub-005"}
    assert {row["laid_on"] for row in rows} == {"sub-002", "sub-004"}
    for row in rows:
        name, on = row["participant_id"], row["laid_on"]
        assert name == f"{row['patient']}on{on[4:]}"
        image = nibabel.load(masks / name / "anat" / f"{name}_label-lesion_mask.nii.gz")
        tissue = nibabel.load(phantom / "derivatives/tissue" / on / "anat" / f"{on}_dseg.nii.gz")
        mask = np.asarray(image.dataobj) > 0
        assert np.array_equal(image.affine, tissue.affine)
        assert mask.sum() * 64 == pytest.approx(float(row["lesion_volume_mm3"]), abs=1)
        assert (np.asarray(tissue.dataobj)[mask] == 3).all()
        lesions = phantom / "derivatives/lesions" / row["patient"] / "anat"
        drawn = np.asarray(nibabel.load(next(lesions.iterdir())).dataobj) > 0
        assert np.array_equal(mask, drawn & (np.asarray(tissue.dataobj) == 3))
    assert json.loads((masks / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_training_takes_each_mask_on_its_own_subject(phantom: Path, masks: Path) -> None:
    cohort, bank = read_cohort(phantom), read_cohort(masks)
    packed = pack_cohort(cohort, DataConfig(spacing_mm=4.0), mask_bank=bank)
    for scan, lesions in zip(packed.scans, packed.lesions, strict=True):
        meant = [other for other in bank.scans if other.covariates["laid_on"] == scan.subject]
        assert len(lesions) == len(meant)
        for laid, other in zip(lesions, meant, strict=True):
            written = np.asarray(nibabel.load(other.maps["lesion-mask"]).dataobj) > 0
            assert np.array_equal(np.moveaxis(laid.as_mask(scan.shape), 0, 2), written)


def test_what_cannot_be_laid_is_refused(zoo_command, phantom: Path, tmp_path: Path, monkeypatch) -> None:
    cohort = read_cohort(phantom)
    with pytest.raises(DataError, match="is there already"):
        transfer_masks(cohort, cohort, tmp_path)
    with pytest.raises(DataError, match="world coordinates do not agree"):
        transfer_masks(cohort, cohort, tmp_path / "none", white_matter_labels=[9])
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mri-zoo\[registration\]'"):
        transfer_masks(cohort, cohort, tmp_path / "none", nonlinear=True)
    assert not list(tmp_path.iterdir())
    assert zoo_command("data", "transfer-masks", phantom, phantom, tmp_path / "none", "--wm-labels", "x")[0] == 2


def test_the_command_says_how_to_train_with_them(zoo_command, phantom: Path, tmp_path: Path) -> None:
    code, said, _ = zoo_command("data", "transfer-masks", phantom, phantom, tmp_path / "masks")
    assert code == 0
    assert f"--set data.lesion_masks={tmp_path / 'masks'}" in said
