"""What a method brings to its training: examples, trainers and makers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from zoo.imaging.cache import PackedCohort
    from zoo.randomness import Randomness
    from zoo.training.made import Made

Batch = Mapping[str, "Tensor"]
"""A batch of examples: tensors by name, ``[B, …]``."""


class Examples(Protocol):
    """What a training step reads, one example at a time.

    The examples of a `Stage` are made with a third argument, ``made: Mapping[str, Made]``: what earlier stages made.
    They may have an attribute ``unfit``: why no model can be trained on them, empty where one can. Validation does not
    ask.
    """

    def __init__(self, config: Any, cohort: PackedCohort) -> None: ...

    def __len__(self) -> int:
        """Return how many examples make one pass over the data."""

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return example ``index``; everything random about it is drawn from ``rng``."""


class Trainer(Protocol):
    """What a method does with a batch.

    ``fabric`` sets up modules and optimisers (``fabric.setup``) and runs ``fabric.backward``; the trainer keeps
    the bare modules for its state. In a stage ``config.training`` is the stage's, ``model`` is the whole model, frozen
    except for `Stage.module`, and `ema` is an average of that module.
    """

    ema: nn.Module
    """The model that is saved: an exponential moving average of the trained one, or the trained one itself."""

    def __init__(self, config: Any, model: nn.Module, fabric: Fabric) -> None: ...

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Do one optimisation step on this process' share of the batch and return losses to log."""

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Return scores of the averaged model by name, one of the whole batch or one per image, ``[]`` or ``[B]``.

        The first score, lower is better, decides which checkpoint is the best; one that is not finite never does.
        The mapping is empty where nothing can be measured. It is called once before the first step, with two images.
        """

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        """Return pictures for the sample sheet, ``[rows, columns, H, W]`` in [-1, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on: tensors, numbers, text, lists and dictionaries of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Maker(Protocol):
    """Makes what later stages read, with the model that a stage trained.

    The host batches the indices, stores the results memory-mapped and resumes a maker that was stopped.
    """

    def __init__(self, config: Any, model: nn.Module, cohort: PackedCohort, made: Mapping[str, Made]) -> None:
        """Take the model, in evaluation mode on the training's device, and all training and validation subjects."""

    def __len__(self) -> int:
        """Return how many items are made; the same for every model of the stage."""

    def subject(self, index: int) -> str | None:
        """Return whose item ``index`` is.

        A training subject's is made by the model of the fold that left it out, where the stage has folds. ``None`` is
        made by the model of all training subjects.
        """

    def make(self, indices: Sequence[int], random: Randomness) -> dict[str, Tensor]:
        """Return the items ``indices`` by name, ``[B, ...]``; ``random`` has one generator per item."""
