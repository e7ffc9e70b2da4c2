"""The verb's protocol: what a method's task must look like, and the options that all methods share."""

from typing import Protocol

from pydantic import Field

from zoo.config import Config


class Options(Config):
    """Options of every harmonizer; a method may extend them."""

    strength: float = Field(1.0, ge=0, le=1, description="0 leaves the scan as it is, 1 harmonizes it fully")


class HarmonizeTask(Protocol):
    def __call__(self, parts, config, image, options, progress=None):
        """Return the harmonized image.

        Args:
            parts: The method's parts as callables, by name.
            config: The settings the model was trained with.
            image: float32 [C, i, j, k] in [-1, 1], one channel per contrast.
            options: The method's options.
            progress: Called with (network calls done, network calls in all), or None.

        Returns:
            float32 [C, i, j, k] in [-1, 1].
        """
