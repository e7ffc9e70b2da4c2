"""What is wrong with the images of a cohort, by their headers or by all their voxels."""

from __future__ import annotations

import numpy as np

from zoo.errors import DataError
from zoo.imaging.cohort import ROLES, Scan
from zoo.imaging.spaces import different_codes
from zoo.imaging.volume import Header, read_header, read_volume

_SAME_MM = 1e-2


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
    image = headers.get("T1w") or next((headers[name] for name in scan.images if name in headers), None)
    for role in ROLES:
        if image is None or role not in headers or role in problems:
            continue
        mask = headers[role]
        if mask.shape != image.shape or np.abs(mask.affine - image.affine).max() > _SAME_MM:
            problems[role] = f"{scan.maps[role].name} lies on another grid ({mask}) than the image ({image})"
        elif apart := different_codes(image, mask):
            problems[role] = apart
    grid = image or next(iter(headers.values()), None)
    return str(grid) if grid else "", problems
