"""Images come back on their own grid, bit for bit outside the mask, and bad files are refused before they do harm."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from zoo.errors import ArtifactError, DataError
from zoo.imaging.volume import count_changes, read_mask, read_volume, write_filled

TOKENS = ("DOE^JANE", "19700101", "INSELSPITAL", "MRN-4711")


def _affine(rng: np.random.Generator, axes: str, spacing: tuple[float, float, float], oblique: bool) -> np.ndarray:
    turn = nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt(axes), nibabel.orientations.axcodes2ornt("RAS")
        ),
        (7, 8, 9),
    )
    affine = turn @ np.diag([*spacing, 1.0])
    if oblique:
        tilt, _ = np.linalg.qr(np.eye(3) + 0.15 * rng.normal(size=(3, 3)))
        affine[:3, :3] = tilt * np.sign(np.diag(tilt)) @ affine[:3, :3]
    affine[:3, 3] = rng.uniform(-90, 90, 3)
    return affine


def _save(
    path: Path,
    dtype: str = "int16",
    *,
    axes: str = "RAS",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    oblique: bool = False,
    scaled: tuple[float, float] | None = None,
    frames: int = 0,
    kind: type = nibabel.Nifti1Image,
    big_endian: bool = False,
    seed: int = 0,
) -> Path:
    rng = np.random.default_rng(seed)
    shape = (7, 8, 9, frames) if frames else (7, 8, 9)
    stored = rng.integers(0, 200, shape) if "int" in dtype else rng.uniform(0, 200, shape)
    header = kind.header_class(endianness=">" if big_endian else "<")
    image = kind(stored.astype(dtype), _affine(rng, axes, spacing, oblique), header)
    image.set_data_dtype(np.dtype(dtype).newbyteorder(">" if big_endian else "<"))
    image.header["descrip"], image.header["aux_file"] = TOKENS[0].encode(), TOKENS[1].encode()
    image.header["intent_name"] = TOKENS[2].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", TOKENS[3].encode()))
    nibabel.save(image, path)
    if scaled:
        # Set on disk: nibabel would choose a scaling of its own.
        _patch(path, {"scl_slope": scaled[0], "scl_inter": scaled[1]}, big_endian)
    return path


def _patch(path: Path, fields: dict[str, object], big_endian: bool = False) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes())
    kind = nibabel.Nifti1Header if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else nibabel.Nifti2Header
    size = kind.sizeof_hdr
    header = kind(bytes(content[:size]), endianness=">" if big_endian else "<", check=False)
    for name, value in fields.items():
        header[name] = value
    content[:size] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize(
    "grid",
    [
        {"axes": "RAS"},
        {"axes": "LAS", "spacing": (0.9, 1.1, 3.0)},
        {"axes": "PSR", "oblique": True},
        {"axes": "IPL", "oblique": True, "spacing": (0.5, 0.5, 5.0)},
        {"frames": 3},
        {"kind": nibabel.Nifti2Image},
        {"big_endian": True},
        {"scaled": (0.5, -3.0)},
    ],
    ids=lambda grid: "-".join(map(str, grid.values())) if "kind" not in grid else "nifti2",
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_filled_image_is_the_input_outside_the_mask(tmp_path: Path, dtype: str, grid: dict, suffix: str) -> None:
    source, target = _save(tmp_path / f"in{suffix}", dtype, **grid), tmp_path / f"out{suffix}"
    volume = read_volume(source)
    rng = np.random.default_rng(1)
    mask = rng.random(volume.shape) < 0.3
    values = volume.data.copy()
    values[:, mask] = rng.uniform(5, 90, values[:, mask].shape)
    write_filled(target, volume, values, mask)

    before, after = nibabel.load(source), nibabel.load(target)
    assert after.shape == before.shape
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.array_equal(before.affine, after.affine)
    kept = set(before.header.keys()) - {"descrip", "aux_file", "intent_name", "db_name", "data_type", "vox_offset"}
    assert all(before.header[name].tobytes() == after.header[name].tobytes() for name in kept)
    old, new = (np.asarray(image.dataobj.get_unscaled()) for image in (before, after))
    assert np.array_equal(old[~mask], new[~mask])
    slope = abs(grid.get("scaled", (1.0, 0.0))[0])
    tolerance = 0.5 * slope + 1e-5 if "int" in dtype else 1e-4
    written = np.moveaxis(np.asarray(after.dataobj).reshape(*volume.shape, -1), 3, 0)
    assert np.abs(written[:, mask] - values[:, mask]).max() <= tolerance
    inside, outside = count_changes(volume, read_volume(target), mask)
    assert outside == 0
    assert inside == int((old != new).sum())


def test_no_text_of_the_patient_is_passed_on(tmp_path: Path) -> None:
    volume = read_volume(_save(tmp_path / "in.nii"))
    assert all(token.encode() in volume.path.read_bytes() for token in TOKENS)
    write_filled(tmp_path / "out.nii", volume, volume.data, np.ones(volume.shape, bool))
    content = (tmp_path / "out.nii").read_bytes()
    assert not [token for token in TOKENS if token.encode() in content]


def test_integers_are_clipped_not_wrapped(tmp_path: Path) -> None:
    volume = read_volume(_save(tmp_path / "in.nii", "uint8"))
    mask = np.zeros(volume.shape, bool)
    mask[0, 0, :2] = True
    values = volume.data.copy()
    values[0, 0, 0, :2] = (-50, 900)
    write_filled(tmp_path / "out.nii", volume, values, mask)
    assert read_volume(tmp_path / "out.nii").data[0, 0, 0, :2].tolist() == [0, 255]


def test_input_is_never_written_to(tmp_path: Path) -> None:
    volume = read_volume(_save(tmp_path / "in.nii"))
    with pytest.raises(DataError, match="is the input"):
        write_filled(tmp_path / "." / "in.nii", volume, volume.data, np.ones(volume.shape, bool))


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = read_volume(_save(tmp_path / "in.nii"))
    (tmp_path / "out.nii.gz").write_bytes(b"older result")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zoo.files.os.replace", full)
    with pytest.raises(ArtifactError, match="No space left"):
        write_filled(tmp_path / "out.nii.gz", volume, volume.data, np.ones(volume.shape, bool))
    assert (tmp_path / "out.nii.gz").read_bytes() == b"older result"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.nii", "out.nii.gz"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _voxel(value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = np.ones((4, 4, 4), np.float32)
        data[1, 2, 3] = value
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)

    return change


def _of_type(dtype: object) -> Callable[[Path], None]:
    return lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype), np.eye(4)), path)


def _claims_gigabytes(path: Path) -> None:
    _patch(path, {"dim": [3, 2000, 2000, 225, 1, 1, 1, 1]})
    path.write_bytes(path.read_bytes()[:377])


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "truncated"),
        (_claims_gigabytes, "truncated, or its header lies"),
        (lambda path: _patch(path, {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}), "claims 27,000,000,000,000 voxels"),
        (lambda path: _patch(path, {"dim": [3, 7, -8, 9, 1, 1, 1, 1]}), "damaged header: dimensions"),
        (lambda path: _patch(path, {"dim": [3, 0, 8, 9, 1, 1, 1, 1]}), "damaged header: dimensions"),
        (lambda path: _patch(path, {"dim": [9, 7, 8, 9, 1, 1, 1, 1]}), "damaged header: dimensions"),
        (lambda path: _patch(path, {"dim": [2, 7, 8, 1, 1, 1, 1, 1]}), "images are 3D"),
        (lambda path: _patch(path, {"dim": [5, 7, 8, 3, 1, 3, 1, 1]}), "images are 3D"),
        (lambda path: _patch(path, {"vox_offset": np.nan}), "vox_offset is nan"),
        (lambda path: _patch(path, {"vox_offset": 12}), "vox_offset is 12"),
        (lambda path: _patch(path, {"scl_slope": np.inf}), "scl_slope inf"),
        (lambda path: _patch(path, {"sform_code": 1, "srow_x": [0, 0, 0, 0]}), "affine is not finite and invertible"),
        (lambda path: _patch(path, {"sform_code": 1, "srow_x": [np.nan, 0, 0, 0]}), "affine is not finite"),
        (lambda path: _patch(path, {"magic": b"ni1"}), "one half of an .hdr/.img pair"),
        (lambda path: _patch(path, {"datatype": 77}), "type 77"),
        (lambda path: path.write_text("a letter, not an image"), "not a NIfTI file"),
        (lambda path: path.write_bytes(b""), "not a NIfTI file"),
        (_of_type(RGB), "RGB voxels"),
        (_of_type(np.complex64), "complex voxels"),
        (_voxel(np.nan), "1 voxels that are NaN"),
        (_voxel(np.inf), "1 voxels that are NaN"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = _save(tmp_path / "bad.nii")
    damage(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        read_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_bad_gzip_files_are_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "bad.nii.gz")
    _cut(path)
    with pytest.raises(DataError, match=r"not a whole gzip file|truncated"):
        read_volume(path)
    path.write_bytes(b"no gzip at all")
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_volume(path)
    lying = _save(tmp_path / "lying.nii.gz")
    _patch(lying, {"dim": [3, 900, 900, 900, 1, 1, 1, 1]})
    with pytest.raises(DataError, match="truncated, or its header lies"):
        read_volume(lying)


def test_places_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_volume(tmp_path / "absent.nii.gz")
    with pytest.raises(DataError, match="is a folder"):
        read_volume(tmp_path)
    with pytest.raises(DataError, match="mri_convert"):
        read_volume(tmp_path / "brain.mgz")


def test_missing_slope_means_unscaled(tmp_path: Path) -> None:
    path = _save(tmp_path / "in.nii")
    for slope in (np.nan, 0.0):
        _patch(path, {"scl_slope": slope, "scl_inter": 7.0})
        volume = read_volume(path)
        assert np.array_equal(volume.data[0], volume.stored)


def test_masks_must_lie_on_the_images_grid(tmp_path: Path) -> None:
    image = read_volume(_save(tmp_path / "image.nii"))
    shape = image.shape
    moved = image.affine.copy()
    moved[0, 3] += 5
    cases = {"shape": ((3, 3, 3), image.affine), "place": (shape, moved)}
    for name, (size, affine) in cases.items():
        nibabel.save(nibabel.Nifti1Image(np.ones(size, np.uint8), affine), tmp_path / f"{name}.nii")
        with pytest.raises(DataError, match=r"different grids: .* voxels of .* and 7×8×9 voxels"):
            read_mask(tmp_path / f"{name}.nii", image)
    mask = np.zeros(shape, np.uint8)
    mask[2, 3, 4] = 1
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), tmp_path / "good.nii")
    assert np.array_equal(read_mask(tmp_path / "good.nii", image), mask > 0)


def test_header_of_the_crafted_file_is_read_in_its_byte_order(tmp_path: Path) -> None:
    path = _save(tmp_path / "big.nii", "int16", big_endian=True)
    assert struct.unpack(">i", path.read_bytes()[:4])[0] == 348
    assert np.array_equal(read_volume(path).data[0], nibabel.load(path).get_fdata(dtype=np.float32))
