"""Intensities: from an image's units to [-1, 1], and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from zoo.config import DataConfig, parse_derived
from zoo.errors import DataError
from zoo.imaging.head import find_head

_NEGATIVE = 0.05
"""Share of the voxels other than 0 that may lie clearly below zero; interpolation leaves a few."""

_BRIGHTEST = 97
"""Percentile of the head's core that stands for its brightest tissue: white matter in T1w, fluid in T2w."""

_HEADROOM = 1.06
"""Value that becomes +1, in units of the brightest tissue: above the spread of white matter, to clamp little."""


@dataclass(frozen=True)
class Intensity:
    """A linear map of an image's units to [-1, 1], with its constants kept to undo it.

    Attributes:
        floor: Lower values count as this one, where values are clamped.
        high: Value that becomes +1.
        low: Value that becomes -1.
        clamped: Whether values outside [floor, high] are clamped. Targets are not.
    """

    floor: float
    high: float
    low: float = 0.0
    clamped: bool = True

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Map units to [-1, 1], float32, any shape."""
        scale = 2 / (self.high - self.low)
        scaled = (values - self.low) * scale - 1
        if self.clamped:
            # Clipped last: in float32 the brightest voxel can come out one rounding above 1.
            scaled = np.clip(scaled, (self.floor - self.low) * scale - 1, 1)
        return scaled.astype(np.float32)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Map [-1, 1] back to units, float32; undoes `encode` where nothing was clamped."""
        return ((np.asarray(values, np.float64) + 1) * ((self.high - self.low) / 2) + self.low).astype(np.float32)

    def to_json(self) -> dict[str, float]:
        """Return the constants as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, constants: dict[str, Any]) -> Intensity:
        """Read what `to_json` returned."""
        return cls(**constants)


def scale_intensity(
    channel: str, images: Mapping[str, np.ndarray], spacing_mm: Sequence[float], config: DataConfig
) -> tuple[np.ndarray, Intensity]:
    """Compose a channel and find how its values map to [-1, 1], by the channel's scale in ``config``.

    A fixed range maps its ends to -1 and +1, and the noise floor does not apply. A signed scale maps 0 to 0 and
    its constant to +1. ``like`` takes the constant of another channel of the same subject. Targets are not clamped.

    Args:
        channel: Name of a contrast, a target, or an image that ``derived`` names.
        images: Values by name, ``[i, j, k]``, in the images' units; all that the channel and its ``like`` need.
        spacing_mm: Voxel size along (i, j, k).
        config: Scales, derived channels and the scaling per image.

    Returns:
        The channel's values in its unit, float32 ``[i, j, k]``, and its map to [-1, 1].

    Raises:
        DataError: As in `fit_intensity`, for a scale without a range.
    """
    values, scale = compose(channel, images, config), config.scale_of(channel)
    clamped = channel not in config.targets
    if scale.range is not None:
        low, high = scale.range
        return values, Intensity(low, high, low, clamped)
    if scale.like is not None:
        constants = scale_intensity(scale.like, images, spacing_mm, config)[1]
    else:
        fitted = np.abs(values) if scale.signed else values
        floor = 0.0 if scale.signed else config.noise_floor
        constants = fit_intensity(fitted, spacing_mm, config.scaling, config.percentile, floor)
    if scale.signed:
        return values, Intensity(-constants.high, constants.high, -constants.high, clamped)
    return values, replace(constants, clamped=clamped)


def output_intensity(
    channel: str, config: DataConfig, given: Mapping[str, Intensity] | None = None
) -> tuple[Intensity, str]:
    """Return how generated values of a channel are written, and their unit.

    A channel with a fixed range comes back in its unit, and a channel ``like`` one of ``given`` in the units of that
    image. Any other channel has no unit of its own: its values become 0 to 1, or -1 to 1 where its scale is signed.

    Args:
        channel: Name of a contrast or a target.
        config: Scales.
        given: How the contrasts of the subject at hand were scaled, where there are any.
    """
    scale = config.scale_of(channel)
    source = config.scale_of(scale.like) if scale.like else scale
    if given and scale.like and scale.like in given and source.range is None:
        high = given[scale.like].high
        low = -high if scale.signed else given[scale.like].low
        return Intensity(low, high, low), f"as in {scale.like}"
    low, high = source.range or (0.0, 1.0)
    if scale.signed:
        low = -high
    named = (scale.unit or source.unit) if source.range else ""
    return Intensity(low, high, low), named or f"arbitrary, {low:g} to {high:g}"


def compose(channel: str, images: Mapping[str, np.ndarray], config: DataConfig) -> np.ndarray:
    """Return a channel in the images' units, ``[i, j, k]``: an image, or a sum or difference of images."""
    if channel not in config.derived:
        return images[channel]
    total = np.zeros(())
    for sign, name in parse_derived(config.derived[channel]):
        total = total + sign * images[name].astype(np.float64)
    return total.astype(np.float32)


def fit_intensity(
    values: np.ndarray,
    spacing_mm: Sequence[float],
    scaling: Literal["head", "percentile", "max"] = "head",
    percentile: float = 99.5,
    noise_floor: float = 0.01,
) -> Intensity:
    """Find how the intensities of an image map to [-1, 1].

    Args:
        values: Scanner units, ``[i, j, k]``.
        spacing_mm: Voxel size along (i, j, k).
        scaling: ``"head"`` maps to +1 the value 6 % above the 97th percentile of the head's core (`find_head`), which
            contains only brain: the same with and without skull, air, neck and a few very bright voxels. White matter
            of a T1w becomes about 0.65. ``"percentile"`` maps a percentile of all voxels to +1, ``"max"`` the
            brightest voxel.
        percentile: Percentile of ``"percentile"``.
        noise_floor: Lower intensities count as this one.

    Raises:
        DataError: The image is empty, or has negative intensities, which magnitude images do not have.

    Source: Uhr 2024, section 3.3 "Preprocessing": floor 0.01, scaling by the maximum. Departure, the default: the
    brightest tissue of the brain instead of the brightest voxel, which is a vessel or the scalp's fat.
    """
    if scaling == "head":
        head = find_head(values, spacing_mm)
        high = _HEADROOM * float(np.percentile(head.voxels_of(values, head.core()), _BRIGHTEST))
        name = f"{_BRIGHTEST}th percentile in the middle of the head"
    elif scaling == "percentile":
        high, name = float(np.percentile(values, percentile)), f"{percentile}th percentile"
    else:
        high, name = float(values.max()), "maximum"
    if not high > noise_floor:
        hint = " A map of small values needs a range: data.scales.CHANNEL.range=LOW,HIGH." if high > 0 else ""
        raise DataError(f"The image is empty: its {name} is {high:g}.{hint}")
    # Among voxels that are not 0: zeros around a standardised head would hide its negative half.
    negative = np.count_nonzero(values < -0.01 * high) / np.count_nonzero(values)
    if negative > _NEGATIVE:
        raise DataError(
            f"{negative:.0%} of the voxels that are not 0 are negative, down to {values.min():g}; magnitude images "
            "start at 0. Give the image before it was standardised, or a signed map a scale for negative values: "
            "data.scales.CHANNEL.signed=true."
        )
    return Intensity(noise_floor, high)
