"""The phantom's truth is true."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo.errors import DataError
from zoo.imaging.cohort import read_cohort
from zoo.imaging.phantom import CORTEX, CSF, LABELS, WHITE, PhantomSubject, make_subject, write_phantom


@pytest.fixture(scope="module")
def patient() -> PhantomSubject:
    return make_subject(2, seed=1, spacing_mm=4.0, group="MS")


def test_same_numbers_make_the_same_bytes(tmp_path: Path) -> None:
    first = write_phantom(tmp_path / "a", 2, seed=5, spacing_mm=4.0)
    second = write_phantom(tmp_path / "b", 3, seed=5, spacing_mm=4.0)
    images = sorted(path.relative_to(first) for path in first.rglob("*.nii.gz"))
    assert len(images) >= 9
    for image in images:  # subject k is the same however many there are
        assert (first / image).read_bytes() == (second / image).read_bytes(), image
    other = make_subject(0, seed=6, spacing_mm=4.0)
    assert not np.array_equal(other.images["T1w"], make_subject(0, seed=5, spacing_mm=4.0).images["T1w"])


def test_twin_differs_inside_lesions_alone(patient: PhantomSubject) -> None:
    lesions = patient.lesion_mask
    assert lesions.any()
    assert np.array_equal(patient.lesion_free[~lesions], patient.images["T1w"][~lesions])
    assert (patient.lesion_free[lesions] != patient.images["T1w"][lesions]).mean() > 0.9


def test_lesions_are_white_matter_dark_in_t1w_and_bright_in_flair(patient: PhantomSubject) -> None:
    lesions = patient.lesion_mask
    assert (patient.tissue[lesions] == WHITE).all()
    healthy = (patient.tissue == WHITE) & ~lesions
    for contrast, sign in (("T1w", -1), ("T2w", 1), ("FLAIR", 1)):
        image = patient.images[contrast].astype(float)
        assert sign * (image[lesions].mean() - image[healthy].mean()) > 50, contrast


def test_contrasts_are_ordered_as_in_life(patient: PhantomSubject) -> None:
    means = {
        contrast: {label: float(image[(patient.tissue == label) & ~patient.lesion_mask].mean()) for label in LABELS}
        for contrast, image in patient.images.items()
    }
    assert means["T1w"][CSF] < means["T1w"][CORTEX] < means["T1w"][WHITE]
    assert means["T2w"][CSF] > means["T2w"][CORTEX] > means["T2w"][WHITE]
    assert means["FLAIR"][CSF] < means["FLAIR"][WHITE] < means["FLAIR"][CORTEX]
    assert all((image[patient.tissue == 0] == 0).all() for image in patient.images.values())


def test_age_widens_ventricles_and_thins_cortex() -> None:
    young, old = (make_subject(1, seed=1, spacing_mm=4.0, group="HC", age=age) for age in (25.0, 72.0))
    middle = np.zeros(young.tissue.shape, bool)
    middle[16:32, 16:44, 14:28] = True
    fluid = [int(((subject.tissue == CSF) & middle).sum()) for subject in (young, old)]
    cortex = [int((subject.tissue == CORTEX).sum()) for subject in (young, old)]
    assert fluid[1] > 1.1 * fluid[0]
    assert cortex[1] < cortex[0]


def test_disease_shrinks_the_brain() -> None:
    healthy, sick = (make_subject(1, seed=1, spacing_mm=4.0, group=group, age=40.0) for group in ("HC", "MS"))
    volumes = [int((subject.tissue > CSF).sum()) for subject in (healthy, sick)]
    assert sick.atrophy > 0 == healthy.atrophy
    assert volumes[1] < volumes[0] * (1 - sick.atrophy / 2)
    assert not healthy.lesion_mask.any()


def test_anatomy_is_never_folded() -> None:
    assert all(make_subject(index, seed=3, spacing_mm=4.0).smallest_jacobian > 0 for index in range(6))


def test_cohort_is_bids_with_its_truth(phantom: Path) -> None:
    cohort = read_cohort(phantom)
    assert [scan.id for scan in cohort.scans] == [f"sub-{number:03d}" for number in range(1, 6)]
    rows = list(csv.DictReader((phantom / "participants.tsv").open(), delimiter="\t"))
    for scan, row in zip(cohort.scans, rows, strict=True):
        assert set(scan.images) == {"T1w", "T2w", "FLAIR"}
        sick = row["group"] == "MS"
        assert scan.lacks(["lesion-mask", "lesion-free"]) == ([] if sick else ["lesion-mask", "lesion-free"])
        assert 20 <= float(row["age"]) <= 75
        if sick:
            mask = np.asarray(nibabel.load(scan.maps["lesion-mask"]).dataobj)
            assert mask.sum() * 4**3 == pytest.approx(float(row["lesion_volume_mm3"]))
        else:
            assert float(row["lesion_volume_mm3"]) == float(row["atrophy"]) == 0
    for description in phantom.rglob("dataset_description.json"):
        assert json.loads(description.read_text())["Synthetic"] is True


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DataError, match="is there already"):
        write_phantom(tmp_path, 1, spacing_mm=4.0)
    with pytest.raises(DataError, match="at least one subject, got 0"):
        write_phantom(tmp_path / "new", 0)
    with pytest.raises(DataError, match="1, 2 or 4 mm, got 3"):
        write_phantom(tmp_path / "new", 1, spacing_mm=3.0)
    with pytest.raises(DataError, match="age 20 to 75, got MS and 90"):
        make_subject(0, spacing_mm=4.0, age=90)
    assert not (tmp_path / "new").exists()
