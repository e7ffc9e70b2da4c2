"""Volumes are decoded once."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

import zoo.imaging.cache as cache
from zoo.config import DataConfig, Scale
from zoo.errors import DataError
from zoo.imaging.cache import PackedScan, pack_cohort, pack_scan, voxel_hash
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


def test_two_that_need_a_scan_at_once_pack_it_once(
    phantom: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_cohort(phantom).scans[0]
    second_packs = threading.Event()
    others: list[threading.Thread] = []
    found: list[PackedScan] = []

    def packing(*arguments: object) -> None:
        if others:
            second_packs.set()
        else:
            others.append(threading.Thread(target=lambda: found.append(pack_scan(scan, CONFIG))))
            others[0].start()
            second_packs.wait(0.3)
        original(*arguments)

    original = cache._pack
    monkeypatch.setattr(cache, "_pack", packing)
    first = pack_scan(scan, CONFIG)
    others[0].join()
    assert not second_packs.is_set()
    assert np.array_equal(first.images, found[0].images)


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


def _save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


@pytest.fixture
def with_maps(phantom: Path, tmp_path: Path) -> Path:
    """The phantom with a PET map near 7e-4 and a mask of the brain; of one patient numbered lesions are known."""
    copy = Path(shutil.copytree(phantom, tmp_path / "maps"))
    for folder in sorted(copy.glob("sub-*/anat")):
        subject = folder.parent.name
        t1w = nibabel.load(folder / f"{subject}_T1w.nii.gz")
        values = np.asarray(t1w.dataobj, np.float32)
        _save(folder / f"{subject}_PET.nii.gz", (values / values.max() * 1.2e-3 - 1e-4).astype(np.float32), t1w.affine)
        mask = copy / "derivatives/masks" / subject / "anat" / f"{subject}_desc-brain_mask.nii.gz"
        _save(mask, (values > 50).astype(np.uint8), t1w.affine)
    lesions = next(copy.rglob("*_label-lesion_mask.nii.gz"))
    image = nibabel.load(lesions)
    pieces, count = ndimage.label(np.asarray(image.dataobj) > 0, np.ones((3, 3, 3)))
    assert count > 1
    _save(lesions, pieces.astype(np.uint8), image.affine)
    lesions.with_name(lesions.name.replace(".nii.gz", ".tsv")).write_text("index\tkind\n1\tcore\n2\tsmouldering\n")
    return copy


MAPS = DataConfig(
    spacing_mm=4.0, targets=("PET",), scales={"PET": Scale(unit="1/s", range=(0, 1e-3))}, regions=("brain-mask",)
)


def test_targets_are_packed_unclamped_in_their_own_unit(with_maps: Path, own_cache: Path) -> None:
    cohort = read_cohort(with_maps)
    for scan, source in zip(pack_cohort(cohort, MAPS).scans, cohort.scans, strict=True):
        expected = read_volume(source.images["PET"]).data[0]
        assert scan.targets.dtype == np.float32
        assert scan.targets.shape == (scan.shape[0], 1, *scan.shape[1:])
        assert scan.targets.min() < -1  # -1e-4 and 1.1e-3 lie outside the range
        assert scan.targets.max() > 1
        back = np.moveaxis(scan.target_intensities[0].decode(scan.targets[:, 0]), 0, 2)
        assert np.abs(back - expected).max() < 1e-3 * 1e-3
        assert len(scan.image_hashes) == len(scan.voxel_hashes) == 2
        assert scan.regions["brain-mask"].dtype == bool
        assert np.array_equal(
            np.moveaxis(scan.regions["brain-mask"], 0, 2), read_volume(source.images["T1w"]).data[0] > 50
        )


def test_a_task_needs_no_targets_and_training_does(with_maps: Path, own_cache: Path) -> None:
    (with_maps / "sub-002/anat/sub-002_PET.nii.gz").unlink()
    cohort = read_cohort(with_maps)
    with pytest.raises(DataError, match="sub-002 has no PET"):
        pack_cohort(cohort, MAPS)
    scans = pack_cohort(cohort, MAPS, targets=False).scans
    assert scans[1].targets.shape[1] == 0
    assert len(scans[1].voxel_hashes) == 1


def test_lesions_have_labels_by_their_number(with_maps: Path, own_cache: Path) -> None:
    scans = pack_cohort(read_cohort(with_maps), CONFIG).scans
    labelled = [scan for scan in scans if scan.lesion_labels]
    assert len(labelled) == 1
    (scan,) = labelled
    assert scan.lesion_labels == {1: {"kind": "core"}, 2: {"kind": "smouldering"}}
    assert np.array_equal(scan.lesion_numbers > 0, scan.lesion_mask)
    assert {1, 2} <= set(np.unique(scan.lesion_numbers).tolist())
    assert all(not other.lesion_numbers.any() for other in scans if not other.lesion_labels)


def test_derived_channels_are_packed_with_a_sign(phantom: Path, own_cache: Path) -> None:
    data = DataConfig(
        contrasts=("T1w", "sub"),
        derived={"sub": "T1w - FLAIR"},
        scales={"sub": Scale(like="T1w", signed=True)},
        spacing_mm=4.0,
    )
    cohort = read_cohort(phantom)
    scan = pack_cohort(cohort, data).scans[0]
    t1w, flair = (read_volume(cohort.scans[0].images[name]).data[0] for name in ("T1w", "FLAIR"))
    found = np.moveaxis(np.asarray(scan.images[:, 1], np.float32), 0, 2)
    assert np.abs(found - np.clip((t1w - flair) / scan.intensities[0].high, -1, 1)).max() < 1e-3
    assert len(scan.voxel_hashes) == 2


def test_anisotropic_grid(phantom: Path, own_cache: Path) -> None:
    scan = pack_cohort(read_cohort(phantom), DataConfig(spacing_mm=(4.0, 4.0, 12.0))).scans[0]
    whole = pack_cohort(read_cohort(phantom), CONFIG).scans[0]
    assert scan.grid.spacing_mm == pytest.approx((4, 4, 12))
    assert scan.shape == (round(whole.shape[0] / 3), *whole.shape[1:])


def test_a_matrix_gives_all_scans_one_shape_over_their_own_field_of_view(
    phantom: Path, own_cache: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(phantom, tmp_path / "copy"))
    image = nibabel.load(phantom / "sub-001/anat/sub-001_T1w.nii.gz")
    nibabel.save(image.slicer[4:-4, :, 2:], copy / "sub-001/anat/sub-001_T1w.nii.gz")
    cropped, whole = pack_cohort(read_cohort(copy), DataConfig(matrix=(30, 40, 12))).scans[:2]
    assert cropped.shape == whole.shape == (12, 30, 40)
    for scan, shape in ((cropped, image.slicer[4:-4, :, 2:].shape), (whole, image.shape)):
        assert np.allclose(np.array(scan.grid.spacing_mm) * (30, 40, 12), 4 * np.array(shape))
    own = pack_cohort(read_cohort(phantom), DataConfig(matrix=image.shape)).scans[0]
    assert np.array_equal(own.images, pack_cohort(read_cohort(phantom), CONFIG).scans[0].images)
