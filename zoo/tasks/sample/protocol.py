"""The verb ``sample``: its signature and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config

if TYPE_CHECKING:
    from torch import Tensor
from zoo.descriptors import Parts


class SampleOptions(Config):
    """Options of every sampler; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides all samples; sample k depends on it and on k alone")
    batch_size: int = Field(16, ge=1, description="Samples a network call; changes only rounding")


@dataclass(frozen=True)
class Samples:
    """Generated images.

    Attributes:
        images: float32 ``[N, C, i, j]`` or ``[N, C, i, j, k]`` on the CPU in [-1, 1], RAS, one channel a contrast.
        spacing_mm: Voxel size along (i, j, k), of slices their thickness; ``None`` where it is not known.
    """

    images: Tensor
    spacing_mm: tuple[float, float, float] | None


class SampleTask(Protocol):
    """The verb ``sample``: generate images from nothing."""

    def __call__(self, parts: Parts, config: Any, seeds: Sequence[int], options: Any) -> Samples:
        """Return one image a seed.

        Args:
            parts: The method's parts as callables.
            config: The settings the model was trained with.
            seeds: One a sample, all for one network call; a sample depends on its own alone.
            options: The method's options.
        """
