"""The verb ``fill``: its signature and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config, MethodConfig

if TYPE_CHECKING:
    from torch import Tensor
from zoo.descriptors import Parts
from zoo.progress import Progress


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
