"""Intensities: from scanner units to [-1, 1], and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from zoo.errors import DataError

_NEGATIVE = 0.05
"""Share of voxels that may lie clearly below zero; interpolation leaves a few."""


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
    scaling: Literal["percentile", "max"] = "percentile",
    percentile: float = 99.5,
    noise_floor: float = 0.01,
) -> Intensity:
    """Find how the intensities of an image map to [-1, 1].

    Args:
        values: Scanner units, any shape.
        scaling: ``"max"`` maps the brightest voxel to +1, ``"percentile"`` a percentile of all voxels.
        percentile: Which one.
        noise_floor: Lower intensities count as this one.

    Raises:
        DataError: The image is empty, or has negative intensities as a magnitude image never has.

    Source: Uhr 2024, section 3.3 "Preprocessing": floor 0.01, scaling by the maximum. Departure, the default: the
    99.5th percentile with a clamp, since a single bright vessel shifts the maximum.
    """
    high = float(values.max() if scaling == "max" else np.percentile(values, percentile))
    if not high > noise_floor:
        raise DataError(
            f"The image is empty: its {'maximum' if scaling == 'max' else f'{percentile}th percentile'} is {high:g}."
        )
    negative = float(np.mean(values < -0.01 * high))
    if negative > _NEGATIVE:
        raise DataError(
            f"{negative:.0%} of the voxels are negative, down to {values.min():g}; magnitude images start at 0. Give "
            "the image before it was standardised, or shift it."
        )
    return Intensity(noise_floor, high)
