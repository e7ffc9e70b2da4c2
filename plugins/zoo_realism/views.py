"""What an extractor sees of images of several channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zoo.errors import DataError, did_you_mean
from zoo.metrics.features import TEXTURE, Extractor, feature_scale, load_extractor
from zoo.progress import Progress
from zoo_realism.config import SetOptions
from zoo_realism.images import ImageSet, features_by_channels, features_of

WHOLE = ""
"""Key of the features of all channels; those of one channel have its name."""


@dataclass(frozen=True)
class Views:
    """An extractor and the channels that it sees.

    Attributes:
        extractor: Features.
        channels: Of the images.
        seen: Channels whose features are those of the whole image: all for `TEXTURE`, three or one for a network.
    """

    extractor: Extractor
    channels: tuple[str, ...]
    seen: tuple[str, ...]

    @classmethod
    def choose(cls, options: SetOptions, channels: Sequence[str]) -> Views:
        """Return what the options ask for.

        Args:
            options: Of the evaluator.
            channels: Of the images.

        Raises:
            DataError: There are no such features, their weights are missing, or they do not take these channels.
        """
        try:
            extractor = load_extractor(options.features, Path(options.weights) if options.weights else None)
        except DataError as error:
            if options.features == TEXTURE:
                raise
            raise DataError(f"{error} The features {TEXTURE!r} need no weights: --set features={TEXTURE}") from None
        return cls(extractor, tuple(channels), _seen(extractor, options, tuple(channels)))

    def whole(self, image_set: ImageSet, progress: Progress | None = None) -> Tensor:
        """Return the features ``[N, F]`` of whole images."""
        return features_of(self.extractor, image_set, self.seen, progress)

    def features(self, image_set: ImageSet, progress: Progress | None = None) -> dict[str, Tensor]:
        """Return the features ``[N, F]`` of a set by key: `WHOLE`, and each channel where there are several.

        Texture features of a channel are its columns; a network sees the channel in grey.
        """
        single = [(name,) for name in self.channels] if len(self.channels) > 1 else []
        if self.extractor.channels is not None:
            found = features_by_channels(self.extractor, image_set, [self.seen, *single], progress)
            return dict(zip((WHOLE, *(name for (name,) in single)), found, strict=True))
        whole = self.whole(image_set, progress)
        columns = whole.chunk(len(self.channels), dim=1) if single else ()
        return {WHOLE: whole, **{name: some for (name,), some in zip(single, columns, strict=True)}}

    def standardised(self, features: Tensor, real: Tensor) -> Tensor:
        """Return texture features with mean 0 and standard deviation 1 among real images; a network's as they are.

        Args:
            features: ``[N, F]``.
            real: The same of real images, ``[M, F]``.
        """
        if self.extractor.channels is not None:
            return features
        return (features - real.mean(0)) / feature_scale(real)


def _seen(extractor: Extractor, options: SetOptions, channels: tuple[str, ...]) -> tuple[str, ...]:
    shown = ", ".join(channels)
    if options.rgb is None:
        if extractor.channels in (None, len(channels)) or (len(channels) == 1 and extractor.channels == 3):
            return channels
        raise DataError(
            f"The features {options.features!r} take {extractor.channels} channels, and the images have "
            f"{len(channels)}: {shown}. Name three of them with --set rgb=RED,GREEN,BLUE, or use "
            f"--set features={TEXTURE}, which takes any number."
        )
    if extractor.channels != 3:
        raise DataError(f"rgb is for networks of three channels; the features {options.features!r} take no rgb.")
    unknown = [name for name in options.rgb if name not in channels]
    if unknown:
        raise DataError(
            f"rgb names {unknown[0]!r}, which the images do not have.{did_you_mean(unknown[0], channels)} "
            f"Channels: {shown}."
        )
    return options.rgb
