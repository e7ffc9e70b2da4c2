"""Settings of ``stylegan2-ada``; the defaults are its preset ``small``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from zoo.config import Config, MethodConfig, TrainingConfig
from zoo.tasks import ProjectOptions, SampleOptions


class StyleGANTraining(TrainingConfig):
    """Training settings; by default the run keeps the best EMA generator, as the last is rarely the best."""

    images: int = Field(40_000, gt=0, description="Images seen during the training")
    batch_size: int = Field(8, gt=0, description="Images per step, over all devices")
    checkpoint_images: int = Field(4_000, gt=0, description="Images between checkpoints")
    sample_images: int = Field(4_000, gt=0, description="Images between sample sheets")
    validation_images: int = Field(256, ge=2, description="Validation images scored at each checkpoint")
    final_model: Literal["last", "best"] = Field(
        "best", description="Checkpoint whose EMA model the run keeps; best: by the first validation score"
    )


class NetworkConfig(Config):
    """Sizes of the networks (StyleGAN2 paper; ADA paper, appendix C)."""

    latent_width: int = Field(128, ge=1, description="Width of the latent code z")
    style_width: int = Field(128, ge=1, description="Width of the style w")
    mapping_layers: int = Field(4, ge=1, description="Layers of the mapping network (StyleGAN2: 8)")
    channel_budget: int = Field(1024, ge=4, description="Channels at resolution r: this divided by r …")
    channel_limit: int = Field(128, ge=1, description="… and at most this")
    group: int = Field(4, ge=1, description="Images per group of the minibatch standard deviation; 1: none")


class SliceConfig(Config):
    """Which axial slices to train on; position 0 is the lowest slice of the head, 1 the highest."""

    between: tuple[float, float] = Field((0.25, 0.85), description="Lowest and highest position; 0.05,0.95 for slabs")
    count: int | None = Field(None, ge=1, description="Slices per scan, from the middle of that range; none: all")
    pool: int = Field(2, ge=1, description="Pixels along each side averaged to one; slices keep their thickness")

    @model_validator(mode="after")
    def _in_order(self) -> SliceConfig:
        low, high = self.between
        if not 0 <= low < high <= 1:
            raise ValueError(f"slices.between {self.between} must be two rising positions within 0 and 1")
        return self


class LossConfig(Config):
    """Regularisers of the losses (StyleGAN2 paper, section 3 and appendix B)."""

    r1_gamma: float | None = Field(
        None, ge=0, description="Weight gamma of R1; none: 0.0002 · pixels / batch; 0: no R1 (ADA paper, appendix C)"
    )
    r1_interval: int = Field(16, ge=1, description="Discriminator steps between R1 steps")
    path_weight: float = Field(2.0, ge=0, description="Weight of path-length regularisation; 0: none")
    path_interval: int = Field(4, ge=1, description="Generator steps between path-length steps")
    mixing: float = Field(0.9, ge=0, le=1, description="Share of images with two mixed styles")


class OptimiserConfig(Config):
    """Adam for both networks, and the EMA of the generator."""

    learning_rate: float = Field(0.0025, gt=0, description="Learning rate of both networks, uncorrected for lazy steps")
    beta2: float = Field(0.99, ge=0, lt=1, description="Adam's beta_2; beta_1 is 0")
    average_half_life_images: float = Field(5_000, ge=0, description="Half-life of the EMA of the weights; 0: no EMA")


class AugmentationConfig(Config):
    """Adaptive discriminator augmentation (ADA paper, section 3)."""

    kinds: tuple[
        Literal["mirror", "shift", "scale", "rotate", "brightness", "contrast", "bias-field", "noise"], ...
    ] = Field(
        ("mirror", "shift", "scale", "rotate", "brightness", "contrast"),
        description="Augmentations of the images that the discriminator sees",
    )
    target: float = Field(0.6, ge=-1, le=1, description="Target of r_t, the mean sign of the scores of real images")
    images: int = Field(
        100_000, gt=0, description="Images for the probability to rise from 0 to 1 (ADA paper: 500,000)"
    )
    highest: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Upper limit of the probability; near 1, augmentations leak (reference: none)",
    )


class StyleGANConfig(MethodConfig):
    """Settings of ``stylegan2-ada``."""

    training: StyleGANTraining = Field(default_factory=StyleGANTraining)
    size: tuple[int, ...] = Field(
        (80, 96), min_length=2, max_length=3, description="Image size, pixels (left-right, back-front[, bottom-top])"
    )
    copies: int = Field(1, ge=1, description="Channels per contrast, copies of each other (paper: 3 for ADC)")
    slices: SliceConfig = Field(default_factory=SliceConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)

    @property
    def image_channels(self) -> int:
        """Channels of an image: the contrasts times their copies."""
        return len(self.data.contrasts) * self.copies

    @property
    def pool(self) -> int:
        """Voxels averaged to one along each side of a slice; 1 for volumes."""
        return self.slices.pool if len(self.size) == 2 else 1

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size of the training images, mm; ``None`` where each scan keeps its own."""
        spacing = self.data.spacing_mm
        if spacing is None:
            return None
        i, j, k = spacing if isinstance(spacing, tuple) else (spacing, spacing, spacing)
        return i * self.pool, j * self.pool, k

    @model_validator(mode="after")
    def _groups_fit(self) -> StyleGANConfig:
        batch, group = self.training.batch_size, self.network.group
        if batch % min(group, batch):
            raise ValueError(
                f"training.batch_size {batch} must be a multiple of network.group {group}, the images per group of the "
                "minibatch standard deviation"
            )
        if any(side < 8 for side in self.size):
            raise ValueError(f"size {self.size} is too small; every side must be at least 8")
        return self


class StyleGANOptions(SampleOptions):
    """Options of ``zoo sample``."""

    truncation: float = Field(
        1.0, ge=0, le=2, description="psi: below 1, images are more typical and less varied; 0: the mean style"
    )


class StyleGANProjectOptions(ProjectOptions):
    """Options of ``zoo project``; the defaults are the paper's (Güllmar et al., section 2.3).

    The lengths of the ramps scale with ``iterations`` unless they are given.
    """

    candidates: int = Field(100, ge=2, description="Random samples; the one most similar to the image is the start")
    w_noise: float = Field(0.05, ge=0, description="Noise on w, in standard deviations of the samples …")
    w_noise_iterations: int = Field(750, ge=0, description="… falling to 0 over these; default: 1/4 of iterations")
    learning_rate: float = Field(0.1, gt=0, description="Adam's learning rate between the ramps")
    ramp_up: int = Field(50, ge=0, description="Iterations of linear rise; default: 1/60 of iterations")
    ramp_down: int = Field(250, ge=0, description="Iterations of cosine fall at the end; default: 1/12 of iterations")
    noise_weight: float = Field(1e5, ge=0, description="Weight c of the noise maps' regulariser")

    @model_validator(mode="before")
    @classmethod
    def _in_proportion(cls, values: Any) -> Any:
        iterations = values.get("iterations") if isinstance(values, dict) else None
        if not isinstance(iterations, int):
            return values
        shares = {"w_noise_iterations": 4, "ramp_up": 60, "ramp_down": 12}
        return {**{name: iterations // share for name, share in shares.items()}, **values}

    @model_validator(mode="after")
    def _ends_in_time(self) -> StyleGANProjectOptions:
        if self.ramp_up + self.ramp_down > self.iterations:
            raise ValueError(
                f"ramp_up {self.ramp_up} and ramp_down {self.ramp_down} together exceed iterations {self.iterations}"
            )
        if self.w_noise and self.w_noise_iterations > self.iterations:
            raise ValueError(
                f"w_noise_iterations {self.w_noise_iterations} must end within iterations {self.iterations}"
            )
        return self
