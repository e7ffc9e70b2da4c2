"""Settings: pydantic classes, and the layers defaults < preset < ``--config`` file < ``--set``.

A setting is data. No layer names a class, imports a module or is evaluated.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from zoo.descriptors import Method, resolve
from zoo.errors import ConfigError, UnknownNameError, did_you_mean


class _RelativeToFile:
    """Marks a setting that is a path."""


FolderSetting = Annotated[str, _RelativeToFile()]
"""A setting that names a folder. In a ``--config`` file it is relative to that file, else to the working folder."""


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused, numbers finite, flags only ``true`` or ``false``.

    A setting that is itself a group of settings keeps the defaults that its class gives it: with
    ``data: DataConfig = DataConfig(spacing_mm=2)``, settings that name only ``data.contrasts`` keep the spacing.
    """

    # Schemas are built when first used: `zoo info` only reads the fields.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Take one value where several are possible (data.contrasts=T1w), and "none", as TOML has no such value."""
        field = cls.model_fields[str(info.field_name)]
        kinds = set(_kinds(field.annotation))
        if value == "none" and type(None) in get_args(field.annotation):
            return None
        if isinstance(value, Mapping):
            default = field.get_default(call_default_factory=True)
            return merge(default.model_dump(exclude_unset=True), value) if isinstance(default, BaseModel) else value
        _check_flags(value, kinds)
        several = get_origin(field.annotation) is tuple
        return (value,) if several and isinstance(value, str | int | float) else value


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types that a field's annotation is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


def _check_flags(value: Any, kinds: set[Any]) -> None:
    """Refuse a flag where a number is wanted, and a number where a flag is wanted; pydantic takes both.

    Raises:
        PydanticCustomError: What is wanted instead.
    """
    items = value if isinstance(value, list | tuple) else (value,)
    flags = any(isinstance(item, bool) for item in items)
    numbers = any(isinstance(item, int | float) and not isinstance(item, bool) for item in items)
    takes_numbers = not kinds.isdisjoint((int, float))
    if flags and takes_numbers and bool not in kinds:
        raise PydanticCustomError("flag", "Must be a number")
    if numbers and bool in kinds and not takes_numbers:
        raise PydanticCustomError("number", "Must be true or false")


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


_LARGEST_MM = 20.0
_LARGEST_SIDE = 2048
_TERM = re.compile(r"\s+([+-])\s+")


def parse_derived(text: str) -> tuple[tuple[int, str], ...]:
    """Read how a channel is made of others: names joined by ``+`` and ``-`` with a space on each side.

    Args:
        text: For example ``"post1 - pre"``; a name may contain a hyphen (``"ce-gadolinium_T1w - T1w"``).

    Returns:
        The terms in order, each as sign (1 or -1) and name.

    Raises:
        ValueError: It is no sum or difference of names.
    """
    first, *rest = _TERM.split(text.strip())
    terms = [(1, first), *((-1 if sign == "-" else 1, name) for sign, name in zip(rest[::2], rest[1::2], strict=True))]
    if len(terms) < 2 or not all(re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) for _, name in terms):
        raise ValueError(f"{text!r} is no sum or difference of channels; write names and spaces: 'post1 - pre'")
    return tuple(terms)


class Scale(Config):
    """How the values of one channel map to [-1, 1].

    Without ``range`` and ``like`` the constants are found for each image (``data.scaling``).
    """

    unit: str = Field("", description="Unit of the channel's values, for example ml/cm3")
    range: tuple[float, float] | None = Field(
        None, description="Values that become -1 and +1, in the channel's unit; none: found for each image"
    )
    like: str | None = Field(None, description="Channel whose constants are used, such as the first of a series")
    signed: bool = Field(False, description="Map 0 to 0 and keep negative values; the range is then symmetric")

    @field_validator("range")
    @classmethod
    def _low_below_high(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"range {value[0]:g},{value[1]:g} of a scale must be its low and then its high value")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> Scale:
        if self.range is not None and (self.like is not None or self.signed):
            raise ValueError("a scale has a range, or takes its constants by 'like' or 'signed', not both")
        return self


class DataConfig(Config):
    """Which images a model sees, and how."""

    contrasts: tuple[str, ...] = Field(
        ("T1w",), min_length=1, description="Channels that a user gives, in order: contrasts of the cohort"
    )
    targets: tuple[str, ...] = Field(
        (), description="Channels for training and evaluation only, such as a PET map; never clamped"
    )
    derived: dict[str, str] = Field(
        default_factory=dict, description="Channels made of others, by name, for example sub = 'post1 - pre'"
    )
    scales: dict[str, Scale] = Field(
        default_factory=dict, description="By channel: unit, and range=LOW,HIGH, like=CHANNEL or signed=true"
    )
    labels: tuple[str, ...] = Field(
        (), description="Columns of participants.tsv or sessions.tsv that every training subject needs"
    )
    lesion_labels: tuple[str, ...] = Field(
        (), description="Columns that the table beside each lesion mask needs (sub-…_label-lesion_mask.tsv)"
    )
    regions: tuple[str, ...] = Field(
        (), description="Further masks for losses and evaluation, for example brain-mask (label-brain_mask)"
    )
    spacing_mm: float | tuple[float, float, float] | None = Field(
        1.0,
        description="Voxel size of the model's grid, mm, above 0 and at most 20: one for all axes, or three along "
        "left-right, posterior-anterior, inferior-superior; none: each image's own",
    )
    matrix: tuple[int, int, int] | None = Field(
        None,
        description="In place of a voxel size: voxels of the model's grid along the same axes, over each image's own "
        "field of view",
    )
    scaling: Literal["head", "percentile", "max"] = Field(
        "head", description="What is mapped to +1: brightest tissue of the brain, percentile of all voxels, or maximum"
    )
    percentile: float = Field(
        99.5, gt=0, le=100, description="Percentile mapped to +1 by scaling=percentile; brighter voxels are clamped"
    )
    noise_floor: float = Field(
        0.01, ge=0, description="Lower intensities are set to this value before scaling; not with a range or sign"
    )
    white_matter_labels: tuple[int, ...] | str = Field(
        "find",
        description="White matter in dseg images: labels (2,41), a scheme (freesurfer, fast, bids, ants), or find: by "
        "dseg.tsv, else by the T1w",
    )
    lesion_masks: FolderSetting | None = Field(
        None, description="Cohort whose lesion masks are placed on these subjects; none: the cohort's own patients"
    )
    lesion_mask_subjects: tuple[str, ...] = Field(
        (), description="Patients of data.lesion_masks whose masks are placed; none: all but a share data.test"
    )
    subjects: tuple[str, ...] = Field((), description="Subjects to use; none: all subjects")
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

    @field_validator("spacing_mm", mode="before")
    @classmethod
    def _spacing(cls, value: Any) -> float | tuple[float, float, float] | None:
        if value is None or value == "none":
            return None
        items = value if isinstance(value, list | tuple) else (value,)
        try:
            sizes = [float(item) for item in items if not isinstance(item, bool)]
        except (TypeError, ValueError):
            sizes = []
        if len(sizes) != len(items) or len(sizes) not in (1, 3) or not all(0 < size <= _LARGEST_MM for size in sizes):
            raise ValueError(
                f"data.spacing_mm must be one voxel size or three, each above 0 and at most {_LARGEST_MM:g} mm, or "
                f"none, got {value!r}"
            )
        return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else sizes[0]

    @field_validator("matrix", mode="before")
    @classmethod
    def _matrix(cls, value: Any) -> Any:
        if value is None or value == "none":
            return None
        items = value if isinstance(value, list | tuple) else (value,)
        sides = [int(item) for item in items if re.fullmatch(r"\d{1,4}", str(item))]
        if not (len(sides) == len(items) == 3 and all(1 <= side <= _LARGEST_SIDE for side in sides)):
            raise ValueError(
                f"data.matrix must be three numbers of voxels, each 1 to {_LARGEST_SIDE}, or none, got {value!r}"
            )
        return tuple(sides)

    @model_validator(mode="before")
    @classmethod
    def _matrix_replaces_the_default_spacing(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("matrix") not in (None, "none"):
            return {"spacing_mm": None, **values}
        return values

    @model_validator(mode="after")
    def _matrix_or_spacing(self) -> DataConfig:
        if self.matrix is not None and self.spacing_mm is not None:
            raise ValueError(
                f"data.matrix {','.join(map(str, self.matrix))} and data.spacing_mm {self.spacing_mm} are both set; a "
                "grid has one of them: set the other to none"
            )
        return self

    @field_validator("derived")
    @classmethod
    def _derived_can_be_read(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            parse_derived(text)
        return value

    @model_validator(mode="after")
    def _channels_fit(self) -> DataConfig:
        channels = (*self.contrasts, *self.targets)
        twice = [name for name in self.targets if name in self.contrasts]
        if twice:
            raise ValueError(f"{twice[0]!r} is in data.contrasts and in data.targets; a channel is one of them")
        unscaled = [name for name in self.scales if name not in {*channels, *self.images_of(channels)}]
        if unscaled:
            raise ValueError(
                f"data.scales names {unscaled[0]!r}, which is no channel.{did_you_mean(unscaled[0], channels)} "
                f"Channels: {', '.join(channels)}"
            )
        for name, text in self.derived.items():
            nested = [term for _, term in parse_derived(text) if term in self.derived]
            if nested:
                raise ValueError(f"data.derived.{name} is made of {nested[0]!r}, which is derived; name images")
            if " - " in text and name in channels and not self._keeps_sign(name):
                raise ValueError(
                    f"data.derived.{name} is a difference and needs a scale for negative values: set "
                    f"data.scales.{name}.signed=true or data.scales.{name}.range=LOW,HIGH"
                )
        for name, scale in self.scales.items():
            if scale.like is not None and self.scale_of(scale.like).like is not None:
                raise ValueError(f"data.scales.{name}.like names {scale.like!r}, which itself has a 'like'")
            if scale.like is not None and scale.like not in {*channels, *self.images_of(channels)}:
                raise ValueError(f"data.scales.{name}.like names {scale.like!r}, which is no channel")
        return self

    def _keeps_sign(self, channel: str) -> bool:
        scale = self.scale_of(channel)
        return scale.signed or (scale.range is not None and scale.range[0] < 0)

    def scale_of(self, channel: str) -> Scale:
        """Return the scale of a channel; without one of its own, the default."""
        return self.scales.get(channel, Scale())

    def images_of(self, channels: Iterable[str]) -> tuple[str, ...]:
        """Return the images that channels are made of, each once: derived channels by their terms."""
        terms = [
            [term for _, term in parse_derived(self.derived[name])] if name in self.derived else [name]
            for name in channels
        ]
        return tuple(dict.fromkeys(name for some in terms for name in some))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images that a user must give: those that the contrasts and their scales are made of."""
        likes = [like for name in self.contrasts if (like := self.scale_of(name).like) is not None]
        return self.images_of((*self.contrasts, *likes))

    @property
    def images(self) -> tuple[str, ...]:
        """The images of training and evaluation: `inputs`, and those that the targets and their scales are made of."""
        likes = [like for name in self.targets if (like := self.scale_of(name).like) is not None]
        return tuple(dict.fromkeys((*self.inputs, *self.images_of((*self.targets, *likes)))))

    @property
    def finest_mm(self) -> float | None:
        """The smallest side of a voxel of the model's grid; ``None`` where it differs by image."""
        return min(self.spacing_mm) if isinstance(self.spacing_mm, tuple) else self.spacing_mm

    @model_validator(mode="after")
    def _mask_subjects_have_a_cohort(self) -> DataConfig:
        if self.lesion_mask_subjects and self.lesion_masks is None:
            raise ValueError(
                "data.lesion_mask_subjects names patients of data.lesion_masks, which is not set; set both"
            )
        return self

    @model_validator(mode="after")
    def _some_are_left(self) -> DataConfig:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"data.validation {self.validation} and data.test {self.test} leave no subject to train on; "
                "their sum must be below 1"
            )
        return self


class TrainingConfig(Config):
    """How long training runs, and what it keeps."""

    images: int = Field(42_000, gt=0, description="Images seen in the whole training")
    batch_size: int = Field(16, gt=0, description="Images per step, over all devices")
    checkpoint_images: int = Field(8_000, gt=0, description="Images between checkpoints")
    sample_images: int = Field(16_000, gt=0, description="Images between sample sheets")
    log_images: int = Field(320, gt=0, description="Images between lines of metrics.jsonl")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept, besides the best one")
    validation_images: int = Field(64, ge=2, description="Images of validation subjects scored per checkpoint")
    final_model: Literal["last", "best"] = Field(
        "last", description="Checkpoint whose averaged model the run keeps; best: by the first validation score"
    )


class MethodConfig(Config):
    """Settings that every method has; a method adds its own."""

    seed: int = Field(0, ge=0, description="Seed of the split, the order of images, noise and initial weights")
    data: DataConfig = Field(default_factory=DataConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that a sample can be asked for, in order; empty for a method without classes."""
        return ()

    @property
    def while_training(self) -> MethodConfig:
        """The settings with the shapes of training, where a trained model is used with other shapes."""
        return self

    def sized(self, sides: Sequence[int]) -> MethodConfig:
        """Return the settings of the same model for images of other sides (``zoo export --size``).

        Args:
            sides: Pixels; one for all axes, or one per axis.

        Raises:
            ConfigError: The method has no setting ``size``, or the sides do not fit.
        """
        size = getattr(self, "size", None)
        if size is None:
            raise ConfigError(f"{type(self).__name__} has no setting 'size', so --size cannot change it; leave it out.")
        return changed(self, {"size": as_many(sides, size) if isinstance(size, tuple) else sides[0]})


Settings = TypeVar("Settings", bound=Config)


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return a checked copy of settings with some of them changed."""
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
    """Merge nested mappings; the later one wins, key by key."""
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
        text = f"Settings of {what}: " + "; ".join(problems)
        raise ConfigError(text if text.endswith("?") else f"{text}.") from None


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
    if problem["type"] == "missing" and isinstance(problem["loc"][-1], int):
        name = ".".join(str(item) for item in problem["loc"][:-1])
        return f"{name} takes several values, separated by commas, got {','.join(map(str, problem['input']))}"
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
    """Merge the layers of settings for ``method`` and check the result.

    Paths in ``file`` are relative to its folder. ``protocol`` holds the training settings of a protocol
    (`Protocol.training_settings`); it overrides the file, and the assignments override it.

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
    kind: type[MethodConfig] = resolve(method.config)
    layers = [
        method.presets[preset] if preset else {},
        _relative_to(file.parent, kind, read_config_file(file)) if file else {},
        protocol or {},
        *(parse_assignment(text) for text in assignments),
    ]
    return validate(kind, merge(*layers), what=f"method {method.name!r}")


def _relative_to(folder: Path, kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose relative paths (`FolderSetting`) start at ``folder``."""
    changed: dict[str, Any] = dict(values)
    for name, field in kind.model_fields.items():
        value, annotation = values.get(name), field.annotation
        if isinstance(value, Mapping) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            changed[name] = _relative_to(folder, annotation, value)
        marks = (*field.metadata, *(mark for part in _kinds(annotation) for mark in getattr(part, "__metadata__", ())))
        if isinstance(value, str) and value != "none" and any(isinstance(mark, _RelativeToFile) for mark in marks):
            changed[name] = os.path.normpath(folder / value)
    return changed


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
