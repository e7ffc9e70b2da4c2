"""What is wrong with the images of a cohort, by their headers or by all their voxels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from zoo.config import DataConfig
from zoo.errors import DataError
from zoo.imaging.cohort import ROLES, Scan, lesion_table
from zoo.imaging.preprocessing import compose
from zoo.imaging.spaces import different_codes
from zoo.imaging.volume import Header, Volume, read_header, read_volume

_SAME_MM = 1e-2


@dataclass
class Findings:
    """What was found in one scan.

    Attributes:
        grid: Of its image, in words.
        problems: Why an image cannot be used, by contrast or role.
        out_of_range: How many values lie outside a channel's range, and what to set, by channel.
    """

    grid: str = ""
    problems: dict[str, str] = field(default_factory=dict)
    out_of_range: dict[str, str] = field(default_factory=dict)


def check_scan(scan: Scan, *, deep: bool, data: DataConfig | None = None) -> Findings:
    """Check the images of one scan.

    Args:
        scan: Any.
        deep: Decode every voxel, too.
        data: Settings of a method: its regions are checked, too, and its scales if ``deep``.
    """
    found = Findings()
    headers: dict[str, Header] = {}
    volumes: dict[str, Volume] = {}
    kept = {*(data.images if data else ()), "lesion-mask"}
    roles = (*ROLES, *(data.regions if data else ()))
    maps = {role: path for role, path in scan.maps.items() if role in roles}
    for name, path in {**scan.images, **maps}.items():
        try:
            headers[name] = read_header(path)
            if deep:
                volume = read_volume(path)
                if name in kept:
                    volumes[name] = volume
        except DataError as error:
            found.problems[name] = str(error)
    image = headers.get("T1w") or next((headers[name] for name in scan.images if name in headers), None)
    for role in maps:
        if image is not None and role in headers and role not in found.problems:
            problem = _apart(image, headers[role])
            if problem:
                found.problems[role] = problem
    if "lesion-mask" in scan.maps and "lesion-mask" not in found.problems:
        problem = _unnumbered(scan, volumes.get("lesion-mask"))
        if problem:
            found.problems["lesion-mask"] = problem
    if data and deep:
        found.out_of_range = _out_of_range({name: volume.data for name, volume in volumes.items()}, data)
    grid = image or next(iter(headers.values()), None)
    found.grid = str(grid) if grid else ""
    return found


def _apart(image: Header, mask: Header) -> str | None:
    """Return why a mask does not lie on its image."""
    if mask.shape != image.shape or np.abs(mask.affine - image.affine).max() > _SAME_MM:
        return f"{mask.path.name} lies on another grid ({mask}) than the image ({image})"
    return different_codes(image, mask)


def _unnumbered(scan: Scan, mask: Volume | None) -> str | None:
    """Return what is wrong with the table beside a lesion mask."""
    try:
        labels = lesion_table(scan.maps["lesion-mask"])
    except DataError as error:
        return str(error)
    absent = sorted(set(labels) - set(np.unique(mask.data.round()).astype(int).tolist())) if mask else []
    if not absent:
        return None
    return (
        f"{scan.maps['lesion-mask'].name} has no voxel of value {absent[0]}, but its table has that index; number the "
        "lesions in the mask, or correct the table"
    )


def _out_of_range(values: dict[str, np.ndarray], data: DataConfig) -> dict[str, str]:
    """Return which channels have values outside the range of their scale."""
    found: dict[str, str] = {}
    for channel in (*data.contrasts, *data.targets):
        scale = data.scale_of(channel)
        images = [values[name] for name in data.images_of([channel]) if name in values]
        same = len({image.shape for image in images}) == 1
        if scale.range is None or len(images) != len(data.images_of([channel])) or not same:
            continue
        channel_values = compose(channel, values, data)
        low, high = scale.range
        outside = np.count_nonzero((channel_values < low) | (channel_values > high)) / channel_values.size
        if outside:
            least, greatest = float(channel_values.min()), float(channel_values.max())
            unit = f" {scale.unit}" if scale.unit else ""
            clamped = "are not clamped" if channel in data.targets else "are clamped"
            found[channel] = (
                f"{outside:.2%} of the voxels lie outside {low:g} to {high:g}{unit} and {clamped}; the image has "
                f"{least:g} to {greatest:g}. To widen the range: --set data.scales.{channel}.range={min(low, least):g},"
                f"{max(high, greatest):g}"
            )
    return found
