"""What the verb ``edit`` asks of a method; plugins describe themselves with it, so it imports no settings."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.descriptors import Task


@dataclass(frozen=True, kw_only=True)
class LatentTask(Task):
    """The task ``edit`` of a method: the only way from its latent codes to images.

    Attributes:
        run: ``"module:function"`` with the signature of `EditTask`: codes and noise maps to images.
        codes: ``"module:function"`` ``(parts, config, seeds) -> (codes, noise)``: codes ``[N, *code]`` of random images
            and their noise maps, as ``run`` takes them; those of one seed are the same alone and among others.
        discriminator: ``"module:function"`` ``(config, checkpoint: Path, device) -> (images, companions) -> scores``:
            loads the discriminator of a checkpoint. It scores each image ``[N, C, *spatial]`` in [-1, 1], higher for
            what looks real, ``[N]``; ``companions`` are real images that may stand beside it where the discriminator
            looks at several. Empty for a method without a discriminator.
    """

    codes: str
    discriminator: str = ""
