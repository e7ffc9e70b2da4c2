"""Settings of the toys."""

from __future__ import annotations

from pydantic import Field

from zoo.config import Config, DataConfig, MethodConfig, Scale, TrainingConfig
from zoo.tasks import SampleOptions

CLASSES = ("dark", "bright")


def _short() -> TrainingConfig:
    return TrainingConfig(
        images=48, batch_size=8, checkpoint_images=16, sample_images=48, log_images=8, validation_images=4
    )


class AutoencoderConfig(Config):
    """The first stage."""

    width: int = Field(6, ge=1, description="Channels of the hidden layer")
    training: TrainingConfig = Field(default_factory=_short)


class ToyConfig(MethodConfig):
    """All stages."""

    size: tuple[int, int] = Field((24, 24), description="Slice the networks see, pixels")
    autoencoder: AutoencoderConfig = Field(default_factory=AutoencoderConfig)
    components: int = Field(4, ge=1, description="Principal components of the errors")
    learning_rate: float = Field(1e-2, gt=0, description="Of Adam")
    training: TrainingConfig = Field(default_factory=_short)


class ClassesConfig(MethodConfig):
    """Patches of the T1w, and how much brighter the FLAIR is."""

    data: DataConfig = Field(
        default_factory=lambda: DataConfig(
            spacing_mm=4.0,
            contrasts=("T1w", "change"),
            derived={"change": "FLAIR - T1w"},
            scales={"change": Scale(like="T1w", signed=True)},
        )
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES


class ClassesOptions(SampleOptions):
    """Options of the sampler."""

    label: str | None = Field(None, description="Class of all samples; none: each draws its own")
