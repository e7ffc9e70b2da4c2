"""The verb ``edit``: its signature and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config

if TYPE_CHECKING:
    from torch import Tensor
from zoo.descriptors import Parts
from zoo.tasks.sample.protocol import Samples


class EditOptions(Config):
    """Options of every editor; a method extends them."""

    batch_size: int = Field(16, ge=1, description="Images a network call; changes only rounding")


class EditTask(Protocol):
    """The verb ``edit``: make images of codes; walking and measuring are the host's (``zoo.tasks.edit.files``)."""

    def __call__(self, parts: Parts, config: Any, codes: Tensor, noise: Sequence[Tensor], options: Any) -> Samples:
        """Return one image a code, the same for the same code and noise.

        Args:
            parts: The method's parts as callables.
            config: The settings the model was trained with.
            codes: float32 ``[N, *code]``, as the method's projections hold them, moved along a direction.
            noise: The maps of the projections, each ``[N, 1, *spatial]``.
            options: The method's options.
        """
