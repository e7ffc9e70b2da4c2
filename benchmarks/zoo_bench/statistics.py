"""Statistics of latencies; each needs a minimum number of calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.errors import DataError

ENOUGH = {50: 1, 90: 20, 95: 100, 99: 1000}
"""Calls that a percentile takes: above p90 about ten lie beyond it, above p90 of twenty calls two."""

RESAMPLES = 1000


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile of ``values``, or ``None`` where there are fewer than it needs (`ENOUGH`)."""
    return float(np.percentile(values, percent)) if len(values) >= ENOUGH[percent] else None


def median_interval(rounds: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the median of all calls; ``None`` for a single call.

    Rounds are drawn with replacement, and then calls within each: a machine that is slower for a minute slows a whole
    round, so calls of one round say less than their number. A single round is resampled by its calls alone, and
    knows nothing of such drift.

    Args:
        rounds: Latencies of each round.
        seed: Of the resampling.

    Raises:
        DataError: There are no calls.

    Source: Davison and Hinkley 1997, section 3.8 (two-stage bootstrap); percentile interval.
    """
    kept = [np.asarray(values, float) for values in rounds if len(values)]
    if not kept:
        raise DataError("An interval of no latencies was asked for.")
    if sum(map(len, kept)) == 1:
        return None
    sizes = np.array([len(values) for values in kept])
    table = np.full((len(kept), sizes.max()), np.nan)
    for row, values in zip(table, kept, strict=True):
        row[: len(values)] = values
    rng = np.random.default_rng(seed)
    rounds_drawn = rng.integers(len(kept), size=(RESAMPLES, len(kept), 1))
    limits = sizes[rounds_drawn]
    calls_drawn = (rng.random((RESAMPLES, len(kept), sizes.max())) * limits).astype(int)
    drawn = np.where(np.arange(sizes.max()) < limits, table[rounds_drawn, calls_drawn], np.nan)
    low, high = np.percentile(np.nanmedian(drawn.reshape(RESAMPLES, -1), axis=1), (2.5, 97.5))
    return float(low), float(high)
