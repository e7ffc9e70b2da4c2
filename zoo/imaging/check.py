"""What is wrong with the images of a cohort, by their headers or by all their voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError

from zoo.errors import DataError
from zoo.imaging.cohort import ROLES, Scan
from zoo.imaging.volume import read_volume

_VOXEL_MM = (0.05, 20.0)
_SAME_MM = 1e-2


@dataclass(frozen=True)
class Header:
    """What an image's header says.

    Attributes:
        shape: Voxels along (i, j, k).
        affine: Voxel to world, in the header's unit.
        unit: ``"mm"``, ``"meter"``, ``"micron"`` or ``"unknown"``.
        space: Code of the world coordinates: 1 scanner, 2 aligned, 3 Talairach, 4 MNI, 5 other template; 0 unknown.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    unit: str
    space: int

    def __str__(self) -> str:
        size = "×".join(f"{side}" for side in self.shape)
        spacing = "×".join(f"{side:.3g}" for side in voxel_sizes(self.affine))
        return f"{size} at {spacing} mm, {''.join(nibabel.aff2axcodes(self.affine))}"


def read_header(path: Path) -> Header:
    """Read the header of a NIfTI; no voxel is decoded.

    Raises:
        DataError: It cannot be read.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        image = nibabel.load(path)
        header, affine = image.header, np.asarray(image.affine, float)
        space = int(header["sform_code"]) or int(header["qform_code"])
        return Header(tuple(image.shape[:3]), affine, header.get_xyzt_units()[0], space)
    except (ImageFileError, OSError, EOFError, ValueError, KeyError) as error:
        read_volume(path)  # says in more words what is wrong
        raise DataError(f"{path.name} cannot be read: {error}.") from None


def check_scan(scan: Scan, *, deep: bool) -> tuple[str, dict[str, str]]:
    """Return the grid of a scan in words, and what is wrong with which of its images.

    Args:
        scan: Any.
        deep: Decode every voxel as well.
    """
    headers: dict[str, Header] = {}
    problems: dict[str, str] = {}
    for name, path in {**scan.images, **scan.maps}.items():
        try:
            headers[name] = read_header(path)
            if deep:
                read_volume(path)
        except DataError as error:
            problems[name] = str(error)
            continue
        sides = voxel_sizes(headers[name].affine)
        if headers[name].unit in ("meter", "micron"):
            problems[name] = f"{path.name} counts in {headers[name].unit}, not in mm"
        elif not _VOXEL_MM[0] <= sides.min() <= sides.max() <= _VOXEL_MM[1]:
            problems[name] = f"{path.name} has voxels of {' × '.join(f'{side:.3g}' for side in sides)} mm; is that so?"
    image = headers.get("T1w") or next((headers[name] for name in scan.images if name in headers), None)
    for role in ROLES:
        if image is None or role not in headers or role in problems:
            continue
        mask = headers[role]
        if mask.shape != image.shape or np.abs(mask.affine - image.affine).max() > _SAME_MM:
            problems[role] = f"{scan.maps[role].name} lies on another grid ({mask}) than the image ({image})"
        elif (mask.space in (3, 4)) != (image.space in (3, 4)) and mask.space and image.space:
            problems[role] = (
                f"{scan.maps[role].name} and its image tell different spaces (codes {mask.space}, {image.space})"
            )
    grid = image or next(iter(headers.values()), None)
    return str(grid) if grid else "", problems
