"""Volumes are decoded once."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

import zoo.imaging.cache as cache
from zoo.config import DataConfig
from zoo.errors import DataError
from zoo.imaging.cache import pack_cohort, voxel_hash
from zoo.imaging.cohort import read_cohort
from zoo.imaging.volume import read_volume

CONFIG = DataConfig(spacing_mm=4.0)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_packed_scan_is_the_scaled_image(phantom: Path, own_cache: Path) -> None:
    cohort = read_cohort(phantom)
    packed = pack_cohort(cohort, CONFIG)
    for scan, source in zip(packed.scans, cohort.scans, strict=True):
        image = read_volume(source.images["T1w"])  # the phantom lies on the model's grid already
        expected = scan.intensities[0].encode(image.data[0])
        assert scan.shape == (image.shape[2], *image.shape[:2])
        assert np.abs(np.moveaxis(scan.images[:, 0], 0, 2) - expected).max() < 1e-3  # float16
        tissue = read_volume(source.maps["tissue"]).data[0]
        assert np.array_equal(np.moveaxis(scan.tissue, 0, 2), tissue)
        assert np.array_equal(np.moveaxis(scan.white_matter, 0, 2), tissue == 3)
        assert (scan.lesion_free is not None) == ("lesion-free" in source.maps)
    assert isinstance(packed.scans[0].images, np.memmap)


def test_nothing_is_decoded_twice(phantom: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = read_cohort(phantom)
    first = pack_cohort(cohort, CONFIG, mask_bank=cohort, own_bank=True)

    def decoded(path: Path) -> None:
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(cache, "read_volume", decoded)
    second = pack_cohort(cohort, CONFIG, mask_bank=cohort, own_bank=True)
    assert first.fingerprint == second.fingerprint
    for one, other in zip(first.lesions, second.lesions, strict=True):
        assert all(np.array_equal(a.voxels, b.voxels) for a, b in zip(one, other, strict=True))


def test_changed_image_or_setting_is_packed_anew(phantom: Path, own_cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(phantom, tmp_path / "copy"))
    before = pack_cohort(read_cohort(copy), CONFIG)
    shutil.copy(copy / "sub-002/anat/sub-002_T1w.nii.gz", copy / "sub-001/anat/sub-001_T1w.nii.gz")
    after = pack_cohort(read_cohort(copy), CONFIG)
    assert before.fingerprint != after.fingerprint
    assert np.array_equal(after.scans[0].images, after.scans[1].images)
    coarser = pack_cohort(read_cohort(copy), DataConfig(spacing_mm=8.0))
    assert coarser.scans[0].shape[0] == pytest.approx(after.scans[0].shape[0] / 2, abs=1)


def test_own_lesions_are_not_laid_on_oneself(phantom: Path, own_cache: Path) -> None:
    cohort = read_cohort(phantom)
    patients = [scan.id for scan in cohort.scans if "lesion-mask" in scan.maps]
    packed = pack_cohort(cohort, CONFIG, mask_bank=cohort, own_bank=True)
    for scan, lesions in zip(packed.scans, packed.lesions, strict=True):
        assert len(lesions) == len(patients) - (scan.id in patients)
        for laid in lesions:
            assert scan.white_matter[tuple(laid.voxels.T)].all()


def test_unusable_image_is_named_with_its_subject(phantom: Path, own_cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(phantom, tmp_path / "copy"))
    image = copy / "sub-003/anat/sub-003_T1w.nii.gz"
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(DataError, match=r"^sub-003: sub-003_T1w.nii.gz is"):
        pack_cohort(read_cohort(copy), CONFIG)
    assert not list(own_cache.rglob(".part-*"))


def _rewritten(image: nibabel.Nifti1Image, file: Path, **changes: object) -> Path:
    """Write the same image otherwise."""
    data, affine = np.asarray(image.dataobj), image.affine
    if changes.get("turned"):
        turned = nibabel.Nifti1Image(data, affine).as_reoriented([[1, -1], [0, 1], [2, -1]])
        data, affine = np.asarray(turned.dataobj), turned.affine
    other = nibabel.Nifti1Image(data.astype(changes.get("dtype", data.dtype)), affine)
    other.header["descrip"] = b"somebody else's words"
    nibabel.save(other, file)
    return file


def test_image_is_known_by_its_voxels_however_it_is_written(phantom: Path, tmp_path: Path) -> None:
    source = phantom / "sub-001/anat/sub-001_T1w.nii.gz"
    image = nibabel.load(source)
    known = voxel_hash(read_volume(source))
    for name, changes in (
        ("words.nii.gz", {}),
        ("plain.nii", {}),
        ("wide.nii.gz", {"dtype": np.int32}),
        ("float.nii", {"dtype": np.float64}),
        ("turned.nii.gz", {"turned": True}),
    ):
        copy = _rewritten(image, tmp_path / name, **changes)
        assert copy.read_bytes() != source.read_bytes()
        assert voxel_hash(read_volume(copy)) == known, name
    assert voxel_hash(read_volume(phantom / "sub-002/anat/sub-002_T1w.nii.gz")) != known
    for affine in (image.affine @ np.diag([1.1, 1, 1, 1]), np.eye(4)):
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "elsewhere.nii")
        assert voxel_hash(read_volume(tmp_path / "elsewhere.nii")) != known
    voxels = np.asarray(image.dataobj).copy()
    voxels[20, 20, 20] += 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), tmp_path / "other.nii")
    assert voxel_hash(read_volume(tmp_path / "other.nii")) != known
