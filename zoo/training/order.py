"""The order of examples: image n is decided by the seed and n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from zoo.randomness import EXAMPLE, ORDER, seed_for
from zoo.training.protocol import Examples


class Positions(Dataset[dict[str, Any]]):
    """Examples by their position in the endless, shuffled sequence of the run."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples = examples
        self.seed = seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, place = divmod(position, len(self.examples))
        index = int(_order(self.seed, epoch, len(self.examples))[place])
        rng = np.random.default_rng(seed_for(self.seed, EXAMPLE, position))
        return {**self.examples.example(index, rng), "position": position}


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    key = (seed, epoch, count)
    if key not in _orders:
        _orders.clear()  # one pass at a time is read
        _orders[key] = np.random.default_rng(seed_for(seed, ORDER, epoch)).permutation(count)
    return _orders[key]


class Steps(Sampler[list[int]]):
    """Positions of each step of this process, from ``start`` on."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int, world: int) -> None:
        self.steps = range(start, stop, batch_size)
        self.share = batch_size // world
        self.rank = rank

    def __iter__(self) -> Iterator[list[int]]:
        for first in self.steps:
            mine = first + self.rank * self.share
            yield list(range(mine, mine + self.share))

    def __len__(self) -> int:
        return len(self.steps)
