"""Generated images, as tasks return them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Generated images, checked when made.

    Attributes:
        images: float32 ``[N, C, i, j]`` or ``[N, C, i, j, k]`` on the CPU in [-1, 1], RAS.
        channels: What each channel shows, in order: ``("T1w", "FLAIR")``.
        spacing_mm: Voxel size along (i, j, k), of slices their thickness; ``None`` where it is not known.
        labels: One per image: the class that it was generated for; ``None`` where the method has no classes.

    Raises:
        DataError: A field is not as described here.
    """

    images: Tensor
    channels: tuple[str, ...]
    spacing_mm: tuple[float, float, float] | None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, kind = self.images, str(self.images.dtype)
        if images.dim() not in (4, 5):
            raise DataError(f"Samples have shape {list(images.shape)}; it must be [N, C, i, j] or [N, C, i, j, k].")
        if kind != "torch.float32" or images.device.type != "cpu":
            raise DataError(f"Samples are {kind} on {images.device}; return them as images.float().cpu().")
        if len(self.channels) != images.shape[1]:
            raise DataError(
                f"Samples have {images.shape[1]} channels but {len(self.channels)} names for them: "
                f"{', '.join(self.channels) or 'none'}."
            )
        if self.labels is not None and len(self.labels) != len(images):
            raise DataError(f"There are {len(images)} samples but {len(self.labels)} labels; give one per image.")
        if not images.isfinite().all():
            raise DataError("Samples hold NaN or infinite values; was the training stable?")
        if images.numel() and float(images.abs().max()) > 1:
            raise DataError(
                f"Samples reach from {images.min():g} to {images.max():g}; clamp them to [-1, 1], the range of images."
            )
