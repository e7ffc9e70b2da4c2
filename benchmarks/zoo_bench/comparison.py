"""Two runs of a benchmark: what became slower by more than its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from zoo.errors import DataError
from zoo_bench.records import Record

MARGIN = 0.05
"""Share by which a median must change to count, however narrow the intervals: runs a day apart differ by as much."""


@dataclass(frozen=True)
class Change:
    """One row, before and now.

    Attributes:
        row: Its model, work, backend, precision and batch.
        verdict: ``"slower"`` or ``"faster"`` where the intervals of the medians do not meet and the medians differ by
            more than `MARGIN`; ``"same"`` otherwise; ``"lost"`` where it was measured before only, ``"new"`` likewise.
        old_ms, new_ms: Medians.
        ratio: New by old.
    """

    row: str
    verdict: Literal["slower", "faster", "same", "lost", "new"]
    old_ms: float | None = None
    new_ms: float | None = None
    ratio: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the change as plain JSON data."""
        return asdict(self)


def compare(old: Sequence[Record], new: Sequence[Record]) -> list[Change]:
    """Compare the rows that both have measured.

    Raises:
        DataError: They were measured on different machines, or have no row in common.
    """
    before, now = (_measured(records) for records in (old, new))
    if not before.keys() & now.keys():
        raise DataError("The two have no measured row in common, so nothing can be compared; run the same command.")
    machines = {_machine(record) for key in before.keys() & now.keys() for record in (before[key], now[key])}
    if len(machines) > 1:
        raise DataError(f"The two come from different machines: {'; '.join(sorted(machines))}. Measure both on one.")
    return [_change(before.get(key), now.get(key)) for key in dict.fromkeys((*before, *now))]


def _measured(records: Sequence[Record]) -> dict[tuple[Any, ...], Record]:
    """Return the measured rows by key; of a row that was measured in several groups the first."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if record.latency_ms:
            found.setdefault(record.key, record)
    return found


def _machine(record: Record) -> str:
    gpu = record.environment.get("gpu") if record.device.startswith("cuda") else None
    return gpu["name"] if gpu else str(record.environment.get("cpu", {}).get("model"))


def _change(old: Record | None, new: Record | None) -> Change:
    shown = new or old
    assert shown
    row = f"{shown.what}, batch {shown.work.batch}, on {shown.how} ({shown.device})"
    if old is None or new is None or old.latency_ms is None or new.latency_ms is None:
        return Change(row, "new" if old is None else "lost")
    was, now = old.latency_ms, new.latency_ms
    ratio = now.median / was.median
    apart = bool(was.median_ci95 and now.median_ci95) and (
        now.median_ci95[0] > was.median_ci95[1] or now.median_ci95[1] < was.median_ci95[0]  # type: ignore[index]
    )
    verdict: Literal["slower", "faster", "same"] = "same"
    if apart and ratio > 1 + MARGIN:
        verdict = "slower"
    elif apart and ratio < 1 - MARGIN:
        verdict = "faster"
    return Change(row, verdict, was.median, now.median, ratio)
