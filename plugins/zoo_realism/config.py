"""Options of the evaluators ``realism``, ``memorisation`` and ``kinetics``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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


class KineticsOptions(Config):
    """Options of the evaluator ``kinetics``."""

    samples: int = Field(256, ge=2, description="Generated images of each class")
    before: str = Field("T1w", description="Channel before contrast agent")
    after: tuple[str, ...] = Field(
        ("ce-post1_T1w", "ce-post2_T1w", "ce-post3_T1w", "ce-post4_T1w"),
        min_length=2,
        description="Channels after contrast agent, in order",
    )
    times_s: tuple[float, ...] = Field((70.0, 140.0, 210.0, 280.0), description="Their times after contrast agent, s")
    subtraction: str | None = Field(
        "sub", description="Channel that must equal the first one after contrast agent minus that before; none: none"
    )
    seed: int = Field(0, ge=0, description="Seed of the samples and of every random choice of images")
    backend: str = Field("torch", description="Runtime of the networks")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="What the networks compute in")

    @model_validator(mode="after")
    def _times_fit(self) -> KineticsOptions:
        if len(self.times_s) != len(self.after):
            raise ValueError(f"times_s has {len(self.times_s)} times for {len(self.after)} channels of after")
        if list(self.times_s) != sorted(set(self.times_s)) or self.times_s[0] <= 0:
            raise ValueError(f"times_s must rise from above 0, got {', '.join(f'{time:g}' for time in self.times_s)}")
        return self
