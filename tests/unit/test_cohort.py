"""BIDS folders and manifests, and splits by subject."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.errors import DataError
from zoo.imaging.cohort import read_cohort, split_subjects


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_bids_folder_with_sessions_entities_and_derivatives(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_space-MNI_T1w.nii.gz",
        "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii",
        "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "derivatives/lesions/sub-03/anat/sub-03_space-MNI_label-lesion_mask.nii.gz",
        "derivatives/tissue/sub-01/anat/sub-01_dseg.nii.gz",
        "derivatives/tissue/sub-01/anat/sub-01_label-WM_mask.nii.gz",
        "derivatives/truth/sub-01/anat/sub-01_desc-lesionfree_T1w.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_desc-denoised_T1w.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\nsub-09\t50\n")
    cohort = read_cohort(tmp_path)
    by_id = {scan.id: scan for scan in cohort.scans}
    assert list(by_id) == ["sub-01", "sub-02_ses-1", "sub-02_ses-2", "sub-03"]
    first = by_id["sub-01"]
    assert set(first.images) == {"T1w", "FLAIR", "ce-gadolinium_T1w"}
    assert first.images["T1w"].name == "sub-01_T1w.nii.gz"  # the plainest of two
    assert set(first.maps) == {"lesion-mask", "tissue", "white-matter", "lesion-free"}
    assert first.covariates == {"age": "31"}
    assert by_id["sub-03"].lacks(["T1w", "lesion-mask"]) == ["T1w"]
    assert cohort.subjects == ("sub-01", "sub-02", "sub-03")
    assert any("2 images for T1w" in note for note in cohort.notes)
    assert "sub-09 is in participants.tsv but has no image" in cohort.notes


def test_scans_without_what_is_needed_are_left_out_and_named(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_FLAIR.nii.gz")
    cohort = read_cohort(tmp_path).with_all(["T1w"])
    assert [scan.id for scan in cohort.scans] == ["sub-01"]
    assert "sub-02 has no T1w" in cohort.notes
    with pytest.raises(DataError, match=r"None of the 2 scans .* has T2w; found: FLAIR, T1w"):
        read_cohort(tmp_path).with_all(["T2w"])


def test_manifest(tmp_path: Path) -> None:
    _touch(tmp_path, "a.nii.gz", "m.nii.gz")
    table = tmp_path / "scans.tsv"
    table.write_text(
        "participant_id\tsession_id\tT1w\tlesion-mask\tage\n7\t1\ta.nii.gz\tm.nii.gz\t44\n8\t\ta.nii.gz\tn/a\t\n"
    )
    cohort = read_cohort(table)
    assert [scan.id for scan in cohort.scans] == ["sub-7_ses-1", "sub-8"]
    assert cohort.scans[0].covariates == {"age": "44"}
    assert cohort.scans[1].lacks(["lesion-mask"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("participant_id\tT1w\nsub-1\tabsent.nii.gz\n", "names absent.nii.gz as T1w of sub-1"),
        ("participant_id\tT1w\n", "has no lines"),
        ("subject,T1w\nsub-1,a.nii.gz\n", "line 2 has no participant_id"),
        ("participant_id\nsub-1\textra\n", "more columns than the header"),
    ],
)
def test_wrong_manifest(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text(content)
    with pytest.raises(DataError, match=message):
        read_cohort(table)


def test_places_without_a_cohort(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no"):
        read_cohort(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no scan"):
        read_cohort(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match="neither a BIDS folder nor"):
        read_cohort(tmp_path / "x.txt")


def test_split_is_by_subject_seeded_and_whole() -> None:
    subjects = [f"sub-{number:02d}" for number in range(20)]
    split = split_subjects(subjects, validation=0.1, test=0.2, seed=5)
    parts = (split.train, split.validation, split.test)
    assert [len(part) for part in parts] == [14, 2, 4]
    assert sorted(name for part in parts for name in part) == subjects
    assert split == split_subjects(subjects[::-1], validation=0.1, test=0.2, seed=5)
    assert split != split_subjects(subjects, validation=0.1, test=0.2, seed=6)


def test_named_test_subjects() -> None:
    subjects = [f"sub-{number}" for number in range(5)]
    split = split_subjects(subjects, validation=0.0, test=0.9, seed=0, test_subjects=["sub-4", "sub-1"])
    assert split.test == ("sub-1", "sub-4")
    assert split.train == ("sub-0", "sub-2", "sub-3")
    with pytest.raises(DataError, match=r"'sub-44' is not in the cohort. Did you mean 'sub-4'"):
        split_subjects(subjects, validation=0.0, test=0.2, seed=0, test_subjects=["sub-44"])
    with pytest.raises(DataError, match="none is left to train on"):
        split_subjects(subjects, validation=0.0, test=0.2, seed=0, test_subjects=subjects)


def test_small_cohorts_keep_someone_to_train_on() -> None:
    assert split_subjects(["a"], validation=0.1, test=0.2, seed=0).train == ("a",)
    assert len(split_subjects(["a", "b", "c"], validation=0.1, test=0.2, seed=0).train) == 1
