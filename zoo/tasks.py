"""What a user can ask of a trained model: one verb, one signature, one class of options.

A method's task works on tensors on the model's grid and calls parts; it knows no file, no backend and no scanner
units. The host (``zoo.filling``, ``zoo.samples``) reads, conforms and scales the images before, and afterwards writes
the result, where there was an input onto its native grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config

if TYPE_CHECKING:
    from torch import Tensor

Parts = Mapping[str, Callable[..., Any]]
Progress = Callable[[int, int], None]


class FillOptions(Config):
    """Options of every filler; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides the noise; the same seed gives the same image")


class FillTask(Protocol):
    """The verb ``fill``: replace lesions by healthy tissue."""

    def __call__(
        self,
        parts: Parts,
        config: Any,
        image: Tensor,
        lesion_mask: Tensor,
        options: Any,
        progress: Progress | None = None,
        *,
        white_matter: Tensor | None = None,
    ) -> Tensor:
        """Return the image with its lesions filled.

        Args:
            parts: The method's parts as callables.
            config: The settings the model was trained with.
            image: float32 ``[C, i, j, k]`` in [-1, 1], RAS, one channel a contrast.
            lesion_mask: bool ``[i, j, k]``, at least one voxel true.
            options: The method's options.
            progress: Called with (network calls done, network calls in all).
            white_matter: bool ``[i, j, k]`` where it is known, for methods that look at it.

        Returns:
            float32 ``[C, i, j, k]``; only voxels inside the mask are used.
        """


class SampleOptions(Config):
    """Options of every sampler; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides all samples; sample k depends on it and on k alone")
    batch_size: int = Field(16, ge=1, description="Samples a network call; changes only rounding")


class EditOptions(Config):
    """Options of every editor; a method extends them."""

    batch_size: int = Field(16, ge=1, description="Images a network call; changes only rounding")


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


class EditTask(Protocol):
    """The verb ``edit``: make images of codes; walking and measuring are the host's (``zoo.editing``)."""

    def __call__(self, parts: Parts, config: Any, codes: Tensor, noise: Sequence[Tensor], options: Any) -> Samples:
        """Return one image a code, the same for the same code and noise.

        Args:
            parts: The method's parts as callables.
            config: The settings the model was trained with.
            codes: float32 ``[N, *code]``, as the method's projections hold them, moved along a direction.
            noise: The maps of the projections, each ``[N, 1, *spatial]``.
            options: The method's options.
        """
