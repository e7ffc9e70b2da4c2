"""Random numbers of a sample do not depend on its batch."""

from __future__ import annotations

import torch

from zoo.randomness import Randomness, seed_for


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together, alone = Randomness([3, 4, 5]), Randomness([4])
    assert torch.equal(together.normal((2, 2))[1], alone.normal((2, 2))[0])
    assert torch.equal(together.uniform()[1], alone.uniform()[0])
    assert torch.equal(together.integers(9)[1], alone.integers(9)[0])


def test_other_keys_give_other_seeds() -> None:
    assert len({seed_for(0, 1), seed_for(1, 0), seed_for(0, 1, 0), seed_for(0)}) == 4
