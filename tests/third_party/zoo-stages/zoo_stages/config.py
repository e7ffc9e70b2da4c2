"""Settings. Those below `autoencoder` belong to the first stage alone, the others to the last."""

from pydantic import Field

from zoo.config import Config, MethodConfig, TrainingConfig


class AutoencoderConfig(Config):
    width: int = Field(8, ge=1, description="Channels of the first layer")
    latent: int = Field(16, ge=1, description="Numbers that describe a slice")
    divergence: float = Field(1e-3, ge=0, description="Weight of the Kullback-Leibler divergence")
    training: TrainingConfig = TrainingConfig()


class StagesConfig(MethodConfig):
    size: tuple[int, int] = Field((64, 64), description="Slice, pixels; multiples of 8")
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    width: int = Field(8, ge=1, description="Channels of the refiner")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam")
