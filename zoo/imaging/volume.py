"""NIfTI files: read once, checked before anything is allocated, written back with their own bits.

A file can lie about its size, so the header is judged before a voxel is read. A result is written as the stored
array with the masked voxels replaced, under the input's own header: no scaling is redone and nothing is rounded
outside the mask.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from zoo.errors import DataError
from zoo.files import replacing

MAX_VOXELS = 1_000_000_000
"""Larger images are refused: no MRI is that large, and a damaged header easily claims it."""

_DTYPES = {2: "uint8", 256: "int8", 4: "int16", 512: "uint16", 8: "int32", 768: "uint32", 16: "float32", 64: "float64",
           1024: "int64", 1280: "uint64"}  # fmt: skip
_REFUSED = {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex", 1536: "float128", 1: "binary"}
_CHUNK = 4 << 20
_GZIP_RATIO = 1100  # deflate cannot do better than 1032:1
_FREE_TEXT = ("descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str")
"""Header fields that scanners and converters fill with names, dates and numbers of patients."""


@dataclass(frozen=True)
class Volume:
    """An image on its own grid, with what is needed to write a result onto it.

    Attributes:
        path: The file.
        data: float32 ``[C, i, j, k]`` in the file's units, slope and intercept applied; C counts the volumes of a 4D
            image.
        affine: Voxel to world, mm, ``[4, 4]``.
        stored: The array as it stands in the file, ``[i, j, k]`` or ``[i, j, k, C, …]``.
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
    def axes(self) -> str:
        """Where each axis points, e.g. ``"LAS"``."""
        return "".join(nibabel.aff2axcodes(self.affine))


def read_volume(path: Path) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, ``.nii`` or ``.nii.gz``.

    Raises:
        DataError: The file is missing, unreadable, no NIfTI, truncated, larger than it can be, of a kind that no MRI
            has (RGB, complex), without a usable affine, or holds NaN or infinite voxels.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a .nii.gz file.")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path.name} is not .nii or .nii.gz; convert it first (DICOM: dcm2niix; .mgz: mri_convert).")
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            header = _read_header(file, path)
            shape, dtype = _check_header(header, path)
            stored = _read_array(file, header, shape, dtype, path)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is not a whole gzip file: {error}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None

    slope, intercept = _scaling(header, path)
    data = _scaled(stored, slope, intercept)
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise DataError(f"{path.name} holds {bad} voxels that are NaN, infinite or beyond float32; clean it first.")
    frames = data.reshape(*shape[:3], -1)
    affine = _affine(header, path)
    return Volume(path, np.moveaxis(frames, 3, 0), affine, stored, slope, intercept, header)


def _scaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
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


def _check_header(header: nibabel.Nifti1Header, path: Path) -> tuple[tuple[int, ...], np.dtype]:
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
    possible = there * _GZIP_RATIO if path.name.endswith(".gz") else there
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
        # In pieces: memory grows with what is really there, not with what the header claims.
        piece = file.read(min(_CHUNK, needed - len(content)))
        if not piece:
            raise DataError(f"{path.name} is truncated: {len(content):,} of {needed:,} bytes of voxels are there.")
        content += piece
    file.read(_CHUNK)  # on to the end of a gzip file, where its checksum is compared
    return np.frombuffer(content, dtype).reshape(shape, order="F")


def _scaling(header: nibabel.Nifti1Header, path: Path) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0  # the format's way to say that nothing is scaled
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(f"{path.name} has a damaged header: scl_slope {slope:g}, scl_inter {intercept:g}.")
    return slope, intercept


def _affine(header: nibabel.Nifti1Header, path: Path) -> np.ndarray:
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise DataError(f"{path.name} has a damaged header: no affine ({error}).") from None
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{path.name} has a damaged header: its affine is not finite and invertible.")
    return affine


def read_mask(path: Path, like: Volume) -> np.ndarray:
    """Read a mask, true where a voxel is above 0.5.

    Args:
        path: NIfTI of one volume.
        like: Image whose grid it must have.

    Returns:
        bool ``[i, j, k]``.

    Raises:
        DataError: As `read_volume`, or the grids differ; the message shows both.
    """
    mask = read_volume(path)
    if len(mask.data) != 1:
        raise DataError(f"{path.name} has {len(mask.data)} volumes; a mask has one.")
    if mask.shape != like.shape or np.abs(mask.affine - like.affine).max() > 1e-2:
        raise DataError(
            f"{path.name} and {like.path.name} lie on different grids: {_describe(mask)} and {_describe(like)}. "
            "Resample the mask onto the image (nearest neighbour) first."
        )
    return mask.data[0] > 0.5


def _describe(volume: Volume) -> str:
    size = "×".join(str(side) for side in volume.shape)
    spacing = "×".join(f"{side:.3g}" for side in volume.spacing_mm)
    origin = ", ".join(f"{value:.4g}" for value in volume.affine[:3, 3])
    return f"{size} voxels of {spacing} mm, {volume.axes}, origin ({origin})"


def write_filled(path: Path, volume: Volume, values: np.ndarray, mask: np.ndarray) -> None:
    """Write an image with new values inside a mask; all other voxels keep their stored bits.

    The header is the input's: dimensions, qform, sform, type, scaling, byte order. Free text in it and header
    extensions are left out, since they can name the patient.

    Args:
        path: ``.nii.gz`` or ``.nii``.
        volume: The input.
        values: ``[C, i, j, k]`` in the input's units; integers are rounded and clipped to the type's range.
        mask: bool ``[i, j, k]``.

    Raises:
        DataError: ``path`` is the input itself, or a new value is NaN or infinite.
        ArtifactError: The disk is full or the folder cannot be written; nothing is left behind then.
    """
    if path.resolve() == volume.path.resolve():
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
    size = int(header["sizeof_hdr"])
    header["vox_offset"] = size + 4
    with replacing(path) as temporary, temporary.open("wb") as plain:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=plain, mode="wb", compresslevel=6, mtime=0) as packed:
                _write(packed, header, stored)
        else:
            _write(plain, header, stored)


def write_map(path: Path, volume: Volume, values: np.ndarray) -> None:
    """Write ``values`` ``[C, i, j, k]`` as float32 on the grid of ``volume``, with nothing else of its header.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written; nothing is left behind then.
    """
    data = values[0] if len(values) == 1 else np.moveaxis(values, 0, 3)
    image = nibabel.Nifti1Image(data.astype(np.float32), volume.affine)
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


def count_changes(before: Volume, after: Volume, mask: np.ndarray) -> tuple[int, int]:
    """Return how many stored values differ inside and outside a mask, bit for bit."""
    bits = f"u{before.stored.dtype.itemsize}"
    first, second = (np.ascontiguousarray(volume.stored).view(bits) for volume in (before, after))
    differs = (first != second).reshape(*before.shape, -1)
    inside = int(differs[mask].sum())
    return inside, int(differs.sum()) - inside
