"""The verb ``project``: its signature and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config

if TYPE_CHECKING:
    from torch import Tensor, nn


Distance = Callable[["Tensor"], Callable[["Tensor"], "Tensor"]]
"""Takes targets ``[B, C, *size]`` and returns the function that measures how far such images are from them, ``[B]``."""


class ProjectOptions(Config):
    """Options of every projector; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides the start and, with the image, the noise added during optimisation")
    batch_size: int = Field(8, ge=1, description="Images at once; changes only rounding")
    iterations: int = Field(3000, ge=1, description="Steps of the optimiser")
    loss: str = Field(
        "lpips",
        pattern=r"^(lpips|ssim\+l2|feature:[\w.-]+)$",
        description="lpips (VGG16), feature:NAME (a timm network) or ssim+l2",
    )


@dataclass(frozen=True)
class Projected:
    """Codes found for images.

    Attributes:
        codes: float32 ``[B, *code]``, as the method's task ``edit`` takes them.
        noise: Noise maps as that task takes them, each float32 ``[B, 1, *spatial]``; none for a method without.
        reconstruction: float32 ``[B, C, *size]``, made of codes and noise.
        losses: For each image the terms of its loss by name.
    """

    codes: Tensor
    noise: tuple[Tensor, ...]
    reconstruction: Tensor
    losses: tuple[dict[str, float], ...]


class ProjectTask(Protocol):
    """The verb ``project``: find codes from which the generator makes given images.

    The examples of a method that projects also say where they are from: ``places``, for each the number of its scan,
    its slice and its position, and ``lesions(index)``, bool ``[*size]`` (`Placed`).
    """

    def __call__(
        self,
        model: nn.Module,
        config: Any,
        images: Tensor,
        seeds: Sequence[int],
        distance: Distance,
        options: Any,
        progress: Callable[[int], None] | None = None,
    ) -> Projected:
        """Return codes of all images, found at once and independently of each other.

        Args:
            model: The trained model, as built; its weights are not changed.
            config: The settings the model was trained with.
            images: float32 ``[B, C, *size]`` in [-1, 1], as the method's examples show them, on the model's device.
            seeds: One per image, for the noise added during optimisation.
            distance: The loss to minimise.
            options: The method's options.
            progress: Called with the iterations done.
        """


class Placed(Protocol):
    """Examples that say where they are from."""

    places: Sequence[tuple[int, int, float]]
    """For each example its scan's number in the cohort, its slice, and its position in [0, 1]."""

    def __len__(self) -> int: ...

    def example(self, index: int, rng: Any) -> dict[str, Any]:
        """Return example ``index``, its image as ``image``."""

    def lesions(self, index: int) -> Any:
        """Return its lesion mask, bool ``[*size]``, all false where the cohort has none."""
