"""What contract tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def no_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show no progress."""
    yield lambda done, total: None


def as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    """Return the outputs of a part as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference of two tensors, relative to the first one's largest value."""
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))
