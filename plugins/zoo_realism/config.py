"""Options of the evaluators ``realism`` and ``memorisation``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zoo.config import Config


class SetOptions(Config):
    """How generated images are made and seen."""

    features: str = Field(
        "texture",
        description="Features to compare: texture (no weights), inception, timm:NAME, or torchscript:FILE",
    )
    weights: str | None = Field(
        None, description="File of a network's weights; none: inception's in torch's cache, timm's random"
    )
    rgb: tuple[str, str, str] | None = Field(
        None, description="Three channels that a network sees as red, green and blue: T2w,T1w,ce-post1_T1w"
    )
    seed: int = Field(0, ge=0, description="Seed of the samples and of every random choice of images")
    backend: str = Field("torch", description="Runtime of the networks")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="What the networks compute in")


class RealismOptions(SetOptions):
    """Options of the evaluator ``realism``."""

    samples: int = Field(256, ge=2, description="Generated images of a class in a draw, and at most as many real ones")
    draws: int = Field(1, ge=1, description="Draws of images; scores are means over them (paper 004: 10 of 1,000)")


class MemorisationOptions(SetOptions):
    """Options of the evaluator ``memorisation``."""

    samples: int = Field(256, ge=2, description="Generated images of each class")
    training_data: str | None = Field(
        None, description="Cohort that holds the training subjects; none: they are looked for in --data"
    )
