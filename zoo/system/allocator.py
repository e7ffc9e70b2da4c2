"""How the C library hands out memory, for commands that own their process."""

from __future__ import annotations

import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensor instead of giving it back to the system.

    glibc takes every large tensor from the system and gives it back, and the system clears its pages anew each time:
    on a CPU a fifth of a training step of small networks. Kept memory is given back when the process ends, so the
    process stays as large as it has been. Other C libraries are left as they are.
    """
    if sys.platform == "linux":
        import ctypes  # a tenth of what `zoo --help` takes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _MOST)
            mallopt(_TRIM_THRESHOLD, _MOST)
