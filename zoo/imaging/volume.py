"""NIfTI files: read once, checked before anything is allocated, written back with their own bits.

A header can claim a wrong size and is checked before a voxel is read. A result is the stored array with the masked
voxels replaced, under the input's own header: voxels outside the mask are neither rescaled nor rounded.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from zoo.errors import DataError
from zoo.imaging.cohort import lesion_table
from zoo.system.files import replacing

MAX_VOXELS = 250_000_000
"""Larger images are refused: a small file that claims more would take all memory. 512³ voxels are 134 million."""
VOXEL_MM = (0.05, 20.0)
"""Smallest and largest side of a voxel."""
HEAD_MM = (50.0, 1000.0)
"""The longest side of a field of view that can show a head."""
WHOLE_MARKER = b"mri-zoo: synthetic image"
"""Description in the header of an image that is synthetic in every voxel."""
MARKER = b"mri-zoo: synthetic tissue inside the lesion mask"
"""Description in the header of every image that filling writes."""

_DTYPES = {2: "uint8", 256: "int8", 4: "int16", 512: "uint16", 8: "int32", 768: "uint32", 16: "float32", 64: "float64",
           1024: "int64", 1280: "uint64"}  # fmt: skip
_REFUSED = {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex", 1536: "float128", 1: "binary"}
_CHUNK = 4 << 20
_GZIP_RATIO = 1100  # deflate cannot do better than 1032:1
_GZIP_MAGIC = b"\x1f\x8b"
_POINTERS = {b"/annex/objects/": "git annex get (or datalad get)", b"version https://git-lfs": "git lfs pull"}
"""First bytes of the small files that git-annex and git-LFS leave in place of a content, and what fetches it."""
_METRES, _MICROMETRES = 1, 3
_TO_MM = {_METRES: 1000.0, _MICROMETRES: 0.001}
_FREE_TEXT = ("descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str")
"""Header fields that scanners and converters fill with names, dates and numbers of patients."""


@dataclass(frozen=True)
class Volume:
    """An image on its own grid, with the header and scaling that a result of the same form needs.

    Attributes:
        path: The file.
        data: float32 ``[C, i, j, k]`` in the file's units, slope and intercept applied; C counts the volumes of a 4D
            image.
        affine: Voxel to world, mm, ``[4, 4]``; metres and micrometres of the header are converted.
        stored: The array as stored in the file, ``[i, j, k]`` or ``[i, j, k, C, …]``.
        slope, intercept: units = stored · slope + intercept.
        header: The file's header.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    stored: np.ndarray = field(repr=False)
    slope: float
    intercept: float
    header: nibabel.Nifti1Header = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k)."""
        _, i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (i, j, k)."""
        i, j, k = voxel_sizes(self.affine)
        return float(i), float(j), float(k)

    @property
    def space_code(self) -> int:
        """Code of the world coordinates in the header: 1 scanner, 2 aligned, 3 Talairach, 4 MNI, 5 template."""
        return _space_code(self.header)

    @property
    def axes(self) -> str:
        """Direction of each axis, for example ``"LAS"``."""
        return "".join(nibabel.aff2axcodes(self.affine))


@dataclass(frozen=True)
class Header:
    """The geometry in an image's header.

    Attributes:
        path: The file.
        shape: Voxels along (i, j, k).
        affine: Voxel to world, mm, ``[4, 4]``.
        space_code: As in `Volume`.
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    space_code: int

    def __str__(self) -> str:
        size = "×".join(f"{side}" for side in self.shape)
        spacing = "×".join(f"{side:.3g}" for side in voxel_sizes(self.affine))
        return f"{size} at {spacing} mm, {''.join(nibabel.aff2axcodes(self.affine))}"


def _space_code(header: nibabel.Nifti1Header) -> int:
    return int(header["sform_code"]) or int(header["qform_code"])


def read_volume(path: Path) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file named ``.nii`` or ``.nii.gz``; its content decides whether it is decompressed.

    Raises:
        DataError: The file is missing, not fetched (git-annex, git-LFS), no regular file, unreadable, no NIfTI,
            truncated, larger than it can be, of a kind that no MRI has (RGB, complex), without a usable affine, of
            voxels outside `VOXEL_MM`, or holds NaN or infinite voxels.
    """
    with _opened(path) as (file, header, shape, dtype):
        stored = _read_array(file, header, shape, dtype, path)
    slope, intercept = _scaling(header, path)
    data = _scaled(stored, slope, intercept)
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise DataError(f"{path.name} holds {bad} voxels that are NaN, infinite or beyond float32; clean it first.")
    frames = data.reshape(*shape[:3], -1)
    affine = _affine(header, path)
    return Volume(path, np.moveaxis(frames, 3, 0), affine, stored, slope, intercept, header)


def read_header(path: Path) -> Header:
    """Read the header of a file without its voxels; the same wrong headers are refused as by `read_volume`.

    Raises:
        DataError: As `read_volume`, except for errors in the voxels.
    """
    with _opened(path) as (_, header, shape, _):
        return Header(path, shape[:3], _affine(header, path), _space_code(header))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, nibabel.Nifti1Header, tuple[int, ...], np.dtype]]:
    """Open a NIfTI, decompressed if necessary; yield it with its header, shape and stored type, all checked."""
    if not path.name.lower().endswith((".nii", ".nii.gz")) and not path.is_dir():
        raise DataError(f"{path.name} is not .nii or .nii.gz; convert it first (DICOM: dcm2niix; .mgz: mri_convert).")
    check_regular_file(path)
    try:
        with path.open("rb") as raw:
            start = raw.read(64)
            raw.seek(0)
            _check_fetched(start, path)
            packed = start.startswith(_GZIP_MAGIC)
            with gzip.open(raw) if packed else raw as file:
                header = _read_header(file, path)
                yield file, header, *_check_header(header, path, packed=packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is not a whole gzip file: {error}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def check_regular_file(path: Path) -> None:
    """Refuse paths that are no regular file with content, before reading: a pipe would block.

    Raises:
        DataError: The path is missing, a folder, a pipe or a pointer to a content elsewhere.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink() and "annex/objects" in os.readlink(path):
            raise DataError(f"The content of {path} is not here: git-annex has it elsewhere. Fetch it: git annex get "
                            "(or datalad get).") from None  # fmt: skip
        link = ", where the link points" if path.is_symlink() else ""
        raise DataError(f"There is no file {path}{link}.") from None
    except ValueError:
        raise DataError(f"{str(path)!r} cannot be the name of a file.") from None
    except OSError as error:  # a loop of links, a name that is too long
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder; give a .nii.gz file.")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is a pipe, socket or device; give a .nii.gz file.")


def _check_fetched(start: bytes, path: Path) -> None:
    for first, command in _POINTERS.items():
        if start.startswith(first):
            raise DataError(f"{path.name} only says where its content is. Fetch it: {command}.")


def _scaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
        exact = stored if (slope, intercept) == (1, 0) else stored * np.float64(slope) + intercept
        return exact.astype(np.float32)


def _read_header(file: io.BufferedIOBase, path: Path) -> nibabel.Nifti1Header:
    start = file.read(540)
    for kind, size in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)):
        for endianness in "<>":
            if len(start) >= size and struct.unpack(f"{endianness}i", start[:4])[0] == size:
                header = kind(start[:size], endianness=endianness, check=False)
                magic = bytes(header["magic"])[:3]
                if magic in (b"ni1", b"ni2"):
                    raise DataError(f"{path.name} is one half of an .hdr/.img pair; convert it to one .nii.gz file.")
                if magic in (b"n+1", b"n+2"):
                    return header
    raise DataError(f"{path.name} is not a NIfTI file ({len(start)} bytes of header read).")


def _check_header(header: nibabel.Nifti1Header, path: Path, *, packed: bool) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and stored type, or refuse what cannot be an image, before anything is allocated."""
    count = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []
    if not sizes or any(size < 1 for size in sizes):
        raise DataError(f"{path.name} has a damaged header: dimensions {[int(size) for size in header['dim']]}.")
    if count < 3 or any(size > 1 for size in sizes[4:]):
        raise DataError(f"{path.name} has shape {tuple(sizes)}; images are 3D, or 4D with volumes last.")
    voxels = int(np.prod(sizes, dtype=object))
    if voxels > MAX_VOXELS:
        raise DataError(f"{path.name} claims {voxels:,} voxels {tuple(sizes)}; more than {MAX_VOXELS:,} are refused.")
    code = int(header["datatype"])
    if code not in _DTYPES:
        raise DataError(f"{path.name} holds {_REFUSED.get(code, f'type {code}')} voxels; grey-value images are read.")
    dtype = np.dtype(_DTYPES[code]).newbyteorder(header.endianness)
    smallest = 352 if isinstance(header, nibabel.Nifti1Header) and int(header["sizeof_hdr"]) == 348 else 544
    offset = float(header["vox_offset"])
    if not np.isfinite(offset) or not smallest <= offset < 2**31:
        raise DataError(f"{path.name} has a damaged header: vox_offset is {offset:g}.")
    needed, there = int(offset) + voxels * dtype.itemsize, path.stat().st_size
    possible = there * _GZIP_RATIO if packed else there
    if needed > possible:
        raise DataError(f"{path.name} is truncated, or its header lies: it needs {needed:,} bytes and has {there:,}.")
    return tuple(sizes), dtype


def _read_array(
    file: io.BufferedIOBase, header: nibabel.Nifti1Header, shape: tuple[int, ...], dtype: np.dtype, path: Path
) -> np.ndarray:
    file.seek(int(float(header["vox_offset"])))
    needed = int(np.prod(shape)) * dtype.itemsize
    content = bytearray()
    while len(content) < needed:
        # In pieces: memory grows with the content of the file, not with the claim of its header.
        piece = file.read(min(_CHUNK, needed - len(content)))
        if not piece:
            raise DataError(f"{path.name} is truncated: {len(content):,} of {needed:,} bytes of voxels are there.")
        content += piece
    file.read(_CHUNK)  # read to the end of a gzip file, where its checksum is compared
    return np.frombuffer(content, dtype).reshape(shape, order="F")


def _scaling(header: nibabel.Nifti1Header, path: Path) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0  # by the format, 0 means no scaling
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(f"{path.name} has a damaged header: scl_slope {slope:g}, scl_inter {intercept:g}.")
    return slope, intercept


def _affine(header: nibabel.Nifti1Header, path: Path) -> np.ndarray:
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise DataError(f"{path.name} has a damaged header: no affine ({error}).") from None
    cell = float(np.prod(voxel_sizes(affine)))
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * cell:
        raise DataError(f"{path.name} has a damaged header: its affine is not finite and invertible.")
    unit = int(header["xyzt_units"]) & 7
    affine[:3] *= _TO_MM.get(unit, 1.0)
    sides = voxel_sizes(affine)
    if sides.min() < VOXEL_MM[0] or sides.max() > VOXEL_MM[1]:
        given = {_METRES: " (its header counts in metres)", _MICROMETRES: " (its header counts in micrometres)"}
        raise DataError(
            f"{path.name} has voxels of {_by(sides)} mm{given.get(unit, '')}; sides of {VOXEL_MM[0]:g} to "
            f"{VOXEL_MM[1]:g} mm are read. Correct the header's voxel size or units."
        )
    return affine


def check_field_of_view(volume: Volume) -> None:
    """Refuse an image whose field of view cannot show a head.

    Raises:
        DataError: With its size in mm.
    """
    sides = np.array(volume.shape) * volume.spacing_mm
    if not HEAD_MM[0] <= sides.max() <= HEAD_MM[1]:
        raise DataError(
            f"{volume.path.name} shows {_by(sides)} mm, which cannot be a head (longest side {HEAD_MM[0]:g} to "
            f"{HEAD_MM[1]:g} mm). Correct the header's voxel size or units."
        )


def _by(sides: Sequence[float] | np.ndarray) -> str:
    return " × ".join(f"{side:.3g}" for side in sides)


def read_mask(path: Path, like: Volume, labels: Sequence[int] = ()) -> np.ndarray:
    """Read a mask on the grid of an image.

    Args:
        path: NIfTI of one volume.
        like: Image on the same grid.
        labels: As in `mask_of`.

    Returns:
        bool ``[i, j, k]``.

    Raises:
        DataError: As `read_volume` and `mask_of`, or the grids differ; the message shows both.
    """
    mask = read_volume(path)
    check_same_grid(mask, like)
    return mask_of(mask, labels)[0]


def check_same_grid(mask: Volume, like: Volume) -> None:
    """Refuse a mask of several volumes, or on another grid than the image's.

    Raises:
        DataError: The message shows both grids.
    """
    if len(mask.data) != 1:
        raise DataError(f"{mask.path.name} has {len(mask.data)} volumes; a mask has one.")
    if mask.shape != like.shape or np.abs(mask.affine - like.affine).max() > 1e-2:
        raise DataError(
            f"{mask.path.name} and {like.path.name} lie on different grids: {_describe(mask)} and {_describe(like)}. "
            "Resample the mask onto the image (nearest neighbour) first."
        )


def mask_of(volume: Volume, labels: Sequence[int] = ()) -> tuple[np.ndarray, str]:
    """Return the voxels of a mask.

    Two values (0 and 1, 0 and 255, or 0 and another positive one) are a mask. Values from 0 to 1 are probabilities,
    with a threshold of 0.5; interpolation may overshoot by a quarter. Of a mask with several numbers, all count if the
    table beside it lists them (`lesion_table`).

    Args:
        volume: The mask, slope and intercept applied.
        labels: Whole numbers to take, of a mask with several.

    Returns:
        bool ``[i, j, k]``, and a sentence on how unusual values were read, else an empty text.

    Raises:
        DataError: Several labels and none named, a named one that is not there, no probability above 0.5, or values
            that are neither; the message has the values.
    """
    name, values = volume.path.name, volume.data[0]
    found = np.unique(values[values != 0])
    if labels:
        missing = [label for label in labels if label not in found]
        if missing:
            raise DataError(f"{name} has no voxel of label {missing[0]}; it has {_some(found)}.")
        return np.isin(values, labels), f"{name}: label {', '.join(map(str, labels))} of {_some(found)} is taken"
    if not len(found):
        return np.zeros(values.shape, bool), ""
    low, high = min(float(found[0]), 0.0), float(found[-1])
    if len(found) == 1 and high > 0.5:
        plain = np.isclose(high, (1, 255)).any()
        return values != 0, "" if plain else f"{name} holds 0 and {high:g}; its {high:g} is taken for the mask"
    if low >= -0.25 and high <= 1.25:
        if high <= 0.5:
            raise DataError(
                f"{name} holds probabilities up to {high:.3g}; none is above the threshold of 0.5. "
                "Threshold it where you want, and give a mask of 0 and 1."
            )
        taken = values > 0.5
        return taken, f"{name} holds values from {low:.3g} to {high:.3g}; the {taken.sum()} voxels above 0.5 are taken"
    if set(found.tolist()) <= set(lesion_table(volume.path)):
        return values > 0, f"{name}: all {len(found)} lesions of its table are taken"
    if low >= 0 and np.array_equal(found, np.round(found)):
        per_cent = " If they are per cent or grey levels, threshold the mask to 0 and 1." if len(found) > 9 else ""
        raise DataError(
            f"{name} holds the whole numbers {_some(found)}, not a mask of 0 and 1. If they are labels, say which are "
            f"lesions: --lesion-labels {','.join(f'{value:g}' for value in found[:2])}; of a segmentation of "
            f"tissue, write the one label as its own mask.{per_cent}"
        )
    raise DataError(
        f"{name} holds values from {low:.3g} to {high:.3g}; a mask has 0 and 1, or probabilities from 0 to 1. "
        "Threshold it, and give a mask of 0 and 1."
    )


def _some(values: np.ndarray) -> str:
    shown = [f"{value:g}" for value in values]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])} … {shown[-1]} ({len(shown)} of them)"


def _describe(volume: Volume) -> str:
    size = "×".join(str(side) for side in volume.shape)
    spacing = "×".join(f"{side:.3g}" for side in volume.spacing_mm)
    origin = ", ".join(f"{value:.4g}" for value in volume.affine[:3, 3])
    return f"{size} voxels of {spacing} mm, {volume.axes}, origin ({origin})"


def write_filled(path: Path, volume: Volume, values: np.ndarray, mask: np.ndarray) -> None:
    """Write an image with new values inside a mask; all other voxels keep their stored bits.

    The header is the input's: dimensions, qform, sform, type, scaling, byte order. Free text in it and header
    extensions are left out, since they can name the patient; the description becomes `MARKER`.

    Args:
        path: ``.nii.gz`` or ``.nii``.
        volume: The input.
        values: ``[C, i, j, k]`` in the input's units; integers are rounded and clipped to the type's range.
        mask: bool ``[i, j, k]``.

    Raises:
        DataError: ``path`` is the input itself, or a new value is NaN or infinite.
        ArtifactError: The disk is full or the folder cannot be written; no file is left behind.
    """
    if os.path.realpath(path) == os.path.realpath(volume.path):
        raise DataError(f"{path} is the input; write the result to another file.")
    changed = mask & (values != volume.data)
    bad = int(changed.sum()) - int(np.isfinite(values[changed]).sum())
    if bad:
        raise DataError(f"{bad} of the new values for {path.name} are NaN or infinite; nothing was written.")
    stored = volume.stored.copy(order="F")
    frames = stored.reshape(*volume.shape, -1, order="F")
    frames = np.moveaxis(frames, 3, 0)
    frames[changed] = _to_stored(values[changed], volume)
    header = volume.header.copy()
    for name in _FREE_TEXT:
        if name in header.structarr.dtype.names:
            header[name] = b""
    header["descrip"] = MARKER
    size = int(header["sizeof_hdr"])
    header["vox_offset"] = size + 4
    with replacing(path) as temporary, temporary.open("wb") as plain:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=plain, mode="wb", compresslevel=6, mtime=0) as packed:
                _write(packed, header, stored)
        else:
            _write(plain, header, stored)


def write_map(path: Path, volume: Volume, values: np.ndarray, marker: bytes = MARKER) -> None:
    """Write ``values`` ``[C, i, j, k]`` as float32 on the grid of ``volume``, with nothing else of its header.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written; no file is left behind.
    """
    data = values[0] if len(values) == 1 else np.moveaxis(values, 0, 3)
    image = nibabel.Nifti1Image(data.astype(np.float32), volume.affine)
    image.set_sform(volume.affine, volume.space_code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = marker
    with replacing(path) as temporary:
        nibabel.save(image, temporary)


def _to_stored(values: np.ndarray, volume: Volume) -> np.ndarray:
    exact = (values.astype(np.float64) - volume.intercept) / volume.slope
    if volume.stored.dtype.kind == "f":
        return exact.astype(volume.stored.dtype)
    limits = np.iinfo(volume.stored.dtype)
    highest = float(limits.max)
    if highest > limits.max:
        highest = np.nextafter(highest, 0)  # float64 rounds 2**63 - 1 up, which would wrap around
    return np.clip(np.rint(exact), limits.min, highest).astype(volume.stored.dtype)


def _write(file: Any, header: nibabel.Nifti1Header, stored: np.ndarray) -> None:
    file.write(header.binaryblock)
    file.write(b"\0\0\0\0")  # no extensions
    file.write(stored.tobytes(order="F"))


def changed_voxels(before: Volume, after: Volume) -> np.ndarray:
    """Return where a stored value differs, bit for bit, in any volume of a 4D image: bool ``[i, j, k]``."""
    bits = f"u{before.stored.dtype.itemsize}"
    first, second = (np.ascontiguousarray(volume.stored).view(bits) for volume in (before, after))
    return np.asarray((first != second).reshape(*before.shape, -1).any(axis=3))


def made_by_zoo(path: Path) -> bool:
    """Return whether this program wrote a NIfTI file, by its header; ``False`` for unreadable files."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                return bool(_read_header(file, path)["descrip"].item() in (MARKER, WHOLE_MARKER))
    except (OSError, EOFError, zlib.error, DataError):
        return False
