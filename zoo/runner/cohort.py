"""Running a task on every scan of a cohort, in one process or several; what fails on one scan stops no other."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch

from zoo.errors import (
    ArtifactError,
    ConfigError,
    MissingExtraError,
    UnknownNameError,
    UnwritableError,
    ZooError,
)
from zoo.imaging.cohort import Scan
from zoo.progress import Progress

Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


class ScanTask(Protocol[Made]):
    """What is done with one scan. It is pickled for worker processes, so it holds plain data, paths and names."""

    def find(self, scan: Scan) -> Made | None:
        """Return the result that is there already, whole and made in the same way; ``None`` where there is none."""

    def run(self, scan: Scan, device: str) -> Made:
        """Make the result and write it."""


@dataclass(frozen=True)
class ScanOutcome(Generic[Result]):
    """What became of one scan.

    Attributes:
        scan: Its id.
        status: ``"done"``; ``"there already"``: an earlier result was kept; ``"failed"``: ``note`` has the reason.
        result: What the task returned; ``None`` where it failed.
        seconds: Time it took.
        note: Why it failed.
    """

    scan: str
    status: Literal["done", "there already", "failed"]
    result: Result | None = None
    seconds: float = 0.0
    note: str = ""


def run_cohort(
    task: ScanTask[Result],
    scans: Sequence[Scan],
    *,
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    progress: Progress | None = None,
) -> list[ScanOutcome[Result]]:
    """Run a task on every scan.

    A scan whose result is there already is skipped. A scan that fails, for whatever reason, does not stop the others;
    an error that every scan would meet, such as an unknown option or a damaged model, is raised.

    Args:
        task: What is done with each scan.
        scans: Scans with different ids.
        devices: Scans take them in turn.
        workers: Processes; they share the CPU's cores.
        progress: Called with (scans done, scans in all).

    Returns:
        One outcome per scan, in their order.
    """
    jobs = [(scan, devices[number % len(devices)]) for number, scan in enumerate(scans)]
    outcomes: dict[str, ScanOutcome[Result]] = {}
    for outcome in _outcomes(task, jobs, workers):
        outcomes[outcome.scan] = outcome
        if progress:
            progress(len(outcomes), len(jobs))
    return [outcomes[scan.id] for scan in scans]


def _outcomes(task: ScanTask[Result], jobs: Sequence[tuple[Scan, str]], workers: int) -> Iterator[ScanOutcome[Result]]:
    """Yield the outcome of each job as it is done."""
    if workers == 1:
        for scan, device in jobs:
            yield _attempt(task, scan, device)
        return
    threads = max((os.cpu_count() or 1) // workers, 1)
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        scans = {pool.submit(_attempt, task, scan, device): scan for scan, device in jobs}
        for future in as_completed(scans):
            try:
                yield future.result()
            except BrokenProcessPool:
                note = "a worker process was killed, perhaps for want of memory; run again with fewer --workers"
                yield ScanOutcome(scans[future].id, "failed", note=note)


def _attempt(task: ScanTask[Result], scan: Scan, device: str) -> ScanOutcome[Result]:
    """Run the task on one scan, and return any failure of this scan alone as its outcome."""
    began = time.monotonic()
    try:
        earlier = task.find(scan)
        if earlier is not None:
            return ScanOutcome(scan.id, "there already", earlier)
        result = task.run(scan, device)
    except (ConfigError, UnknownNameError, MissingExtraError):
        raise  # every scan would fail
    except ArtifactError as error:
        if not isinstance(error, UnwritableError):
            raise
        return ScanOutcome(scan.id, "failed", note=str(error))
    except (ZooError, OSError) as error:
        return ScanOutcome(scan.id, "failed", note=str(error))
    except MemoryError:
        return ScanOutcome(scan.id, "failed", note="not enough memory for this image")
    except Exception as error:  # one scan with an unforeseen problem must not cost the others their results
        return ScanOutcome(scan.id, "failed", note=f"unexpected {type(error).__name__}: {error}")
    return ScanOutcome(scan.id, "done", result, time.monotonic() - began)
