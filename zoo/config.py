"""Settings: pydantic classes, and the layers defaults < preset < ``--config`` file < ``--set``.

A setting is data. No layer names a class, imports a module or is evaluated.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from zoo.descriptors import Method, resolve
from zoo.errors import ConfigError, UnknownNameError, did_you_mean


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    # Schemas are built when first used: `zoo info` only reads the fields.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Take one value where several are possible (data.contrasts=T1w), and "none", as TOML has no such value."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if value == "none" and type(None) in get_args(annotation):
            return None
        several = get_origin(annotation) is tuple
        return (value,) if several and isinstance(value, str | int | float) else value


LABEL_SCHEMES = ("freesurfer", "fastsurfer", "synthseg", "fast", "bids", "ants")
"""Schemes of tissue labels that are known by name."""


def scheme_or_labels(value: Any) -> tuple[int, ...] | str:
    """Return a setting of white matter as labels, ``"find"`` or the name of a scheme.

    Args:
        value: A number, a name, or several numbers, also as text (``"2,41"``).

    Raises:
        ValueError: It is none of them.
    """
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if len(items) == 1 and str(items[0]).lower() in ("find", *LABEL_SCHEMES):
        return str(items[0]).lower()
    try:
        labels = tuple(int(str(item)) for item in items)
    except ValueError:
        labels = ()
    if not labels:
        raise ValueError(
            f"white matter is given by labels (2,41), by a scheme ({', '.join(LABEL_SCHEMES)}) or by 'find', got "
            f"{value!r}.{did_you_mean(str(value), LABEL_SCHEMES)}"
        )
    return labels


class DataConfig(Config):
    """Which images a model sees, and how."""

    contrasts: tuple[str, ...] = Field(("T1w",), min_length=1, description="Contrasts, one channel each, in order")
    spacing_mm: float | None = Field(
        1.0, gt=0, le=20, description="Isotropic voxel size of the model's grid, mm; none: each image's own"
    )
    scaling: Literal["head", "percentile", "max"] = Field(
        "head", description="What is mapped to +1: brightest tissue of the brain, percentile of all voxels, or maximum"
    )
    percentile: float = Field(
        99.5, gt=0, le=100, description="Percentile mapped to +1 by scaling=percentile; brighter voxels are clamped"
    )
    noise_floor: float = Field(0.01, ge=0, description="Lower intensities are set to this value before scaling")
    white_matter_labels: tuple[int, ...] | str = Field(
        "find",
        description="White matter in dseg images: labels (2,41), a scheme (freesurfer, fast, bids, ants), or find: by "
        "dseg.tsv, else by the T1w",
    )
    lesion_masks: str | None = Field(
        None, description="Cohort whose lesion masks are laid on these subjects; none: the cohort's own patients"
    )
    lesion_mask_subjects: tuple[str, ...] = Field(
        (), description="Patients of data.lesion_masks whose masks are laid; none: all but a share data.test"
    )
    subjects: tuple[str, ...] = Field((), description="Subjects that are used at all; none: everybody")
    validation: float = Field(0.1, ge=0, lt=1, description="Share of subjects kept for validation")
    validation_subjects: tuple[str, ...] = Field(
        (), description="Subjects kept for validation by name; replaces the share"
    )
    test: float = Field(0.2, ge=0, lt=1, description="Share of subjects kept for evaluation")
    test_subjects: tuple[str, ...] = Field((), description="Subjects kept for evaluation by name; replaces the share")

    @field_validator("white_matter_labels", mode="before")
    @classmethod
    def _scheme_or_labels(cls, value: Any) -> tuple[int, ...] | str:
        return scheme_or_labels(value)

    @model_validator(mode="after")
    def _mask_subjects_have_a_cohort(self) -> DataConfig:
        if self.lesion_mask_subjects and self.lesion_masks is None:
            raise ValueError(
                "data.lesion_mask_subjects names patients of data.lesion_masks, which is not set; set it, too"
            )
        return self

    @model_validator(mode="after")
    def _some_are_left(self) -> DataConfig:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"data.validation {self.validation} and data.test {self.test} leave nobody to train on; "
                "their sum must be below 1"
            )
        return self


class TrainingConfig(Config):
    """How long training goes on, and what it leaves behind."""

    images: int = Field(42_000, gt=0, description="Images seen in the whole training")
    batch_size: int = Field(16, gt=0, description="Images a step, over all devices")
    checkpoint_images: int = Field(8_000, gt=0, description="Images between checkpoints")
    sample_images: int = Field(16_000, gt=0, description="Images between sample sheets")
    log_images: int = Field(320, gt=0, description="Images between lines of metrics.jsonl")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept; the best one stays besides")
    validation_images: int = Field(64, ge=2, description="Images of validation subjects scored at a checkpoint")
    final_model: Literal["last", "best"] = Field(
        "last", description="Which checkpoint's averaged model the run leaves; best: by the first validation score"
    )


class MethodConfig(Config):
    """Settings every method has; a method adds its own."""

    seed: int = Field(0, ge=0, description="Decides the split, the order of images, noise and initial weights")
    data: DataConfig = Field(default_factory=DataConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @property
    def while_training(self) -> MethodConfig:
        """The settings with the shapes that training sees, where a trained model is used with others."""
        return self

    def sized(self, sides: Sequence[int]) -> MethodConfig:
        """Return the settings of the same model for images of other sides (``zoo export --size``).

        Args:
            sides: Pixels; one for all axes, or one an axis.

        Raises:
            ConfigError: The method has no setting ``size``, or the sides do not fit.
        """
        size = getattr(self, "size", None)
        if size is None:
            raise ConfigError(f"{type(self).__name__} has no setting 'size', so --size cannot change it; leave it out.")
        return changed(self, {"size": as_many(sides, size) if isinstance(size, tuple) else sides[0]})


Settings = TypeVar("Settings", bound=Config)


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return a copy of settings with some of them changed, checked anew."""
    return validate(type(settings), merge(settings.model_dump(), changes), what="the model")


def as_many(sides: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Return ``sides`` with as many entries as ``size``; a single one counts for all.

    Raises:
        ConfigError: Another number of sides was given.
    """
    if len(sides) not in (1, len(size)):
        raise ConfigError(f"--size {','.join(map(str, sides))} names {len(sides)} sides; this model has {len(size)}.")
    return tuple(sides) if len(sides) > 1 else tuple(sides) * len(size)


def parse_assignment(text: str) -> dict[str, Any]:
    """Turn ``a.b=value`` into ``{"a": {"b": value}}``; the value is read as TOML, else as text.

    Raises:
        ConfigError: There is no ``=`` or no name before it.
    """
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {text!r} is not an assignment; write --set training.images=20000.")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # Bare words are common (masks=circles); commas make a list (data.contrasts=T1w,FLAIR).
        parsed = [item.strip() for item in value.split(",")] if "," in value else value.strip()
    for name in reversed(names):
        parsed = {name: parsed}
    return parsed


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Raises:
        ConfigError: It is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no settings file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not a TOML file of settings: {error}.") from None


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested mappings over each other; the later one wins, key by key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def validate(kind: type[Settings], values: Mapping[str, Any], *, what: str) -> Settings:
    """Check ``values`` against the class ``kind``.

    Args:
        kind: The class of settings.
        values: Nested mapping of settings.
        what: What they are settings of, for the message (``"method 'lesion-filling'"``).

    Raises:
        ConfigError: With each wrong setting, its value, what would be right, and near names of unknown ones.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(kind, problem) for problem in error.errors(include_url=False)]
        raise ConfigError(f"Settings of {what}: " + "; ".join(problems) + ".") from None


def _explain(kind: type[BaseModel], problem: Any) -> str:
    location = ".".join(str(item) for item in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _setting_names(kind)
        suggestion = did_you_mean(location, known)
        return f"there is no setting {location!r}.{suggestion}" + (
            "" if suggestion else f" Settings: {', '.join(known)}"
        )
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{location}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _setting_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names += _setting_names(info.annotation, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def resolve_config(
    method: Method,
    *,
    preset: str | None = None,
    file: Path | None = None,
    protocol: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> MethodConfig:
    """Lay the layers of settings for ``method`` over each other and check the result.

    ``protocol`` is what a protocol says of the training (`Protocol.training_settings`); it lies above the file
    and below the assignments.

    Raises:
        UnknownNameError: There is no such preset.
        ConfigError: A setting is unknown, of the wrong kind, out of range, or at odds with another, or the method needs
            no training.
    """
    if not method.trainable:
        raise ConfigError(
            f"Method {method.name!r} needs no training; use it by its name, e.g. zoo fill {method.name} --image …"
        )
    if preset is not None and preset not in method.presets:
        raise UnknownNameError(
            f"Method {method.name!r} has no preset {preset!r}.{did_you_mean(preset, method.presets)} "
            f"Presets: {', '.join(method.presets)}."
        )
    layers = [
        method.presets[preset] if preset else {},
        read_config_file(file) if file else {},
        protocol or {},
        *(parse_assignment(text) for text in assignments),
    ]
    return validate(resolve(method.config), merge(*layers), what=f"method {method.name!r}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return ``key: old → new`` for each setting in which two plain configurations differ."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} → {after}")
    return lines
