"""BIDS folders and manifests, and splits by subject."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from zoo.errors import DataError
from zoo.imaging.cohort import as_number, lesion_table, read_cohort, split_subjects


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


# --- Masks and the images they are of. ---


def _anat(*names: str) -> list[str]:
    return [f"sub-1/anat/sub-1_{name}.nii.gz" for name in names]


def _masks(*names: str) -> list[str]:
    return [f"derivatives/lesions/sub-1/anat/sub-1_{name}.nii.gz" for name in names]


@pytest.mark.parametrize(
    ("images", "masks", "used"),
    [
        (["run-1_T1w", "run-2_T1w"], ["run-2_label-lesion_mask"], ("run-2_T1w", "run-2_label-lesion_mask")),
        (["acq-2d_T1w", "acq-3d_T1w"], ["acq-3d_label-lesion_mask"], ("acq-3d_T1w", "acq-3d_label-lesion_mask")),
        (["acq-2d_T1w"], ["acq-3d_label-lesion_mask"], ("acq-2d_T1w", None)),
        (["run-1_T1w"], ["run-2_label-lesion_mask"], ("run-1_T1w", None)),
        (["T1w"], ["run-2_label-lesion_mask"], ("T1w", None)),
        (["acq-2d_T1w", "acq-3d_T1w"], ["label-lesion_mask"], ("acq-2d_T1w", None)),
        (["acq-3d_T1w"], ["label-lesion_mask"], ("acq-3d_T1w", "label-lesion_mask")),
        (["T1w", "run-2_T1w"], ["label-lesion_mask"], ("T1w", "label-lesion_mask")),
        (["T1w", "FLAIR"], ["space-FLAIR_label-lesion_mask"], ("T1w", None)),
        (["T1w", "FLAIR"], [f"space-{of}_label-lesion_mask" for of in ("FLAIR", "T1w")],
         ("T1w", "space-T1w_label-lesion_mask")),
        (["T1w"], ["space-MNI152_label-lesion_mask"], ("T1w", None)),
        (["T1w"], ["space-orig_label-lesion_mask"], ("T1w", "space-orig_label-lesion_mask")),
        (["space-MNI152_T1w"], ["label-lesion_mask"], ("space-MNI152_T1w", None)),
        (["space-MNI152_T1w"], ["space-MNI152_label-lesion_mask"],
         ("space-MNI152_T1w", "space-MNI152_label-lesion_mask")),
    ],
)  # fmt: skip
def test_mask_goes_to_the_image_it_is_of(
    tmp_path: Path, images: list[str], masks: list[str], used: tuple[str, str | None]
) -> None:
    _touch(tmp_path, *_anat(*images), *_masks(*masks))
    cohort = read_cohort(tmp_path)
    (scan,) = cohort.scans
    assert scan.images["T1w"].name == f"sub-1_{used[0]}.nii.gz"
    found = scan.maps.get("lesion-mask")
    assert (found and found.name) == (used[1] and f"sub-1_{used[1]}.nii.gz")
    if used[1] is None:  # refused, and both are named
        with pytest.raises(DataError, match=f"sub-1_{masks[0]}.nii.gz is not used with sub-1_{used[0]}"):
            cohort.with_all(["T1w", "lesion-mask"])
        assert any(masks[0] in note and used[0] in note for note in cohort.notes)


def test_model_of_another_contrast_gets_the_mask_of_its_own_image(tmp_path: Path) -> None:
    _touch(tmp_path, *_anat("T1w", "FLAIR"), *_masks("space-FLAIR_label-lesion_mask"))
    cohort = read_cohort(tmp_path)
    (scan,) = cohort.with_all(["FLAIR", "lesion-mask"]).scans
    assert scan.maps["lesion-mask"].name == "sub-1_space-FLAIR_label-lesion_mask.nii.gz"


def test_one_mask_for_all_sessions(tmp_path: Path) -> None:
    sessions = [f"sub-1/ses-{n}/anat/sub-1_ses-{n}_space-MNI_T1w.nii.gz" for n in (1, 2)]
    _touch(tmp_path, *sessions, *_masks("space-MNI_label-lesion_mask"))
    cohort = read_cohort(tmp_path).with_all(["T1w", "lesion-mask"])
    assert [scan.id for scan in cohort.scans] == ["sub-1_ses-1", "sub-1_ses-2"]
    assert len({scan.maps["lesion-mask"] for scan in cohort.scans}) == 1


def test_native_mask_without_a_session_is_refused_where_there_are_several(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii.gz", *_masks("label-lesion_mask"))
    assert read_cohort(tmp_path).with_all(["T1w", "lesion-mask"]).scans[0].id == "sub-1_ses-1"
    _touch(tmp_path, "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz")
    with pytest.raises(DataError, match=r"its name has no session, and sub-1 has images in ses-1, ses-2"):
        read_cohort(tmp_path).with_all(["T1w", "lesion-mask"])


def test_manifest_that_pairs_two_spaces_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "sub-1_T1w.nii.gz", "sub-1_space-MNI_label-lesion_mask.nii.gz", "mask.nii.gz")
    table = tmp_path / "scans.tsv"
    rows = "participant_id\tT1w\tlesion-mask\n1\tsub-1_T1w.nii.gz\t{}\n"
    table.write_text(rows.format("sub-1_space-MNI_label-lesion_mask.nii.gz"))
    with pytest.raises(DataError, match=r"name different spaces \(space-MNI and none, which means the subject's own\)"):
        read_cohort(table).with_all(["T1w", "lesion-mask"])
    table.write_text(rows.format("mask.nii.gz"))  # a name that tells nothing
    assert read_cohort(table).with_all(["T1w", "lesion-mask"]).scans


def test_files_that_look_like_lesion_masks_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, *_anat("T1w", "label-lesion_roi"), *_masks("desc-lesion_mask", "desc-lesion_dseg"))
    cohort = read_cohort(tmp_path)
    assert set(cohort.scans[0].images) == {"T1w"}
    assert not cohort.scans[0].maps
    for name in ("label-lesion_roi", "desc-lesion_mask", "desc-lesion_dseg"):
        assert any(f"sub-1_{name}.nii.gz looks like a lesion mask" in note for note in cohort.notes)
    with pytest.raises(DataError, match="lesion masks are named sub-…_label-lesion_mask"):
        cohort.with_all(["lesion-mask"])


def test_file_of_another_subject_than_its_folder_is_not_used(tmp_path: Path) -> None:
    _touch(tmp_path, *_anat("T1w"), "sub-1/anat/sub-2_T1w.nii.gz")
    cohort = read_cohort(tmp_path)
    assert cohort.subjects == ("sub-1",)
    assert any("sub-1/anat/sub-2_T1w.nii.gz is not used" in note for note in cohort.notes)


# --- Ids and tables. ---


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("sub-x_/abs/path\t", r"participant_id 'sub-x_/abs/path'"),
        ("sub-x/../../evil\t", r"participant_id 'sub-x/../../evil'"),
        ("sub-x\t1_/abs/path", r"session_id '1_/abs/path'"),
        ("sub-x\t../1", r"session_id '../1'"),
    ],
)
def test_ids_that_could_leave_the_folder_are_refused(tmp_path: Path, columns: str, message: str) -> None:
    _touch(tmp_path, "a.nii.gz")
    (tmp_path / "scans.tsv").write_text(f"participant_id\tsession_id\tT1w\n{columns}\ta.nii.gz\n")
    with pytest.raises(DataError, match=message):
        read_cohort(tmp_path / "scans.tsv")


def test_session_that_is_not_known_is_none(tmp_path: Path) -> None:
    _touch(tmp_path, "a.nii.gz")
    (tmp_path / "scans.tsv").write_text("participant_id\tsession_id\tT1w\nsub-x\tn/a\ta.nii.gz\n")
    assert read_cohort(tmp_path / "scans.tsv").scans[0].id == "sub-x"


def test_doubled_ids_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, *_anat("T1w"), "a.nii.gz")
    (tmp_path / "scans.tsv").write_text("participant_id\tT1w\n1\ta.nii.gz\nsub-1\ta.nii.gz\n")
    with pytest.raises(DataError, match="two lines for sub-1"):
        read_cohort(tmp_path / "scans.tsv")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\nsub-1\t31\n")
    with pytest.raises(DataError, match="two rows for sub-1"):
        read_cohort(tmp_path)


def test_table_that_is_a_folder_or_a_pipe_is_an_error(tmp_path: Path) -> None:
    _touch(tmp_path, *_anat("T1w"))
    table = tmp_path / "participants.tsv"
    table.mkdir()
    with pytest.raises(DataError, match="is no file"):
        read_cohort(tmp_path)
    table.rmdir()
    os.mkfifo(table)
    with pytest.raises(DataError, match="is no file"):
        read_cohort(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("header", ["participant_id\tsite ", "participant_id \tsite", "Participant_ID\tsite"])
def test_tables_as_people_write_them(tmp_path: Path, encoding: str, header: str) -> None:
    _touch(tmp_path, *_anat("T1w"))
    (tmp_path / "participants.tsv").write_text(f"{header}\nsub-1\tJülich\n", encoding=encoding)
    cohort = read_cohort(tmp_path)
    assert cohort.scans[0].covariates == {"site": "Jülich"}
    assert any("Latin-1" in note for note in cohort.notes) == (encoding == "latin-1")


def _two_sessions(root: Path) -> None:
    _touch(root, *(f"sub-1/ses-{n}/anat/sub-1_ses-{n}_T1w.nii.gz" for n in (1, 2)))


def test_row_per_session(tmp_path: Path) -> None:
    _two_sessions(tmp_path)
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tsession_id\tage\nsub-1\tses-1\t40\nsub-1\t2\t45\n")
    assert [scan.covariates["age"] for scan in read_cohort(tmp_path).scans] == ["40", "45"]
    for number in (1, 2):
        shutil.rmtree(tmp_path / f"sub-1/ses-{number}")
    _touch(tmp_path, *_anat("T1w"))
    with pytest.raises(DataError, match="2 rows for sub-1, one per session, but its images tell no session"):
        read_cohort(tmp_path)


def test_table_of_a_subject_s_sessions_is_read(tmp_path: Path) -> None:
    _two_sessions(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-1\t40\tF\n")
    table = "session_id\tage\tacq_time\nses-1\tn/a\t2009-06-15T13:45:30\nses-2\t45\tn/a\n"
    (tmp_path / "sub-1/sub-1_sessions.tsv").write_text(table)
    first, second = read_cohort(tmp_path).scans
    assert first.covariates == {"age": "40", "sex": "F"}
    assert second.covariates == {"age": "45", "sex": "F"}


@pytest.mark.parametrize("cell", ["58_1", "89+", "58y", "58,1", "inf", "nan", "0x10", ""])
def test_cells_that_are_no_numbers(cell: str) -> None:
    assert as_number(cell) is None


def test_accents_of_a_manifest_may_be_composed_otherwise(tmp_path: Path) -> None:
    _touch(tmp_path, unicodedata.normalize("NFD", "Müller.nii.gz"))
    table = tmp_path / "scans.tsv"
    table.write_text(unicodedata.normalize("NFC", "participant_id\tT1w\n1\tMüller.nii.gz\n"), encoding="utf-8")
    assert read_cohort(table).scans[0].images["T1w"].is_file()


def test_masks_of_regions_are_found_by_label_and_by_column(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "derivatives/masks/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "derivatives/masks/sub-01/anat/sub-01_label-Thalamus_mask.nii.gz",
        "derivatives/masks/sub-01/anat/sub-01_desc-other_mask.nii.gz",
        "derivatives/masks/sub-02/anat/sub-02_desc-brain_mask.nii.gz",
    )
    cohort = read_cohort(tmp_path)
    assert cohort.subjects == ("sub-01",)  # a mask of a region alone is no scan
    assert set(cohort.scans[0].maps) == {"brain-mask", "thalamus-mask"}
    assert set(cohort.scans[0].images) == {"T1w"}
    table = tmp_path / "scans.tsv"
    image = "sub-01/anat/sub-01_T1w.nii.gz"
    table.write_text(f"participant_id\tT1w\tbrain-mask\tage\n01\t{image}\t{image}\t44\n")
    (scan,) = read_cohort(table).scans
    assert set(scan.maps) == {"brain-mask"}
    assert scan.covariates == {"age": "44"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tkind\n0\tcore\n", "has the index '0'"),
        ("index\tkind\n1.5\tcore\n", "has the index '1.5'"),
        ("index\tkind\n1\tcore\n1\tother\n", "two rows for index 1"),
        ("name\tkind\na\tcore\n", "has no index"),
    ],
)
def test_wrong_table_of_lesions(tmp_path: Path, content: str, message: str) -> None:
    mask = tmp_path / "sub-01_label-lesion_mask.nii.gz"
    assert lesion_table(mask) == {}
    (tmp_path / "sub-01_label-lesion_mask.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        lesion_table(mask)
