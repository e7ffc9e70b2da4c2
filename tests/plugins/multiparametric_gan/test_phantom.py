"""The truth of the DCE phantom is true."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import convex_hull_image

from tests.unit.tasks.fill.test_bids_validity import bids_errors
from zoo.errors import DataError
from zoo.imaging.cohort import lesion_table, read_cohort
from zoo.metrics.kinetics import curve_class, late_change
from zoo_multiparametric_gan.phantom import (
    BENIGN,
    CONTRASTS,
    MALIGNANT,
    SERIES,
    TIMES_S,
    Lesion,
    Study,
    make_study,
    open_dce_phantom,
    write_dce_phantom,
)


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return [make_study(index, seed=3, spacing_mm=2.0) for index in range(5)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dce_phantom(tmp_path_factory.mktemp("dce") / "cohort", 3, seed=5, spacing_mm=4.0)


def _lesions(studies: list[Study], pathology: str) -> list[tuple[Study, Lesion]]:
    found = [(study, lesion) for study in studies for lesion in study.lesions if lesion.pathology == pathology]
    assert len(found) >= 3
    return found


def _mean(study: Study, images: str, where: np.ndarray) -> np.ndarray:
    return np.array([getattr(study, images)[name][where].astype(float).mean() for name in SERIES])


def _enhancing(study: Study, lesion: Lesion) -> np.ndarray:
    """Return the fifth of a lesion that enhances most: no septa, no core, no fat of its surroundings."""
    inside = study.lesion_labels == lesion.index
    gain = study.signal["ce-post1_T1w"] / np.maximum(study.signal["T1w"], 1)
    return inside & (gain >= np.quantile(gain[inside], 0.8))


def test_noise_free_lesions_have_the_curve_of_their_truth(studies: list[Study]) -> None:
    for study in studies:
        for lesion in study.lesions:
            curve = _mean(study, "signal", _enhancing(study, lesion))
            assert curve / curve[0] == pytest.approx(lesion.curve, rel=0.1), lesion
            gain, wanted = curve - curve[0], lesion.curve - 1
            assert gain / gain[1] == pytest.approx(wanted / wanted[1], rel=0.03), lesion


def test_fat_does_not_enhance(studies: list[Study]) -> None:
    study = studies[0]
    before = study.signal["T1w"]
    fat = study.breast_mask & (before > 0.99 * before[study.breast_mask].max())
    assert fat.sum() > 1000
    curve = _mean(study, "signal", fat)
    assert curve / curve[0] == pytest.approx(np.ones(5), abs=0.01)


@pytest.mark.parametrize(("pathology", "wanted"), [(BENIGN, "persistent"), (MALIGNANT, "wash-out")])
def test_pathology_has_its_class_of_curve_in_noisy_images(studies: list[Study], pathology: str, wanted: str) -> None:
    for study, lesion in _lesions(studies, pathology):
        assert lesion.curve_class == wanted
        change = late_change(_mean(study, "images", _enhancing(study, lesion)))
        assert curve_class(change) == wanted, lesion
        assert change == pytest.approx(lesion.late_change, abs=0.06)


def test_gland_is_a_plateau(studies: list[Study]) -> None:
    for study in studies:
        before = study.signal["T1w"]
        gland = study.breast_mask & (ndimage.maximum_filter(study.lesion_labels, 7) == 0) & (before < 420)
        gain = study.signal["ce-post1_T1w"] / np.maximum(before, 1)
        gland &= (gain > 1.1) & (gain < 1.6)
        assert gland.sum() > 200
        assert curve_class(late_change(_mean(study, "images", gland))) == "plateau"


def test_benign_lesions_are_rounder_than_malignant_ones(studies: list[Study]) -> None:
    def solidity(study: Study, lesion: Lesion) -> float:
        mask = study.lesion_labels == lesion.index
        middle = mask[:, :, np.argmax(mask.sum(axis=(0, 1)))]
        return float(middle.sum() / convex_hull_image(middle).sum())

    round_ones, uneven = (
        [solidity(*found) for found in _lesions(studies, pathology) if found[1].diameter_mm > 10]
        for pathology in (BENIGN, MALIGNANT)
    )
    assert min(round_ones) > 0.88
    assert np.mean(uneven) < np.mean(round_ones) - 0.08


def test_lesions_lie_apart_inside_the_breasts(studies: list[Study]) -> None:
    assert {len(study.lesions) for study in studies} > {1}
    for study in studies:
        assert set(np.unique(study.lesion_labels)) == {0, *(lesion.index for lesion in study.lesions)}
        assert study.breast_mask[study.lesion_labels > 0].all()
        for lesion in study.lesions:
            volume = (study.lesion_labels == lesion.index).sum() * 2 * 2 * 4
            sphere = np.pi / 6 * lesion.diameter_mm**3
            assert 0.3 < volume / sphere < 1.8
            assert 8 <= lesion.diameter_mm <= 30
        assert 0.02 < study.density < 0.6


def test_a_seed_draws_the_same_breasts_at_every_spacing(studies: list[Study]) -> None:
    fine, coarse = studies[1], make_study(1, seed=3, spacing_mm=4.0)
    averaged = fine.signal["T1w"].reshape(80, 2, 40, 2, 32).mean(axis=(1, 3))
    assert np.corrcoef(averaged.ravel(), coarse.signal["T1w"].ravel())[0, 1] > 0.95
    assert [lesion.diameter_mm for lesion in fine.lesions] == [lesion.diameter_mm for lesion in coarse.lesions]
    assert [lesion.tissue for lesion in fine.lesions] == [lesion.tissue for lesion in coarse.lesions]


def test_same_numbers_make_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    again = open_dce_phantom(tmp_path / "again", 4.0, subjects=1, seed=5)
    images = sorted(path.relative_to(again) for path in again.rglob("*.nii.gz"))
    assert len(images) == 8
    for image in images:  # a subject is the same however many there are
        assert (cohort / image).read_bytes() == (again / image).read_bytes(), image
    other = make_study(0, seed=6, spacing_mm=4.0).images["T1w"]
    assert not np.array_equal(other, make_study(0, seed=5, spacing_mm=4.0).images["T1w"])


def test_cohort_is_bids_with_its_truth(cohort: Path) -> None:
    read = read_cohort(cohort)
    assert not read.notes
    rows = {row["participant_id"]: row for row in csv.DictReader((cohort / "participants.tsv").open(), delimiter="\t")}
    for index, scan in enumerate(read.scans):
        study = make_study(index, seed=5, spacing_mm=4.0)
        assert set(scan.images) == set(CONTRASTS)
        assert not scan.lacks(["lesion-mask", "breast-mask"], (), ["pathology"])
        for name, image in study.images.items():
            stored = nibabel.load(scan.images[name])
            assert np.asarray(stored.dataobj).dtype == np.int16
            assert np.array_equal(stored.dataobj, image)
            assert nibabel.aff2axcodes(stored.affine) == ("R", "A", "S")
            assert stored.header.get_zooms() == (4, 4, 4)
        assert np.array_equal(nibabel.load(scan.maps["lesion-mask"]).dataobj, study.lesion_labels)
        assert np.array_equal(nibabel.load(scan.maps["breast-mask"]).dataobj, study.breast_mask)
        table = lesion_table(scan.maps["lesion-mask"])
        assert list(table) == [lesion.index for lesion in study.lesions]
        for lesion in study.lesions:
            row = table[lesion.index]
            assert row["pathology"] == lesion.pathology
            assert float(row["ktrans_per_min"]) == pytest.approx(lesion.tissue.ktrans_per_min, abs=1e-4)
            assert float(row["late_change"]) == pytest.approx(lesion.late_change, abs=1e-4)
        assert int(rows[scan.id]["lesions"]) == len(study.lesions)
        assert int(rows[scan.id]["benign"]) + int(rows[scan.id]["malignant"]) == len(study.lesions)


@pytest.mark.parametrize("part", ["", "derivatives/lesions", "derivatives/regions"])
def test_cohort_is_valid(cohort: Path, part: str) -> None:
    assert bids_errors(cohort / part) == []


def test_sidecars_tell_the_time_after_contrast_agent(cohort: Path) -> None:
    sidecars = {path.name[8:-5]: json.loads(path.read_text()) for path in (cohort / "sub-001/anat").glob("*.json")}
    assert set(sidecars) == set(CONTRASTS)
    assert all(sidecar["Synthetic"] is True for sidecar in sidecars.values())
    assert [sidecars[name]["SecondsAfterContrastAgent"] for name in SERIES[1:]] == list(TIMES_S)
    assert "SecondsAfterContrastAgent" not in sidecars["T1w"]


def test_wrong_wishes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DataError, match="is there already"):
        write_dce_phantom(tmp_path, 1, spacing_mm=4.0)
    with pytest.raises(DataError, match="at least one subject, got 0"):
        write_dce_phantom(tmp_path / "new", 0)
    with pytest.raises(DataError, match="1, 2 or 4 mm, got 3"):
        write_dce_phantom(tmp_path / "new", 1, spacing_mm=3.0)
    with pytest.raises(DataError, match="0 or more, got 0 and -1"):
        write_dce_phantom(tmp_path / "new", 1, seed=-1, spacing_mm=4.0)
    assert not (tmp_path / "new").exists()
