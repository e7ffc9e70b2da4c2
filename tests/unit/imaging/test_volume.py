"""Images come back on their own grid, bit for bit outside the mask, and bad files are refused before they do harm."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from zoo.errors import ArtifactError, DataError
from zoo.imaging.volume import VOXEL_MM, changed_voxels, mask_of, read_mask, read_volume, write_filled

TOKENS = ("DOE^JANE", "19700101", "INSELSPITAL", "MRN-4711")


def _affine(rng: np.random.Generator, axes: str, spacing: tuple[float, float, float], oblique: bool) -> np.ndarray:
    turn = nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
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
    kind: type[nibabel.Nifti1Image] = nibabel.Nifti1Image,
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


def _patch(path: Path, fields: Mapping[str, object], big_endian: bool = False) -> None:
    content = bytearray(_plain(path))
    kind = nibabel.Nifti1Header if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else nibabel.Nifti2Header
    size = kind.sizeof_hdr
    header = kind(bytes(content[:size]), endianness=">" if big_endian else "<", check=False)
    for name, value in fields.items():
        header[name] = value
    content[:size] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))


def _plain(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


def _without_extension(path: Path) -> bytes:
    """Return the bytes of an int16 NIfTI-1 file with its voxels right behind the header."""
    volume = read_volume(path)
    header = volume.header.copy()
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4) + volume.stored.tobytes(order="F")


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
    differs = (old != new).reshape(*volume.shape, -1).any(axis=3)
    assert np.array_equal(changed_voxels(volume, read_volume(target)), differs)


@pytest.mark.parametrize("seed", range(12))
def test_any_affine_comes_back_and_values_are_nibabels(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = "".join(rng.permutation([rng.choice(list(pair)) for pair in ("RL", "AP", "SI")]))
    spacing = tuple(rng.uniform(0.4, 6, 3))
    kind = nibabel.Nifti2Image if seed % 3 == 0 else nibabel.Nifti1Image
    slope = float(rng.choice([-0.37, 0.004, 25.0]))
    source = _save(
        tmp_path / "in.nii.gz", axes=axes, spacing=spacing, oblique=True, scaled=(slope, 11.5), frames=seed % 2 * 2,
        kind=kind, big_endian=seed % 4 == 1, seed=seed,
    )  # fmt: skip
    _patch(source, {"qform_code": seed % 2, "sform_code": 1 - seed % 2}, seed % 4 == 1)  # only one of the two
    volume, reference = read_volume(source), nibabel.load(source)
    assert np.array_equal(volume.affine, reference.affine)
    assert volume.axes == axes
    assert volume.spacing_mm == pytest.approx(spacing, rel=1e-5)
    frames = np.moveaxis(reference.get_fdata().reshape(*volume.shape, -1), 3, 0)
    assert volume.data.dtype == np.float32
    assert np.allclose(volume.data, frames, rtol=1e-6)

    mask = rng.random(volume.shape) < 0.2
    values = np.where(mask, volume.data[:, ::-1], volume.data)
    write_filled(tmp_path / "out.nii.gz", volume, values, mask)
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(written.affine, reference.affine)
    after = np.moveaxis(written.get_fdata().reshape(*volume.shape, -1), 3, 0)
    assert np.array_equal(after[:, ~mask], frames[:, ~mask])
    assert np.abs(after[:, mask] - values[:, mask]).max() <= abs(slope) / 2 + 1e-3


TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_no_text_of_the_patient_is_passed_on(tmp_path: Path, kind: type[nibabel.Nifti1Image], suffix: str) -> None:
    source = _save(tmp_path / f"in{suffix}", kind=kind)
    fields = [name for name in TEXT_FIELDS if name in kind.header_class.template_dtype.names]
    tokens = {name: f"PAT-{index}".encode() for index, name in enumerate(fields)}
    _patch(source, tokens)
    seeded = [*tokens.values(), TOKENS[3].encode()]
    volume = read_volume(source)
    assert all(token in _plain(source) for token in seeded)
    write_filled(tmp_path / f"out{suffix}", volume, volume.data, np.ones(volume.shape, bool))
    raw = (tmp_path / f"out{suffix}").read_bytes()
    assert not [token for token in seeded if token in raw + _plain(tmp_path / f"out{suffix}")]
    assert b"out.nii" not in raw  # the name that gzip keeps


def test_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    volume = read_volume(_save(tmp_path / "in.nii.gz"))
    mask = np.ones(volume.shape, bool)
    for name in ("a", "b"):
        write_filled(tmp_path / name / "out.nii.gz", volume, volume.data + 1, mask)
    assert (tmp_path / "a" / "out.nii.gz").read_bytes() == (tmp_path / "b" / "out.nii.gz").read_bytes()


@pytest.mark.parametrize("scaled", [None, (0.01, -3.0), (-2.0, 0.0)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_are_clipped_not_wrapped(tmp_path: Path, dtype: str, scaled: tuple[float, float] | None) -> None:
    data = np.full((4, 4, 4), 7, dtype)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4), dtype=dtype), tmp_path / "in.nii")
    if scaled:
        _patch(tmp_path / "in.nii", {"scl_slope": scaled[0], "scl_inter": scaled[1]})
    volume = read_volume(tmp_path / "in.nii")
    mask = np.zeros(volume.shape, bool)
    mask[0, 0, :2] = True
    values = volume.data.copy()
    values[0, 0, 0, :2] = (-1e30, 1e30)
    write_filled(tmp_path / "out.nii", volume, values, mask)
    limits = np.iinfo(dtype)
    low, high = sorted(read_volume(tmp_path / "out.nii").stored[0, 0, :2].tolist())
    assert low == limits.min
    assert limits.max * (1 - 1e-12) <= high <= limits.max
    first, second = read_volume(tmp_path / "out.nii").data[0, 0, 0, :2]
    assert first < second


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_new_values_that_are_no_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    volume = read_volume(_save(tmp_path / "in.nii", dtype))
    mask = np.zeros(volume.shape, bool)
    mask[:2] = True
    values = volume.data.copy()
    values[0, 0, 0, :3] = (np.nan, np.inf, -np.inf)
    with pytest.raises(DataError, match=r"3 of the new values for out.nii are NaN or infinite"):
        write_filled(tmp_path / "out.nii", volume, values, mask)
    assert [file.name for file in tmp_path.iterdir()] == ["in.nii"]
    values[:, mask] = 1
    values[0, 5] = np.nan  # outside the mask nothing is taken from the values
    write_filled(tmp_path / "out.nii", volume, values, mask)
    assert not changed_voxels(volume, read_volume(tmp_path / "out.nii"))[~mask].any()


def test_input_is_never_written_to(tmp_path: Path) -> None:
    volume = read_volume(_save(tmp_path / "in.nii"))
    before = volume.path.read_bytes()
    (tmp_path / "link.nii").symlink_to(tmp_path / "in.nii")
    for name in ("in.nii", "folder/../in.nii", "link.nii"):
        with pytest.raises(DataError, match="is the input"):
            write_filled(tmp_path / name, volume, volume.data + 1, np.ones(volume.shape, bool))
    assert volume.path.read_bytes() == before


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = read_volume(_save(tmp_path / "in.nii"))
    (tmp_path / "out.nii.gz").write_bytes(b"older result")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zoo.system.files.os.replace", full)
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


def _of_type(dtype: npt.DTypeLike) -> Callable[[Path], None]:
    return lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype), np.eye(4)), path)


def _beyond_float32(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), 1e300), np.eye(4)), path)


def _claims_gigabytes(path: Path) -> None:
    _patch(path, {"dim": [3, 600, 600, 600, 1, 1, 1, 1]})
    path.write_bytes(path.read_bytes()[:377])


def _claims_18_gigabytes(path: Path) -> None:
    _patch(path, {"dim": [3, 1500, 1500, 1000, 1, 1, 1, 1], "datatype": 64, "bitpix": 64})
    content = _plain(path)[:377]
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "truncated"),
        (_claims_gigabytes, "truncated, or its header lies"),
        (_claims_18_gigabytes, "claims 2,250,000,000 voxels"),
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
        (_beyond_float32, "64 voxels that are NaN, infinite or beyond float32"),
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


def _flip_a_bit(path: Path) -> None:
    # Stored without compression, so that only the checksum can tell.
    content = bytearray(gzip.compress(_plain(path), compresslevel=0))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _hide_the_end(path: Path) -> None:
    # Well-formed gzip of half an image, with noise enough for the claimed size to be possible.
    _patch(path, {"dim": [3, 600, 600, 600, 1, 1, 1, 1]})
    noise = np.random.default_rng(0).bytes(1 << 20)
    path.write_bytes(gzip.compress(_plain(path) + noise, compresslevel=1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "not a whole gzip file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "not a whole gzip file"),
        (lambda path: path.write_bytes(path.read_bytes()[:6]), "not a whole gzip file"),
        (lambda path: path.write_bytes(b"no gzip at all"), "not a NIfTI file"),
        (lambda path: path.write_bytes(gzip.compress(b"a letter")), "not a NIfTI file"),
        (lambda path: path.write_bytes(gzip.compress(_plain(path)[:800])), "truncated: 448 of 1,008 bytes"),
        (_flip_a_bit, "not a whole gzip file: CRC check failed"),
        (_claims_18_gigabytes, "claims 2,250,000,000 voxels"),
        (lambda path: _patch(path, {"dim": [3, 600, 600, 600, 1, 1, 1, 1]}), "truncated, or its header lies"),
        (_hide_the_end, "is truncated: "),
    ],
)
def test_bad_gzip_files_are_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(gzip.compress(_without_extension(_save(tmp_path / "good.nii"))))
    read_volume(path)
    damage(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        read_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_places_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_volume(tmp_path / "absent.nii.gz")
    with pytest.raises(DataError, match="is a folder"):
        read_volume(tmp_path)
    with pytest.raises(DataError, match="mri_convert"):
        read_volume(tmp_path / "brain.mgz")


@pytest.mark.parametrize("name", ["plain.nii.gz", "packed.nii", "SHOUTED.NII.GZ"])
def test_packing_is_told_by_the_content(tmp_path: Path, name: str) -> None:
    content = _plain(_save(tmp_path / "in.nii"))
    (tmp_path / name).write_bytes(content if name.startswith("plain") else gzip.compress(content))
    assert np.array_equal(read_volume(tmp_path / name).stored, read_volume(tmp_path / "in.nii").stored)


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (b"/annex/objects/SHA256E-s9--0a.nii.gz\n", "git annex get"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n", "git lfs pull"),
    ],
)
def test_content_that_was_not_fetched_is_told_from_damage(tmp_path: Path, content: bytes, command: str) -> None:
    (tmp_path / "pointer.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=command):
        read_volume(tmp_path / "pointer.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(".git/annex/objects/aa/bb/SHA256E-s9--0a.nii.gz")
    with pytest.raises(DataError, match="git annex get"):
        read_volume(tmp_path / "link.nii.gz")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "device.nii").symlink_to("/dev/zero")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    (tmp_path / "lost.nii").symlink_to("nowhere.nii")
    for name, message in (
        ("pipe.nii", "is a pipe, socket or device"),
        ("device.nii", "is a pipe, socket or device"),
        ("loop.nii", "cannot be read: Too many levels of symbolic links"),
        ("lost.nii", "There is no file .*, where the link points"),
        (f"{'x' * 300}.nii", "cannot be read: File name too long"),
        ("a\0b.nii", "cannot be the name of a file"),
    ):
        with pytest.raises(DataError, match=message):
            read_volume(tmp_path / name)


@pytest.mark.parametrize(("unit", "scale"), [(0, 1.0), (1, 0.001), (2, 1.0), (3, 1000.0), (10, 1.0)])
def test_units_of_the_header_are_respected(tmp_path: Path, unit: int, scale: float) -> None:
    path = tmp_path / "in.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 8, 9), np.int16), np.diag([2 * scale] * 3 + [1])), path)
    _patch(path, {"xyzt_units": unit})
    assert read_volume(path).spacing_mm == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("sides", [(500, 500, 500), (1, 1, 1e-4), (1, 1, 25), (0.002, 0.002, 0.002), (1e-7, 1, 1)])
def test_voxels_that_no_scanner_makes_are_refused(tmp_path: Path, sides: tuple[float, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 8, 9), np.int16), np.diag([*sides, 1.0])), tmp_path / "in.nii")
    with pytest.raises(DataError, match=rf"voxels of .* mm; sides of {VOXEL_MM[0]} to {VOXEL_MM[1]:g} mm"):
        read_volume(tmp_path / "in.nii")


def _mask(path: Path, values: npt.ArrayLike, dtype: str, scaled: tuple[float, float] | None = None) -> Path:
    """Write a mask whose first voxels have the given values, all others 0."""
    stored = np.zeros(7 * 8 * 9, dtype)
    stored[: len(np.asarray(values))] = values
    nibabel.save(nibabel.Nifti1Image(stored.reshape(7, 8, 9), np.eye(4)), path)
    if scaled:
        _patch(path, {"scl_slope": scaled[0], "scl_inter": scaled[1]})
    return path


@pytest.mark.parametrize(
    ("values", "dtype", "scaled", "labels", "taken", "note"),
    [
        ([1, 1, 1], "uint8", None, (), 3, ""),
        ([255, 255], "uint8", None, (), 2, ""),
        ([255, 128, 100], "uint8", (1 / 255, 0), (), 2, "values from 0 to 1; the 2 voxels above 0.5"),
        ([0.9, 0.6, 0.4, 0.1], "float32", None, (), 2, "values from 0 to 0.9; the 2 voxels above 0.5"),
        ([1.04, 0.7, -0.03], "float32", None, (), 2, "from -0.03 to 1.04"),
        ([2, 2, 2], "int16", None, (), 3, "holds 0 and 2; its 2 is taken"),
        ([1, 2, 2, 3], "uint8", None, (2, 3), 3, "label 2, 3 of 1, 2, 3"),
        ([0, 0], "uint8", None, (), 0, ""),
    ],
)
def test_a_mask_says_what_was_found_in_it(
    tmp_path: Path,
    values: list[float],
    dtype: str,
    scaled: tuple[float, float] | None,
    labels: tuple[int, ...],
    taken: int,
    note: str,
) -> None:
    mask, found = mask_of(read_volume(_mask(tmp_path / "mask.nii", values, dtype, scaled)), labels)
    assert int(mask.sum()) == taken
    assert note in found
    assert bool(note) == bool(found)


@pytest.mark.parametrize(
    ("values", "dtype", "labels", "message"),
    [
        ([1, 2], "uint8", (), r"whole numbers 1, 2, .* --lesion-labels 1,2"),
        (range(1, 101), "uint8", (), r"1, 2, 3 … 100 \(100 of them\).* per cent"),
        ([0.45, 0.2], "float32", (), r"probabilities up to 0.45; none is above the threshold of 0.5"),
        ([0.3, 0.3], "float32", (), "probabilities up to 0.3"),
        ([-1, 1], "int16", (), "values from -1 to 1"),
        ([99.5, 12.25], "float32", (), "values from 0 to 99.5"),
        ([1, 2], "uint8", (3,), "no voxel of label 3; it has 1, 2"),
    ],
)
def test_a_mask_that_may_mean_anything_is_refused(
    tmp_path: Path, values: list[float], dtype: str, labels: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        mask_of(read_volume(_mask(tmp_path / "mask.nii", values, dtype)), labels)


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
    several = np.zeros((*shape, 2), np.uint8)
    nibabel.save(nibabel.Nifti1Image(several, image.affine), tmp_path / "several.nii")
    with pytest.raises(DataError, match="has 2 volumes; a mask has one"):
        read_mask(tmp_path / "several.nii", image)
    mask = np.zeros(shape, np.uint8)
    mask[2, 3, 4] = 1
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), tmp_path / "good.nii")
    assert np.array_equal(read_mask(tmp_path / "good.nii", image), mask > 0)


def test_header_of_the_crafted_file_is_read_in_its_byte_order(tmp_path: Path) -> None:
    path = _save(tmp_path / "big.nii", "int16", big_endian=True)
    assert struct.unpack(">i", path.read_bytes()[:4])[0] == 348
    assert np.array_equal(read_volume(path).data[0], nibabel.load(path).get_fdata(dtype=np.float32))


def test_numbered_lesions_of_a_table_are_one_mask(tmp_path: Path) -> None:
    numbers = np.zeros((6, 6, 6), np.uint8)
    numbers[1, 1, 1], numbers[4, 4, 4] = 1, 2
    path = tmp_path / "sub-01_label-lesion_mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(numbers, np.eye(4)), path)
    table = tmp_path / "sub-01_label-lesion_mask.tsv"
    table.write_text("index\tkind\n1\tcore\n")
    with pytest.raises(DataError, match="whole numbers 1, 2"):
        mask_of(read_volume(path))
    table.write_text("index\tkind\n1\tcore\n2\tsmouldering\n")
    mask, note = mask_of(read_volume(path))
    assert np.array_equal(mask, numbers > 0)
    assert "all 2 lesions of its table" in note
