"""How far an edit may go: the range of alpha in which edited images stay within the range of real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.errors import DataError
from zoo.metrics.statistics import mean_interval

TOLERATED = 0.05
"""Largest increase, from alpha 0, of the share of images outside the envelope, which holds 95 % of the real ones."""

LIMIT_STEPS = 40
"""Steps to each side after which the search ends."""

BPF = "parenchymal fraction"
BPF_SLOPE = "slope of the parenchymal fraction"


@dataclass(frozen=True)
class Criterion:
    """A measured value, and the limits that real images set to it.

    Attributes:
        name: Reported when this criterion ends the search.
        low, high: 95 % of the real images lie between; ``None`` for a side without limit.
        measure: Edited images ``[S, C, *spatial]`` to one value per image, ``[S]``.
    """

    name: str
    low: float | None
    high: float | None
    measure: Callable[[np.ndarray], np.ndarray]

    def outside(self, values: np.ndarray) -> float:
        """Return the share of values outside; NaN counts as outside."""
        inside = np.isfinite(values)
        if self.low is not None:
            inside &= values >= self.low
        if self.high is not None:
            inside &= values <= self.high
        return 1 - float(inside.mean())


@dataclass(frozen=True)
class AlphaRange:
    """Where edited images stay inside the envelope of the real ones.

    Attributes:
        low, high: The last alphas inside.
        low_ended_by, high_ended_by: The criterion that the next step failed, or that the search ended there.
        step: Of the search.
        outside: Share of images outside at alpha 0, by criterion: the effect of projecting alone.
    """

    low: float
    high: float
    low_ended_by: str
    high_ended_by: str
    step: float
    outside: Mapping[str, float]


def find_alpha_range(
    edit: Callable[[float], np.ndarray], criteria: Sequence[Criterion], step: float, *, slope_of: str = BPF
) -> AlphaRange:
    """Walk from alpha 0 to both sides until a criterion ends the walk.

    A criterion ends the walk when the share of images outside exceeds that at alpha 0 by `TOLERATED` or more. The slope
    of one criterion's value ends it when its sign reverses: when the mean change from one step to the next has an
    interval over images that excludes 0, with the sign opposite to the first such change.

    Args:
        edit: alpha to images ``[S, C, *spatial]``, one per subject.
        criteria: What is measured.
        step: Of alpha, above 0.
        slope_of: Name of the criterion whose slope is watched.
    """
    start = edit(0.0)
    values = {criterion.name: criterion.measure(start) for criterion in criteria}
    outside = {criterion.name: criterion.outside(values[criterion.name]) for criterion in criteria}
    ends = []
    for sign in (-1, 1):
        before, turn, inside, reason = values.get(slope_of), 0.0, 0.0, f"the search's limit of {LIMIT_STEPS} steps"
        for number in range(1, LIMIT_STEPS + 1):
            alpha = sign * number * step
            images, failed = edit(alpha), ""
            for criterion in criteria:
                now = criterion.measure(images)
                if criterion.outside(now) - outside[criterion.name] >= TOLERATED:
                    failed = failed or criterion.name
                if criterion.name == slope_of and before is not None:
                    slope = _sure_sign(now - before)
                    if turn and slope == -turn:
                        failed = failed or BPF_SLOPE
                    turn, before = turn or slope, now
            if failed:
                reason = failed
                break
            inside = alpha
        ends.append((inside, reason))
    (low, low_reason), (high, high_reason) = ends
    return AlphaRange(low, high, low_reason, high_reason, step, outside)


def _sure_sign(changes: np.ndarray) -> float:
    """Return the sign of the mean change, 0 if its interval contains 0 or there are too few values for one."""
    known = changes[np.isfinite(changes)]
    interval = mean_interval(known.tolist()) if len(known) else None
    if interval is None or interval.low is None or interval.high is None:
        return 0.0
    return float((interval.low > 0) - (interval.high < 0))


def alphas_within(found: AlphaRange, count: int) -> list[float]:
    """Return alphas over the range, 0 among them, ``count`` on each side that has a range.

    Raises:
        DataError: Not even the first step to either side is inside.
    """
    if found.low == found.high:
        raise DataError(
            f"No edit of {found.step:g} or more stays inside the real images' envelope: ended by {found.low_ended_by} "
            f"below 0 and by {found.high_ended_by} above. Name alphas yourself: --alpha -10,0,10."
        )
    sides = [np.linspace(end, 0, count + 1)[:-1] for end in (found.low, found.high) if end]
    return sorted({0.0, *(round(float(alpha), 6) for side in sides for alpha in side)})
