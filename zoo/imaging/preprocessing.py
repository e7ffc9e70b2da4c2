"""Intensities: from scanner units to [-1, 1], and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from zoo.errors import DataError
from zoo.imaging.head import find_head

_NEGATIVE = 0.05
"""Share of the voxels other than 0 that may lie clearly below zero; interpolation leaves a few."""

_BRIGHTEST = 97
"""Percentile of the head's core that stands for its brightest tissue: white matter in T1w, fluid in T2w."""

_HEADROOM = 1.06
"""What becomes +1, in units of the brightest tissue: above the spread of white matter, so that little is clamped."""


@dataclass(frozen=True)
class Intensity:
    """A linear map of scanner units to [-1, 1], with its constants kept so that it can be undone.

    Attributes:
        floor: Lower intensities count as this one.
        high: What becomes +1; brighter voxels are clamped. 0 becomes -1.
    """

    floor: float
    high: float

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Map scanner units to [-1, 1], float32, any shape."""
        # Clipped last: in float32 the brightest voxel can come out one rounding above 1.
        scale = 2 / self.high
        return np.clip(values * scale - 1, self.floor * scale - 1, 1).astype(np.float32)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Map [-1, 1] back to scanner units, float32; undoes `encode` where nothing was clamped."""
        return ((np.asarray(values, np.float64) + 1) * (self.high / 2)).astype(np.float32)

    def to_json(self) -> dict[str, float]:
        """Return the constants as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, constants: dict[str, float]) -> Intensity:
        """Take over what `to_json` returned."""
        return cls(**constants)


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
        scaling: ``"head"`` maps to +1 what lies 6 % above the 97th percentile of the head's core (`find_head`), where
            there is brain alone: the same with and without skull, air, neck and a few very bright voxels. White matter
            of a T1w comes to about 0.65. ``"percentile"`` maps a percentile of all voxels to +1, ``"max"`` the
            brightest voxel.
        percentile: Which one; for ``"percentile"`` only.
        noise_floor: Lower intensities count as this one.

    Raises:
        DataError: The image is empty, or has negative intensities as a magnitude image never has.

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
        raise DataError(f"The image is empty: its {name} is {high:g}.")
    # Among voxels that are not 0: zeros around a standardised head would hide its negative half.
    negative = np.count_nonzero(values < -0.01 * high) / np.count_nonzero(values)
    if negative > _NEGATIVE:
        raise DataError(
            f"{negative:.0%} of the voxels that are not 0 are negative, down to {values.min():g}; magnitude images "
            "start at 0. Give the image before it was standardised, or shift it."
        )
    return Intensity(noise_floor, high)
