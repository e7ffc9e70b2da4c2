"""A task over a cohort: results in order, made once, and failures that stay with their scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from zoo.errors import ArtifactError, ConfigError, DataError, UnwritableError
from zoo.imaging.cohort import Scan
from zoo.runner.cohort import run_cohort

SCANS = tuple(Scan(f"sub-{number}", f"sub-{number}", {}, {}) for number in range(4))


@dataclass(frozen=True)
class _Write:
    """Writes the device of each scan to a file; fails on one scan."""

    folder: Path
    error: Exception | None = None

    def find(self, scan: Scan) -> str | None:
        file = self.folder / scan.id
        return file.read_text() if file.is_file() else None

    def run(self, scan: Scan, device: str) -> str:
        if self.error and scan.id == "sub-1":
            raise self.error
        (self.folder / scan.id).write_text(device)
        return device


@pytest.mark.parametrize("workers", [1, 2])
def test_scans_are_run_in_turn_on_the_devices_and_only_once(tmp_path: Path, workers: int) -> None:
    calls: list[tuple[int, int]] = []
    done = run_cohort(
        _Write(tmp_path), SCANS, devices=("a", "b"), workers=workers, progress=lambda *call: calls.append(call)
    )
    assert [(outcome.scan, outcome.status) for outcome in done] == [(scan.id, "done") for scan in SCANS]
    assert [outcome.result for outcome in done] == ["a", "b", "a", "b"]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    (tmp_path / "sub-2").unlink()
    again = run_cohort(_Write(tmp_path), SCANS, devices=("c",), workers=workers)
    assert [outcome.status for outcome in again] == ["there already", "there already", "done", "there already"]
    assert [outcome.result for outcome in again] == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (DataError("bad image"), "bad image"),
        (UnwritableError("no room"), "no room"),
        (MemoryError(), "not enough memory"),
        (ZeroDivisionError("odd"), "unexpected ZeroDivisionError: odd"),
    ],
)
def test_a_failure_stays_with_its_scan(tmp_path: Path, error: Exception, note: str) -> None:
    done = run_cohort(_Write(tmp_path, error), SCANS)
    assert [outcome.status for outcome in done] == ["done", "failed", "done", "done"]
    assert note in done[1].note
    assert done[1].result is None


@pytest.mark.parametrize("error", [ConfigError("no such option"), ArtifactError("damaged model")])
def test_an_error_that_every_scan_would_meet_is_raised(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        run_cohort(_Write(tmp_path, error), SCANS)
