"""Seeds and random numbers: one generator per sample, so that a sample never depends on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ORDER, EXAMPLE, STEP, VALIDATION, PREVIEW, INITIAL, GOLDEN, STAGE, MAKE, FIT, FOLD = range(11)
"""What a seed is for; the first key of `seed_for` after the run's seed."""


def seed_for(*keys: int) -> int:
    """Mix whole numbers (seed, position, purpose …) into one 63-bit seed; other keys give an unrelated seed."""
    # numpy ignores trailing zeros; the number of keys keeps (1,) and (1, 0) apart.
    return int(np.random.SeedSequence((len(keys), *keys)).generate_state(1, np.uint64)[0] >> 1)


class Randomness:
    """Random numbers for a batch, each sample from its own generator.

    So sample 17 gets the same noise alone, in a batch of 64, on another device, and on another process. Numbers
    are drawn as float32 on the CPU and moved.

    Args:
        seeds: One per sample.
        device: Where the numbers are wanted.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, float32 ``[B, *shape]``."""
        drawn = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)

    def uniform(self, shape: Sequence[int] = ()) -> Tensor:
        """Return numbers in [0, 1), float32 ``[B, *shape]``."""
        drawn = [torch.rand(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Return whole numbers in [0, ``high``), int64 ``[B, *shape]``."""
        drawn = [torch.randint(high, tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)
