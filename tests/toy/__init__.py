"""A method of three stages, for tests only: two trainings and a fit, with folds and a maker.

A small autoencoder fills a square hole; it is trained in two folds, and its errors on subjects it has not seen are made
for later stages. Principal components of the errors are fitted, and a corrector learns to predict the errors.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from zoo.registry import registry

NAME = "toy-filling"


@contextmanager
def registered() -> Iterator[None]:
    """Have the toy among the registered plugins inside the block, here and in child processes."""
    before = os.environ.get("ZOO_PLUGINS")
    os.environ["ZOO_PLUGINS"] = "tests.toy.plugin"
    registry.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("ZOO_PLUGINS")
        if before is not None:
            os.environ["ZOO_PLUGINS"] = before
        registry.cache_clear()


def kill_at(event: int, folder: str) -> list[int]:
    """Kill this process at its n-th file operation below ``folder``; the count so far is returned in a list."""
    count = [0]
    # Where a run stands is what its files say, so these are all the moments that differ.
    watched = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree")

    def note(name: str, arguments: tuple[object, ...]) -> None:
        if name in watched and any(isinstance(path, str | os.PathLike) and folder in str(path) for path in arguments):
            count[0] += 1
            if count[0] == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    return count
