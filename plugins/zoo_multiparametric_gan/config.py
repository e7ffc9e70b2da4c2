"""Settings of ``dcgan`` and ``wgan``; the defaults are their preset ``small``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from zoo.config import Config, DataConfig, MethodConfig, Scale, TrainingConfig
from zoo.tasks import SampleOptions

NO_FINDINGS = "no-findings"
"""Class of the patches without a lesion."""

_FIRST = "ce-post1_T1w"
_SERIES = ("T1w", _FIRST, "ce-post2_T1w", "ce-post3_T1w", "ce-post4_T1w")
CONTRASTS = ("T2w", *_SERIES, "sub")
"""The study of the paper (sections 2 and 3, figure 1): T2w, T1w before contrast agent and four times after it, and the
first image after it minus the one before."""

_DATA = DataConfig(
    contrasts=CONTRASTS,
    derived={"sub": f"{_FIRST} - T1w"},
    # One scale for the whole series, or the courses of contrast agent would be lost.
    scales={name: Scale(like=_FIRST) for name in _SERIES if name != _FIRST} | {"sub": Scale(like=_FIRST, signed=True)},
    regions=("breast-mask",),
    spacing_mm=(1.0, 1.0, 4.0),
    scaling="percentile",  # enhanced blood is the brightest by far, and not of interest
)


class GANTraining(TrainingConfig):
    """Training settings; by default the run keeps the best model, as the last of a GAN is rarely the best."""

    batch_size: int = Field(64, gt=0, description="Real images per step, over all devices")
    checkpoint_images: int = Field(16_000, gt=0, description="Images between checkpoints")
    sample_images: int = Field(32_000, gt=0, description="Images between sample sheets")
    log_images: int = Field(640, gt=0, description="Images between lines of metrics.jsonl")
    validation_images: int = Field(600, ge=2, description="Validation images scored at each checkpoint")
    final_model: Literal["last", "best"] = Field(
        "best", description="Checkpoint whose averaged model the run keeps; best: by the first validation score"
    )


class PatchConfig(Config):
    """Which patches to train on (section 3)."""

    label: str | None = Field(
        "pathology",
        description="Column with the class of a lesion: of the table beside the lesion mask, or of participants.tsv "
        "for all lesions of a subject; none: all lesions are of one class",
    )
    classes: tuple[str, ...] = Field(
        ("benign", "malignant"), min_length=1, description="Classes of lesions: the values of that column, in order"
    )
    inside: str | None = Field(
        "breast-mask",
        description="Mask of data.regions in which patches without a lesion are centred; none: where the first "
        "contrast is brighter than background",
    )
    healthy: int = Field(200, ge=1, description="Patches without a lesion per scan")
    clear: int = Field(
        32, ge=1, description="Side of the neighbourhood of their centres in which there is no lesion, pixels"
    )

    @model_validator(mode="after")
    def _classes_differ(self) -> PatchConfig:
        twice = [name for name in self.classes if self.classes.count(name) > 1]
        if twice:
            raise ValueError(f"patches.classes names {twice[0]!r} twice")
        if NO_FINDINGS in self.classes:
            raise ValueError(f"patches.classes are classes of lesions; {NO_FINDINGS!r} is there without being named")
        if self.label is None and len(self.classes) > 1:
            raise ValueError(
                f"patches.classes {', '.join(self.classes)} need a column that tells them apart: set patches.label, or "
                "name one class"
            )
        return self


class NetworkConfig(Config):
    """Sizes of the networks (section 3.1)."""

    widths: tuple[int, ...] = Field(
        (128, 64, 32, 16),
        min_length=2,
        description="Channels of the generator before each upconvolution, coarsest first; the discriminator has them "
        "in reverse",
    )
    latent_width: int = Field(100, ge=1, description="Width of the noise z")
    condition: Literal["both", "generator"] = Field(
        "both", description="Networks that see the class; the paper names the generator alone"
    )

    @field_validator("widths")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"network.widths {','.join(map(str, value))} must all be at least 1")
        return value


class GANConfig(MethodConfig):
    """Settings that both methods have."""

    data: DataConfig = _DATA
    training: GANTraining = Field(default_factory=GANTraining)
    size: tuple[int, ...] = Field(
        (64, 64), min_length=2, max_length=3, description="Patch size, pixels (left-right, back-front[, bottom-top])"
    )
    patches: PatchConfig = Field(default_factory=PatchConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)

    @field_validator("data", mode="before")
    @classmethod
    def _other_images(cls, value: Any) -> Any:
        """Take other contrasts without the derived channels, scales and masks of the paper's study."""
        if not isinstance(value, Mapping) or tuple(value.get("contrasts", CONTRASTS)) == CONTRASTS:
            return value
        return DataConfig.model_validate(value)

    @model_validator(mode="after")
    def _fits(self) -> GANConfig:
        if self.patches.inside is not None and self.patches.inside not in self.data.regions:
            raise ValueError(
                f"patches.inside {self.patches.inside!r} is no mask of data.regions "
                f"({', '.join(self.data.regions) or 'none'}); name it there, too, or set patches.inside=none"
            )
        step = 2 ** len(self.network.widths)
        if any(side < step or side % step for side in self.size):
            raise ValueError(
                f"every side of size {','.join(map(str, self.size))} must be a multiple of {step}, as the "
                f"{len(self.network.widths)} network.widths double it as often"
            )
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that a sample can be asked for: those of lesions, then the one without."""
        return (*self.patches.classes, NO_FINDINGS)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size of the training images, mm; ``None`` where each scan keeps its own."""
        spacing = self.data.spacing_mm
        return (spacing, spacing, spacing) if isinstance(spacing, float) else spacing


class AdamConfig(Config):
    """Adam for both networks, and the EMA of the generator (Radford et al. 2016, section 4)."""

    learning_rate: float = Field(2e-4, gt=0, description="Learning rate of both networks")
    betas: tuple[float, float] = Field((0.5, 0.999), description="Adam's beta_1 and beta_2")
    average_half_life_images: float = Field(5_000, ge=0, description="Half-life of the EMA of the weights; 0: no EMA")


class DCGANTraining(GANTraining):
    """Training settings of ``dcgan``."""

    images: int = Field(256_000, gt=0, description="Real images seen in the whole training")


class DCGANConfig(GANConfig):
    """Settings of ``dcgan``."""

    training: DCGANTraining = Field(default_factory=DCGANTraining)
    optimiser: AdamConfig = Field(default_factory=AdamConfig)


class CriticConfig(Config):
    """How the critic is kept from growing too steep (section 3.2)."""

    lipschitz: Literal["clipping", "gradient-penalty", "spectral"] = Field(
        "clipping",
        description="clipping of its weights (Arjovsky et al. 2017), gradient-penalty (Gulrajani et al. 2017), or "
        "spectral normalisation (Miyato et al. 2018)",
    )
    clip: float = Field(0.01, gt=0, description="Largest absolute weight c, with clipping")
    penalty: float = Field(10.0, ge=0, description="Weight lambda of the gradient penalty")
    steps: int = Field(5, ge=1, description="Steps of the critic per step of the generator")


class CriticOptimiserConfig(Config):
    """RMSProp with clipping, else Adam, for both networks; and the EMA of the generator."""

    rmsprop_rate: float = Field(
        5e-4, gt=0, description="Learning rate of both networks with clipping (Arjovsky et al. 2017: 5e-5)"
    )
    adam_rate: float = Field(1e-4, gt=0, description="Learning rate of both networks without clipping")
    average_half_life_images: float = Field(5_000, ge=0, description="Half-life of the EMA of the weights; 0: no EMA")


class WGANTraining(GANTraining):
    """Training settings of ``wgan``."""

    images: int = Field(512_000, gt=0, description="Real images that the critic sees in the whole training")


class WGANConfig(GANConfig):
    """Settings of ``wgan``."""

    training: WGANTraining = Field(default_factory=WGANTraining)
    critic: CriticConfig = Field(default_factory=CriticConfig)
    optimiser: CriticOptimiserConfig = Field(default_factory=CriticOptimiserConfig)


class GANOptions(SampleOptions):
    """Options of ``zoo sample``."""

    batch_size: int = Field(64, ge=1, description="Samples per network call; changes only rounding")
    label: str | None = Field(
        None, description="Class of all samples (--class); none: each sample draws its own from its seed"
    )
