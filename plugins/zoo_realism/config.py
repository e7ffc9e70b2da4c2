"""Options of the evaluator ``realism``."""

from __future__ import annotations

from pydantic import Field

from zoo.config import Config


class RealismOptions(Config):
    """Options of the evaluator ``realism``."""

    features: str = Field(
        "texture", description="Features to compare: texture, inception, timm:NAME or torchscript:FILE"
    )
    weights: str | None = Field(None, description="File of that network's weights; none: random ones for timm's")
    samples: int = Field(256, ge=2, description="Number of generated images")
    seed: int = Field(0, ge=0, description="Seed of the samples and of the bootstrap")
    bootstraps: int = Field(200, ge=10, description="Bootstrap resamples for the intervals")
    backend: str = Field("torch", description="Runtime of the networks")
