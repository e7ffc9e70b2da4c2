"""What a method brings to its training: examples and a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from zoo.imaging.cache import PackedCohort
    from zoo.randomness import Randomness

Batch = Mapping[str, "Tensor"]
"""A batch of examples: tensors by name, ``[B, …]``."""


class Examples(Protocol):
    """What a training step reads, one example at a time."""

    def __init__(self, config: Any, cohort: PackedCohort) -> None: ...

    def __len__(self) -> int:
        """Return how many examples make one pass over the data."""

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``; whatever is random about it is drawn from ``rng``."""


class Trainer(Protocol):
    """What a method does with a batch.

    ``fabric`` sets up modules and optimisers (``fabric.setup``) and runs ``fabric.backward``; the trainer keeps
    the bare modules for its state.
    """

    average: nn.Module
    """The model that is saved."""

    def __init__(self, config: Any, model: nn.Module, fabric: Fabric) -> None: ...

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Do one optimisation step on this process' share of the batch and return losses to log."""

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Return scores of the averaged model by name, each of the whole batch or one an image, ``[]`` or ``[B]``.

        The first, lower is better, decides which checkpoint is the best. Nothing is returned where nothing can be
        measured.
        """

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        """Return pictures for the sample sheet, ``[rows, columns, H, W]`` in [-1, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on: tensors, numbers, text, lists and dictionaries of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
