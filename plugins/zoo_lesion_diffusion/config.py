"""Settings of the lesion-diffusion methods; the defaults are their presets ``small``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from zoo.config import Config, DataConfig, MethodConfig, as_many, changed
from zoo.errors import ConfigError
from zoo.tasks import FillOptions


class UNetConfig(Config):
    """Size of the denoising U-Net (thesis section 3.2)."""

    channels: tuple[int, ...] = Field((32, 64, 96, 128), min_length=1, description="Channels per level, finest first")
    blocks_per_level: int = Field(
        1, ge=1, description="Residual blocks per level of the encoder; the decoder has one more"
    )
    attention_levels: tuple[int, ...] = Field((3,), description="Levels with self-attention, 0 is the finest")
    head_dim: int = Field(32, ge=1, description="Channels per attention head (thesis: 8)")
    groups: int = Field(8, ge=1, description="Groups of the group normalisation (thesis: 32)")


class NoiseConfig(Config):
    """Noise schedule and its loss (thesis section 3.1; Hang et al. 2023, min-SNR; Salimans and Ho 2022, velocity)."""

    steps: int = Field(1000, ge=2, description="T, training noise levels")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="beta_1 of the linear schedule")
    beta_end: float = Field(0.02, gt=0, lt=1, description="beta_T of the linear schedule")
    prediction: Literal["noise", "velocity"] = Field(
        "velocity", description="What the network predicts: the noise epsilon, or v = signal · epsilon - sigma · image"
    )
    timestep_per: Literal["slab", "slice"] = Field("slab", description="What has one noise level in training")
    min_snr_gamma: float | None = Field(None, gt=0, description="Clamp of the min-SNR loss weight; 5 is usual")


class DiffusionConfig(NoiseConfig):
    """Further settings of conditional filling: what is diffused, and which voxels make the loss."""

    pure_noise_share: float = Field(
        0.5, ge=0, le=1, description="Share of training examples at the last timestep, where a fill begins"
    )
    loss_region: Literal["mask", "image"] = Field("mask", description="Voxels whose error is the loss")
    residual_scale: float = Field(
        0.25, ge=0, description="Diffuse the difference to a biharmonic fill, in units of this; 0: the image itself"
    )
    keep_known: bool = Field(True, description="Set known voxels to their true values in every sampling step")


class OptimiserConfig(Config):
    """AdamW with a cosine schedule (thesis table 3.1)."""

    learning_rate: float = Field(1e-3, gt=0, description="Highest learning rate")
    warmup_steps: int = Field(200, ge=0, description="Steps in which the rate rises linearly")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient")
    average_half_life_images: float = Field(
        4_000, ge=0, description="Half-life of the exponential moving average of the weights (EMA); 0: none"
    )


class CircleConfig(Config):
    """Random masks, one disc per slice."""

    centre_sd: float = Field(30 / 256, ge=0, description="Standard deviation of the centre, share of the window's side")
    radius: tuple[float, float] = Field((3 / 256, 50 / 256), description="Range of the radius, share of the side")


class LesionMaskConfig(Config):
    """Masks made of connected lesions of other subjects."""

    min_voxels: int = Field(4, ge=1, description="Smallest lesion, voxels on the first slice of the slab")
    in_context: bool = Field(
        True, description="Also train on patients; their own lesions stay visible and are never filled"
    )


class AugmentationConfig(Config):
    """Random changes of the training images."""

    brightness: float = Field(0.2, ge=0, le=1, description="b: intensities in [0, 1] are scaled by U(1 - b, 1 + b)")
    brightness_probability: float = Field(0.5, ge=0, le=1, description="Share of examples whose intensities are scaled")
    mirror: bool = Field(True, description="Mirror left and right in half of the examples")


Spacing = Literal["trailing", "leading"]
_SPACING = "Even timesteps: trailing starts at T - 1; leading, as in the thesis, ends at 0 and starts below T - 1"


class SamplingConfig(Config):
    """How a trained conditional model fills by default."""

    solver: Literal["ddpm", "ddim", "dpm-solver++"] = Field("dpm-solver++", description="Sampler")
    steps: int = Field(1, ge=1, le=1000, description="Network evaluations per window")
    spacing: Spacing = Field("trailing", description=f"{_SPACING}; dpm-solver++ has its own, even in log-SNR")
    start: float = Field(
        1.0, gt=0, le=1, description="Where a fill begins, share of T; below 1 it begins at the noised biharmonic fill"
    )
    window: tuple[int, int] | None = Field(
        (48, 48), description="Window when filling, pixels; smaller is faster; none: the window of training, size"
    )


class RepaintConfig(Config):
    """How a trained prior fills by default (Lugmayr et al. 2022; thesis table 3.1).

    The network is called ``steps + jumps · (resamples - 1) · jump_length`` times per window, with a jump from each of
    the levels 0, jump_length, 2 · jump_length … below ``steps - jump_length``: 98 times by default, 482 in the thesis
    (50, 8, 10), 2410 in the RePaint paper (250, 10, 10). The default jumps over the same share of the levels as the
    paper; on a normal distribution that fits the known values better than the thesis' longer jumps.
    """

    steps: int = Field(50, ge=1, le=1000, description="Noise levels from noise to image")
    spacing: Spacing = Field("trailing", description=_SPACING)
    jump_length: int = Field(2, ge=1, description="j, levels of one jump back to more noise")
    resamples: int = Field(2, ge=1, description="r, times each stretch of j levels is denoised; 1: no jumps")

    @model_validator(mode="after")
    def _jumps_fit(self) -> RepaintConfig:
        if self.resamples > 1 and self.jump_length >= self.steps:
            raise ValueError(
                f"jump_length {self.jump_length} does not fit into steps {self.steps}; use a shorter jump, more steps, "
                "or resamples=1"
            )
        return self


_RECORDED = {"seed", "network", "size", "slab", "unet", "diffusion", "optimiser", "augmentation", "sampling"}
"""Settings that every model records; a user never sets all of them at once."""


class DenoiserConfig(MethodConfig):
    """Settings of every denoiser: the window it sees, its network and its training."""

    network: Literal["2d", "pseudo-3d"] = Field("2d", description="Single slices, or slabs of neighbouring slices")
    size: tuple[int, int] = Field((64, 64), description="Window of the network, pixels (left-right, back-front)")
    slab: int = Field(1, ge=1, description="Slices that the network fills together; 1 for network=2d")
    unet: UNetConfig = Field(default_factory=UNetConfig)
    diffusion: NoiseConfig = Field(default_factory=NoiseConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)

    @property
    def window(self) -> tuple[int, int]:
        """Window of the network when it fills, pixels."""
        return self.size

    @model_validator(mode="before")
    @classmethod
    def _with_the_spacing_of_old_models(cls, values: Any) -> Any:
        """Add the spacing to the settings of 0.1.0 models, which lack it; it was ``leading``."""
        sampling = values.get("sampling") if isinstance(values, Mapping) and set(values) >= _RECORDED else None
        if isinstance(sampling, Mapping) and "spacing" not in sampling:
            return {**values, "sampling": {**sampling, "spacing": "leading"}}
        return values

    @model_validator(mode="after")
    def _fits(self) -> DenoiserConfig:
        if (self.slab == 1) != (self.network == "2d"):
            raise ValueError(
                f"network {self.network!r} and slab {self.slab} do not fit; slab is 1 for 2d, more for pseudo-3d"
            )
        step = 2 ** (len(self.unet.channels) - 1)
        for name, sides in (("size", self.size), ("sampling.window", self.window)):
            if any(side <= 0 or side % step for side in sides):
                raise ValueError(
                    f"{name} {sides} must be multiples of {step} for {len(self.unet.channels)} unet.channels"
                )
        wrong = [width for width in self.unet.channels if width % self.unet.groups]
        if wrong:
            raise ValueError(f"unet.channels {wrong[0]} cannot be divided into unet.groups {self.unet.groups}")
        levels = range(len(self.unet.channels))
        if any(level not in levels for level in self.unet.attention_levels):
            raise ValueError(f"unet.attention_levels {self.unet.attention_levels} are not levels of unet.channels")
        heads = [self.unet.channels[level] for level in {*self.unet.attention_levels, len(levels) - 1}]
        if any(width % self.unet.head_dim for width in heads):
            raise ValueError(
                f"unet.head_dim {self.unet.head_dim} does not divide the unet.channels with attention {heads}"
            )
        return self


class FillingConfig(DenoiserConfig):
    """Settings of ``lesion-filling``."""

    checkpoint_score: Literal["loss", "ssim"] = Field(
        "loss", description="Score that chooses a checkpoint: the loss, or 1 - SSIM of filled masks (thesis)"
    )
    masks: Literal["circles", "lesions", "mixture"] = Field(
        "mixture", description="Holes of training examples; mixture: half circles, half lesions"
    )
    neighbours: int = Field(1, ge=0, description="Slices on either side that network=2d sees but does not fill")
    diffusion: DiffusionConfig = Field(default_factory=DiffusionConfig)
    circles: CircleConfig = Field(default_factory=CircleConfig)
    lesions: LesionMaskConfig = Field(default_factory=LesionMaskConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    @property
    def seen_slices(self) -> int:
        """Slices that the network sees together: those it fills and their neighbours."""
        return self.slab + 2 * self.neighbours

    @property
    def window(self) -> tuple[int, int]:
        """Window of the network when it fills, pixels."""
        return self.sampling.window or self.size

    @property
    def while_training(self) -> FillingConfig:
        """The settings with the window of training."""
        return self.model_copy(update={"sampling": self.sampling.model_copy(update={"window": None})})

    def sized(self, sides: Sequence[int]) -> FillingConfig:
        """Return the settings for filling with other windows; ``size``, the window of training, stays."""
        return changed(self, {"sampling": {"window": as_many(sides, self.size)}})

    @model_validator(mode="after")
    def _neighbours_fit(self) -> FillingConfig:
        if self.neighbours and self.network == "pseudo-3d":
            raise ValueError(f"neighbours {self.neighbours} and network 'pseudo-3d' do not fit; use 0, or network 2d")
        return self


class PriorConfig(DenoiserConfig):
    """Settings of ``lesion-prior``."""

    patients: bool = Field(True, description="Also train on the slices of patients that hold no lesion")
    sampling: RepaintConfig = Field(default_factory=RepaintConfig)

    @model_validator(mode="after")
    def _levels_suffice(self) -> PriorConfig:
        if self.sampling.steps > self.diffusion.steps:
            raise ValueError(
                f"sampling.steps {self.sampling.steps} exceeds the noise levels of training, diffusion.steps "
                f"{self.diffusion.steps}; use fewer"
            )
        return self


FEWEST_STEPS_FOR_SPREAD = 10
"""Samples of fewer steps differ too little: with one step the network returns nearly the mean of all possible tissues,
whatever the noise. With a ``tiny`` model on four unseen phantoms (lesions, 6 samples), 0.28 and 0.47 of the true voxels
lie within one and two standard deviations at 1 step, and 0.78 and 0.95 at 10 steps; 0.68 and 0.95 are right."""


class WindowOptions(FillOptions):
    """Options of every filler that works in windows."""

    batch_size: int = Field(16, ge=1, description="Windows per network call")
    steps: int | None = Field(None, ge=1, le=1000, description="Network evaluations per window; default: the model's")

    def check_spread(self, config: MethodConfig) -> None:
        """Refuse several samples of few steps, see `FillOptions.check_spread`."""
        assert isinstance(config, FillingConfig | PriorConfig)
        steps = self.steps or config.sampling.steps
        if steps < FEWEST_STEPS_FOR_SPREAD:
            raise ConfigError(
                f"Several samples of {steps} steps would hardly differ, so their standard deviation would be much too "
                f"small. Use --steps N with N of {FEWEST_STEPS_FOR_SPREAD} or more, or leave out --samples."
            )


class FillingOptions(WindowOptions):
    """Options of ``zoo fill`` for conditional models."""

    solver: Literal["ddpm", "ddim", "dpm-solver++"] | None = Field(None, description="Sampler; default: the model's")
    start: float | None = Field(None, gt=0, le=1, description="Where a fill begins, share of T; default: the model's")


class PriorOptions(WindowOptions):
    """Options of ``zoo fill`` for unconditional models."""

    steps: int | None = Field(None, ge=1, le=1000, description="Noise levels from noise to image; default: the model's")
    jump_length: int | None = Field(
        None, ge=1, description="Levels of one jump back to more noise; default: the model's"
    )
    resamples: int | None = Field(None, ge=1, description="Times each stretch is denoised; default: the model's")


class BiharmonicOptions(FillOptions):
    """Options of the biharmonic fills, in which nothing is random."""

    def check_spread(self, config: MethodConfig) -> None:
        """Refuse several samples, which would all be equal."""
        raise ConfigError(
            "A biharmonic fill is always the same, so several samples have no standard deviation. Leave out --samples."
        )


class ClassicConfig(MethodConfig):
    """Settings of the classic fillers, which work on each image's own grid."""

    data: DataConfig = Field(default_factory=lambda: DataConfig(spacing_mm=None))


class InpaintingOptions(Config):
    """Options of the evaluator ``inpainting``."""

    @field_validator("circle_radius_mm")
    @classmethod
    def _in_order(cls, radii: tuple[float, float]) -> tuple[float, float]:
        if not 0 < radii[0] <= radii[1]:
            raise ValueError(f"circle_radius_mm {radii} must be two lengths above 0, the smaller first")
        return radii

    lesion_masks: str | None = Field(
        None, description="Cohort whose lesion masks are placed on healthy tissue; default: as in training"
    )
    lesion_mask_subjects: tuple[str, ...] = Field(
        (), description="Patients of lesion_masks whose masks are used; none: those that training has not used"
    )
    masks_per_subject: int = Field(3, ge=1, description="Lesion masks per subject")
    circle_slabs: int = Field(2, ge=1, description="Slabs of 16 slices with circles per subject")
    circle_radius_mm: tuple[float, float] = Field(
        (3.0, 12.5), description="Range of the circles' radius, mm, for any model (thesis: 3 to 50)"
    )
    circle_centre_sd_mm: float = Field(
        30.0, ge=0, description="Standard deviation of the circles' centre, mm (thesis: 30)"
    )
    lpips_weights: str | None = Field(None, description="AlexNet weights for LPIPS, a local file")
    seed: int = Field(0, ge=0, description="Seed of masks and noise")
    steps: int | None = Field(None, ge=1, le=1000, description="Network evaluations; default: the model's")
    solver: Literal["ddpm", "ddim", "dpm-solver++"] | None = Field(None, description="Sampler; default: the model's")
    start: float | None = Field(None, gt=0, le=1, description="Where a fill begins, share of T; default: the model's")
    samples: int = Field(1, ge=1, le=256, description="Samples per fill; their mean is measured")
    backend: str = Field("torch", description="Runtime of the network")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="Number format of the network")
