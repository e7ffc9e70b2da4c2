"""How long work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Makes a progress bar: called with what is done, it yields the function to report to."""
