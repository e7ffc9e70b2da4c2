"""The verb ``sample``: its signature and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config
from zoo.descriptors import Parts

if TYPE_CHECKING:
    from zoo.tasks.images import Samples


class SampleOptions(Config):
    """Options of every sampler; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides all samples; sample k depends on it and on k alone")
    batch_size: int = Field(16, ge=1, description="Samples per network call; changes only rounding")


class SampleTask(Protocol):
    """The verb ``sample``: generate images from nothing."""

    def __call__(self, parts: Parts, config: Any, seeds: Sequence[int], options: Any) -> Samples:
        """Return one image per seed.

        Args:
            parts: The method's parts as callables.
            config: The settings the model was trained with.
            seeds: One per sample, all for one network call; a sample depends on its own seed alone.
            options: The method's options.
        """
