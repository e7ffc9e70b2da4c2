"""What is refused before a training begins, and what it leaves as seen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

import zoo
from tests.conftest import TINY
from zoo.cli.output import progress_bar
from zoo.config import resolve_config
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.evaluation.unseen import unseen
from zoo.imaging.cohort import read_cohort
from zoo.models.artifact import make_manifest, write_model
from zoo.models.run import Run
from zoo.registry import registry
from zoo.system.files import sha256
from zoo.training.plan import Plan, pack, plan_training

PATIENTS = ("sub-001", "sub-003", "sub-005")


def _plan(data: Path, *settings: str) -> Plan:
    method = registry().methods["lesion-filling"]
    config = resolve_config(method, preset="tiny", assignments=("data.spacing_mm=4.0", *settings))
    return plan_training(method, config, data, progress_bar)


@pytest.fixture
def copy(phantom: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "copy"))


def test_lesions_that_fall_on_no_head_are_refused(zoo_command, phantom: Path, copy: Path, tmp_path: Path) -> None:
    for file in copy.glob("derivatives/lesions/sub-*/anat/*.nii.gz"):
        image = nibabel.load(file)
        affine = image.affine.copy()
        affine[:3, 3] += 400
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), file)
    out = tmp_path / "run"
    arguments = ("train", "lesion-filling", "--data", phantom, "--out", out, *TINY, "--images", 8)
    settings = (f"data.lesion_masks={copy}", "masks=lesions")
    code, _, err = zoo_command(*arguments, *(word for setting in settings for word in ("--set", setting)))
    assert code == 1
    assert "falls into white matter of the training subjects" in err
    assert "transfer-masks" in err
    assert not out.exists()
    assert pack(_plan(phantom, settings[0], "masks=circles"), progress_bar).scans


def test_lesions_need_white_matter(copy: Path) -> None:
    shutil.rmtree(copy / "derivatives/tissue")
    with pytest.raises(DataError, match="white matter, which is not known of any training subject"):
        pack(_plan(copy, "masks=lesions"), progress_bar)


def test_the_message_says_why_there_are_no_lesion_masks(copy: Path) -> None:
    held_out = "data.test_subjects=[" + ",".join(f"'{name}'" for name in PATIENTS) + "]"
    with pytest.raises(DataError, match="all 3 subjects with one are kept for validation and testing"):
        _plan(copy, "masks=lesions", held_out)
    assert _plan(copy, "masks=circles", held_out)
    for name in ("sub-002", "sub-003", "sub-004", "sub-005"):
        shutil.rmtree(copy / name)
        shutil.rmtree(copy / "derivatives/lesions" / name, ignore_errors=True)
        shutil.rmtree(copy / "derivatives/truth" / name, ignore_errors=True)
        shutil.rmtree(copy / "derivatives/tissue" / name)
    with pytest.raises(DataError, match="only sub-001 has one, and a subject's own lesions are not placed on it"):
        _plan(copy, "masks=lesions")
    shutil.rmtree(copy / "derivatives/lesions")
    with pytest.raises(DataError, match=r"no scan in .* has one"):
        _plan(copy, "masks=lesions")


def test_patient_whose_lesions_are_drawn_on_another_image_is_left_out(copy: Path) -> None:
    file = copy / "derivatives/lesions/sub-001/anat/sub-001_label-lesion_mask.nii.gz"
    file.rename(file.with_name("sub-001_space-FLAIR_label-lesion_mask.nii.gz"))
    plan = _plan(copy)
    assert "sub-001" not in plan.cohort.subjects
    assert "sub-001 is left out, since its lesions are drawn on another image" in plan.cohort.notes


# --- What a model has seen. ---


def _otherwise(file: Path) -> None:
    """Write the same image with other bytes: not compressed, another type, another text in the header."""
    image = nibabel.load(file)
    other = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), image.affine)
    other.header["descrip"] = b"converted"
    file.unlink()
    nibabel.save(other, file.with_name(file.name.removesuffix(".gz")))


def test_image_written_otherwise_counts_as_seen(trained: Path, copy: Path) -> None:
    artifact = zoo.load(trained)
    assert artifact.manifest["trained_on_voxels"]
    split = Run.open(trained).record["split"]
    for file in copy.glob("sub-*/anat/*_T1w.nii.gz"):
        _otherwise(file)
    assert set(unseen(artifact, read_cohort(copy).with_all(["T1w"])).subjects) == set(split["test"])


def test_model_of_the_first_version_knows_its_images_by_file(phantom: Path, tmp_path: Path) -> None:
    method = registry().methods["lesion-filling"]
    config = resolve_config(method, preset="tiny", assignments=("data.spacing_mm=4.0",))
    seen = sha256(phantom / "sub-001/anat/sub-001_T1w.nii.gz")
    write_model(
        tmp_path / "m.safetensors", resolve(method.build)(config), make_manifest(method, config, trained_on=[seen])
    )
    left = unseen(zoo.load(tmp_path / "m.safetensors"), read_cohort(phantom))
    assert left.subjects == ("sub-002", "sub-003", "sub-004", "sub-005")


def test_finding_out_what_was_seen_decodes_nothing_twice(
    trained: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zoo.imaging.cache as cache

    artifact, cohort = zoo.load(trained), read_cohort(phantom)
    first = unseen(artifact, cohort)
    monkeypatch.setattr(cache, "read_volume", _refuse)
    assert unseen(artifact, cohort).subjects == first.subjects
    cache.pack_cohort(first, artifact.config.data)


def _refuse(path: Path) -> None:
    raise AssertionError(f"{path} was decoded again")


def _lines(folder: Path, *rows: str) -> None:
    (folder / "participants.tsv").write_text("\n".join(("participant_id\tgrade", *rows)) + "\n", encoding="utf-8")


def test_subjects_without_targets_labels_or_regions_are_left_out_and_named(copy: Path) -> None:
    for number, subject in enumerate(sorted(copy.glob("sub-*"))):
        if number != 1:
            shutil.copy(subject / f"anat/{subject.name}_T1w.nii.gz", subject / f"anat/{subject.name}_PET.nii.gz")
        if number != 2:
            source = subject / f"anat/{subject.name}_T1w.nii.gz"
            shutil.copy(source, subject / f"anat/{subject.name}_label-thalamus_mask.nii.gz")
    _lines(copy, "sub-001\t2", "sub-002\t1", "sub-003\t2", "sub-004\tn/a", "sub-005\t3")
    needed = ("data.targets=PET", "data.scales.PET.range=0,2000", "data.labels=grade", "data.regions=thalamus-mask")
    cohort = _plan(copy, *needed).cohort
    assert cohort.subjects == ("sub-001", "sub-005")
    assert "sub-002 has no PET" in cohort.notes
    assert "sub-003 has no thalamus-mask" in cohort.notes
    assert "sub-004 has no label grade" in cohort.notes
    with pytest.raises(DataError, match=r"None of the 5 scans .* has T1w, label age; .* sub-001 has no label age"):
        _plan(copy, "data.labels=age")


def test_roles_that_a_method_needs_are_enforced(copy: Path) -> None:
    method = replace(registry().methods["lesion-filling"], needs=("T1w", "lesion-mask"))
    config = resolve_config(method, preset="tiny", assignments=["data.spacing_mm=4.0", "masks=circles"])
    assert plan_training(method, config, copy, progress_bar).cohort.subjects == PATIENTS
    shutil.rmtree(copy / "derivatives/lesions")
    with pytest.raises(DataError, match=r"None of the 5 scans .* has T1w, lesion-mask"):
        plan_training(method, config, copy, progress_bar)


def test_labels_of_lesions_are_enforced_where_there_are_lesions(copy: Path) -> None:
    masks = sorted(copy.rglob("*_label-lesion_mask.nii.gz"))
    for mask in masks[1:]:
        mask.with_name(mask.name.replace(".nii.gz", ".tsv")).write_text("index\tkind\n1\tcore\n")
    cohort = _plan(copy, "data.lesion_labels=kind").cohort
    assert f"{masks[0].name.split('_')[0]} has no lesion label kind" in cohort.notes
    assert len(cohort.scans) == 4
