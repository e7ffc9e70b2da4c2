"""What a user can ask of a trained model: one verb, one signature, one class of options.

A method's task works on tensors on the model's grid and calls parts; it knows no file, no backend and no scanner
units. The host (``zoo.filling``, ``zoo.samples``, ``zoo.projecting``) reads, conforms and scales the images before,
and afterwards writes the result, where there was an input to fill onto its native grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config, MethodConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

Parts = Mapping[str, Callable[..., Any]]
Progress = Callable[[int, int], None]
Distance = Callable[["Tensor"], Callable[["Tensor"], "Tensor"]]
"""Takes targets ``[B, C, *size]`` and returns what tells how far images of that shape are from them, ``[B]``."""


class FillOptions(Config):
    """Options of every filler; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides the noise; the same seed gives the same image")

    def check_spread(self, config: MethodConfig) -> None:
        """Refuse several samples where their standard deviation would not tell how sure a fill is.

        Args:
            config: Settings of the model.

        Raises:
            ConfigError: With what helps.
        """


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


class ProjectOptions(Config):
    """Options of every projector; a method extends them."""

    seed: int = Field(0, ge=0, description="Decides the start and, with the image, the noise on its way")
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
        w: float32 ``[B, styles, style_width]``.
        noise: One float32 ``[B, 1, *spatial]`` a convolution.
        reconstruction: float32 ``[B, C, *size]``, made of them.
        losses: For each image its terms by name.
    """

    w: Tensor
    noise: tuple[Tensor, ...]
    reconstruction: Tensor
    losses: tuple[dict[str, float], ...]


class ProjectTask(Protocol):
    """The verb ``project``: find codes from which the generator makes given images.

    The examples of a method that projects also say what they are: ``places``, for each the number of its scan, its
    slice and its position, and ``lesions(index)``, bool ``[*size]`` (`Placed`).
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
            seeds: One an image, for what is random on its way.
            distance: What is made small.
            options: The method's options.
            progress: Called with the iterations done.
        """


class Placed(Protocol):
    """Examples that tell where they are from."""

    places: Sequence[tuple[int, int, float]]
    """For each example its scan's number in the cohort, its slice, and its position in [0, 1]."""

    def __len__(self) -> int: ...

    def example(self, index: int, rng: Any) -> dict[str, Any]:
        """Return example ``index``, its image as ``image``."""

    def lesions(self, index: int) -> Any:
        """Return its lesion mask, bool ``[*size]``, all false where the cohort has none."""


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
