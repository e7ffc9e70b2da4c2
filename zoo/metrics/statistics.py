"""Means over subjects, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from zoo.errors import DataError


@dataclass(frozen=True)
class Interval:
    """A mean and how well it is known.

    Attributes:
        mean: Of the values.
        low, high: Interval of the mean, ``None`` for a single value.
        n: Number of values.
        sd: Sample standard deviation, ``None`` for a single value.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    sd: float | None


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean with Student's interval.

    Args:
        values: One a subject.
        confidence: In (0, 1).

    Raises:
        DataError: There are no values.
    """
    if not len(values):
        raise DataError("A mean of no values was asked for.")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, None, None, 1, None)
    sd = float(np.std(values, ddof=1))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * sd / len(values) ** 0.5
    return Interval(mean, mean - reach, mean + reach, len(values), sd)
