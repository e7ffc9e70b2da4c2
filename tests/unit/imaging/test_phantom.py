"""The phantom's truth is true."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from zoo.errors import DataError
from zoo.imaging.cohort import read_cohort
from zoo.imaging.phantom import CORTEX, CSF, DEEP, LABELS, WHITE, PhantomSubject, make_subject, write_phantom


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


def test_deep_nuclei_lie_in_the_middle(patient: PhantomSubject) -> None:
    deep = np.argwhere(patient.tissue == DEEP) @ patient.affine[:3, :3] + patient.affine[:3, 3]
    assert 20e3 < len(deep) * 4**3 < 60e3  # mm³; a real brain has about 40 cm³
    assert (np.abs(deep) < [45, 50, 45]).all()


def test_lesions_are_blobs_that_favour_the_ventricles() -> None:
    distances, shares, counts = [], [], []
    for index in range(0, 8, 2):
        subject = make_subject(index, seed=4, spacing_mm=4.0)
        middle = np.zeros(subject.tissue.shape, bool)
        middle[16:32, 18:40, 17:26] = True
        to_ventricle = ndimage.distance_transform_edt(~((subject.tissue == CSF) & middle))
        white = (subject.tissue == WHITE) & ~subject.lesion_mask
        distances.append((to_ventricle[subject.lesion_mask].mean(), to_ventricle[white].mean()))
        pieces, count = ndimage.label(subject.lesion_mask)
        counts.append(count)
        for number, box in enumerate(ndimage.find_objects(pieces), start=1):
            piece = pieces[box] == number
            if min(piece.shape) > 2:
                shares.append(piece.mean())
    assert all(lesion < white for lesion, white in distances)
    assert all(3 <= count <= 60 for count in counts)
    assert shares
    assert max(shares) < 0.8  # no boxes


def test_age_widens_ventricles_and_thins_cortex() -> None:
    young, old = (make_subject(1, seed=1, spacing_mm=4.0, group="HC", age=age) for age in (25.0, 72.0))
    middle = np.zeros(young.tissue.shape, bool)
    middle[16:32, 16:44, 14:28] = True
    ventricles = [int(((subject.tissue == CSF) & middle).sum()) for subject in (young, old)]
    fluid = [int((subject.tissue == CSF).sum()) for subject in (young, old)]
    cortex = [int((subject.tissue == CORTEX).sum()) for subject in (young, old)]
    assert ventricles[1] > 1.2 * ventricles[0]
    assert fluid[1] > 1.2 * fluid[0]
    assert cortex[1] < 0.95 * cortex[0]


def test_atrophy_is_the_share_of_tissue_that_fluid_replaces() -> None:
    for index in (1, 3, 4):
        healthy, sick = (make_subject(index, seed=1, spacing_mm=4.0, group=group, age=40.0) for group in ("HC", "MS"))
        tissue = [int((subject.tissue > CSF).sum()) for subject in (healthy, sick)]
        cavity = [int((subject.tissue > 0).sum()) for subject in (healthy, sick)]
        assert healthy.atrophy == 0
        assert 0.02 <= sick.atrophy <= 0.10
        assert 1 - tissue[1] / tissue[0] == pytest.approx(sick.atrophy, rel=0.15)
        assert cavity[1] == pytest.approx(cavity[0], rel=0.005)
        assert not healthy.lesion_mask.any()


def test_anatomy_is_never_folded() -> None:
    for index in range(6):
        assert 0 < make_subject(index, seed=3, spacing_mm=4.0, group="MS", age=75.0).smallest_jacobian < 1


def test_cohort_is_bids_with_its_truth(phantom: Path) -> None:
    cohort = read_cohort(phantom)
    assert [scan.id for scan in cohort.scans] == [f"sub-{number:03d}" for number in range(1, 6)]
    rows = list(csv.DictReader((phantom / "participants.tsv").open(), delimiter="\t"))
    for scan, row in zip(cohort.scans, rows, strict=True):
        assert set(scan.images) == {"T1w", "T2w", "FLAIR"}
        sick = row["group"] == "MS"
        assert scan.lacks(["lesion-mask", "lesion-free"]) == ([] if sick else ["lesion-mask", "lesion-free"])
        assert 20 <= float(row["age"]) <= 75
        assert (float(row["atrophy"]) > 0) == sick
        if sick:
            mask = np.asarray(nibabel.load(scan.maps["lesion-mask"]).dataobj)
            assert mask.sum() * 4**3 == pytest.approx(float(row["lesion_volume_mm3"]))
        else:
            assert float(row["lesion_volume_mm3"]) == 0
            assert not list(phantom.glob(f"derivatives/lesions/{scan.subject}"))
            assert not list(phantom.glob(f"derivatives/truth/{scan.subject}"))
    for description in phantom.rglob("dataset_description.json"):
        content = json.loads(description.read_text())
        assert content["Synthetic"] is True
        assert content["GeneratedBy"][0]["Parameters"] == {"seed": 1, "spacing_mm": 4.0, "subjects": 5}
    assert json.loads((phantom / "participants.json").read_text())["lesion_volume_mm3"]["Units"] == "mm3"
    assert len(list(phantom.glob("sub-*/anat/*.json"))) == 5 * 3
    labels = list(csv.DictReader((phantom / "derivatives/tissue/dseg.tsv").open(), delimiter="\t"))
    assert [int(row["index"]) for row in labels] == list(LABELS)


def test_written_images_are_the_subject_s(phantom: Path) -> None:
    subject = make_subject(2, seed=1, spacing_mm=4.0)
    scan = read_cohort(phantom).scans[2]
    wanted = {**scan.images, **scan.maps}
    arrays = {**subject.images, "tissue": subject.tissue, "lesion-mask": subject.lesion_mask.astype(np.uint8),
              "lesion-free": subject.lesion_free}  # fmt: skip
    assert set(wanted) == set(arrays)
    for name, path in wanted.items():
        image = nibabel.load(path)
        stored = np.asarray(image.dataobj)
        assert stored.dtype == arrays[name].dtype
        assert np.array_equal(stored, arrays[name]), name
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == (4, 4, 4)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError(f"stopped after {done} of {total}")

    with pytest.raises(RuntimeError, match="after 1 of 2"):
        write_phantom(tmp_path / "cohort", 2, spacing_mm=4.0, progress=fail)
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(DataError, match="0 or more, got 0 and -1"):
        write_phantom(tmp_path / "new", 1, seed=-1, spacing_mm=4.0)
    with pytest.raises(DataError, match="0 or more, got -1 and 0"):
        make_subject(-1, spacing_mm=4.0)
    assert not (tmp_path / "new").exists()
