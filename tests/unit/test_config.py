"""Layers of settings, and the messages of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from zoo.config import (
    Config,
    DataConfig,
    MethodConfig,
    Scale,
    differences,
    parse_assignment,
    parse_derived,
    resolve_config,
    validate,
)
from zoo.errors import ConfigError, UnknownNameError, ZooError
from zoo.registry import registry


@pytest.fixture
def method():
    return registry().methods["lesion-filling"]


def test_layers_lie_over_each_other(method, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('seed = 3\nmasks = "lesions"\n[training]\nimages = 500\n')
    config = resolve_config(method, preset="tiny", file=file, assignments=["training.images=700"])
    defaults = resolve_config(method)
    assert config.size == (32, 32)  # preset
    assert (config.seed, config.masks) == (3, "lesions")  # file
    assert config.training.images == 700  # assignment
    assert config.training.keep_checkpoints == defaults.training.keep_checkpoints  # default


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", {"a": {"b": 1}}),
        ("a=1e-4", {"a": 1e-4}),
        ("a=true", {"a": True}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=circles", {"a": "circles"}),
        ("a=T1w,FLAIR", {"a": ["T1w", "FLAIR"]}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
    ],
)
def test_assignments_are_read_as_toml_else_as_text(text: str, expected: dict) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.imges=3", r"no setting 'training.imges'. Did you mean 'training.images'"),
        ("training.images=0", r"training.images: input should be greater than 0, got 0"),
        ("training.images=many", r"training.images: .*integer.*, got 'many'"),
        ("masks=squares", r"masks: .*'circles', 'lesions' or 'mixture', got 'squares'"),
        ("network=pseudo-3d", r"network 'pseudo-3d' and slab 1 do not fit"),
        ("size=[65, 64]", r"size \(65, 64\) must be multiples of 8"),
        ("unet.groups=7", r"cannot be divided into unet.groups 7"),
        ("data.test=0.95", r"leave no subject to train on"),
        ("seed", r"--set 'seed' is not an assignment; write --set training.images=20000"),
        (".seed=1", r"is not an assignment"),
        ("unet=os.system", r"unet: "),
        ("unet.__class__=1", r"no setting 'unet.__class__'"),
    ],
)
def test_wrong_settings_are_refused_with_the_way_out(method, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(method, assignments=[assignment])


def test_unknown_preset_names_the_known(method) -> None:
    with pytest.raises(UnknownNameError, match=r"no preset 'tinny'. Did you mean 'tiny'.*paper-2d-circles"):
        resolve_config(method, preset="tinny")


@pytest.mark.parametrize("content", ["not toml [", b"\xff\xfe"])
def test_unreadable_settings_file(method, tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ZooError, match="not a TOML file"):
        resolve_config(method, file=file)
    with pytest.raises(ConfigError, match="no settings file"):
        resolve_config(method, file=tmp_path / "absent.toml")


def test_differences_are_named_with_both_values() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}) == ["a.b: 1 → 3"]


def test_paper_presets_hold_the_papers_numbers(method) -> None:
    config = resolve_config(method, preset="paper-3d-mixture")
    assert config.unet.channels == (128, 128, 256, 256, 512, 512)
    assert (config.optimiser.learning_rate, config.optimiser.warmup_steps) == (1e-4, 500)
    assert (config.sampling.solver, config.sampling.steps) == ("ddim", 50)
    assert (config.slab, config.diffusion.timestep_per, config.diffusion.loss_region) == (16, "slice", "image")
    assert config.circles.radius == (3 / 256, 50 / 256)
    assert config.optimiser.average_half_life_images == 0


def test_none_can_be_written() -> None:
    method = registry().methods["lesion-filling"]
    assert resolve_config(method, assignments=["sampling.window=none"]).sampling.window is None
    with pytest.raises(ConfigError, match="size"):
        resolve_config(method, assignments=["size=none"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=true", r"seed: must be a number, got True"),
        ("data.validation=true", r"data.validation: must be a number, got True"),
        ("size=[true, 64]", r"size: must be a number"),
        ("augmentation.mirror=1", r"augmentation.mirror: must be true or false, got 1"),
        ("data.validation=nan", r"data.validation: input should be a finite number"),
        ("data.noise_floor=inf", r"data.noise_floor: input should be a finite number"),
        ("data.percentile=NaN", r"data.percentile: "),
        ("data.spacing_mm=nan", r"data.spacing_mm must be one voxel size or three"),
        ("data.spacing_mm=true", r"data.spacing_mm must be one voxel size or three"),
        ("data.spacing_mm=1,1", r"data.spacing_mm must be .* got \['1', '1'\]"),
        ("data.spacing_mm=1,0,3", r"each above 0 and at most 20 mm"),
        ("data.matrix=64", r"data.matrix must be three numbers of voxels, each 1 to 2048, or none, got 64"),
        ("data.matrix=64,64,1.5", r"data.matrix must be three numbers of voxels"),
        ("data.matrix=64,0,9", r"data.matrix must be three numbers of voxels"),
        ("data.matrix=[64, 64, true]", r"data.matrix must be three numbers of voxels"),
        ("data.scales.T1w.range=5,5", r"range 5,5 of a scale must be its low and then its high value"),
        ("data.scales.T1w.range=0,inf", r"finite number"),
        ("data.scales.PET.unit=SUV", r"data.scales names 'PET', which is no channel"),
        ("data.scales.T1w.like=T2w", r"'like' names 'T2w', which is no channel|like names 'T2w', which is no channel"),
        ("data.targets=T1w", r"'T1w' is in data.contrasts and in data.targets"),
        ("data.derived.sub=post1-pre", r"'post1-pre' is no sum or difference of channels"),
        ("data.derived.sub=__import__('os')", r"is no sum or difference"),
    ],
)
def test_values_that_pydantic_alone_would_take(method, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(method, assignments=[assignment])


def test_numbers_and_flags_may_be_written_as_text(method) -> None:
    config = resolve_config(method, assignments=['seed="1"', 'data.validation="0.2"', "augmentation.mirror=false"])
    assert (config.seed, config.data.validation, config.augmentation.mirror) == (1, 0.2, False)
    assert resolve_config(method, assignments=["data.spacing_mm=1,1,3"]).data.spacing_mm == (1.0, 1.0, 3.0)
    assert resolve_config(method, assignments=["data.spacing_mm=2"]).data.spacing_mm == 2.0


def test_a_matrix_stands_in_place_of_a_voxel_size(method) -> None:
    config = resolve_config(method, assignments=["data.matrix=512,512,32"])
    assert (config.data.matrix, config.data.spacing_mm, config.data.finest_mm) == ((512, 512, 32), None, None)
    assert validate(type(config), config.model_dump(mode="json"), what="it") == config
    assert resolve_config(method, assignments=["data.matrix=none"]).data.spacing_mm == 1.0
    both = ["data.matrix=512,512,32", "data.spacing_mm=2"]
    with pytest.raises(ConfigError, match=r"data.matrix 512,512,32 and data.spacing_mm 2.0 are both set"):
        resolve_config(method, assignments=both)
    assert resolve_config(method, assignments=[*both, "data.matrix=none"]).data.spacing_mm == 2.0
    assert resolve_config(method, assignments=[*both, "data.spacing_mm=none"]).data.matrix == (512, 512, 32)


class _Inner(Config):
    first: int = 1
    second: int = 2


class _Middle(Config):
    inner: _Inner = Field(default_factory=lambda: _Inner(first=10))
    other: int = 0


class _OwnDefaults(MethodConfig):
    data: DataConfig = Field(default_factory=lambda: DataConfig(spacing_mm=2))
    middle: _Middle = _Middle(other=5)


def test_nested_defaults_of_a_method_are_not_lost() -> None:
    config = validate(_OwnDefaults, {"data": {"contrasts": ["FLAIR"]}, "middle": {"inner": {"second": 3}}}, what="it")
    assert (config.data.spacing_mm, config.data.contrasts) == (2.0, ("FLAIR",))
    assert (config.middle.other, config.middle.inner.first, config.middle.inner.second) == (5, 10, 3)
    assert validate(_OwnDefaults, {"data": {"spacing_mm": 3}}, what="it").data.spacing_mm == 3.0
    assert validate(_OwnDefaults, config.model_dump(mode="json"), what="it") == config


def test_paths_of_a_file_are_relative_to_it(method, tmp_path: Path) -> None:
    file = tmp_path / "settings" / "train.toml"
    file.parent.mkdir()
    file.write_text('[data]\nlesion_masks = "../patients"\n')
    assert resolve_config(method, file=file).data.lesion_masks == str(tmp_path / "patients")
    assert resolve_config(method, assignments=["data.lesion_masks=patients"]).data.lesion_masks == "patients"
    file.write_text(f'[data]\nlesion_masks = "{tmp_path}/masks"\n')
    assert resolve_config(method, file=file).data.lesion_masks == f"{tmp_path}/masks"
    file.write_text('[data]\nlesion_masks = "none"\n')
    assert resolve_config(method, file=file).data.lesion_masks is None


def test_derived_channels_are_read_by_names_alone() -> None:
    assert parse_derived("post1 - pre") == ((1, "post1"), (-1, "pre"))
    assert parse_derived("ce-gadolinium_T1w - T1w + FLAIR") == ((1, "ce-gadolinium_T1w"), (-1, "T1w"), (1, "FLAIR"))
    for text in ("pre", "post1 * pre", "post1 -pre", "- pre", "post1 - ", "f(x) - pre", ""):
        with pytest.raises(ValueError, match="no sum or difference"):
            parse_derived(text)


def test_a_difference_needs_a_scale_for_negative_values() -> None:
    values = {"contrasts": ["sub"], "derived": {"sub": "post1 - pre"}}
    with pytest.raises(ConfigError, match=r"set data.scales.sub.signed=true or data.scales.sub.range=LOW,HIGH"):
        validate(DataConfig, values, what="it")
    data = validate(DataConfig, {**values, "scales": {"sub": {"signed": True, "like": "pre"}}}, what="it")
    assert data.inputs == ("post1", "pre")


def test_images_of_training_and_of_use() -> None:
    data = DataConfig(
        contrasts=("MTR", "FA"), targets=("PET",), scales={"FA": Scale(like="MTR"), "PET": Scale(range=(0, 1e-3))}
    )
    assert data.inputs == ("MTR", "FA")
    assert data.images == ("MTR", "FA", "PET")


def test_a_setting_of_several_values_says_so() -> None:
    method = registry().methods["lesion-filling"]
    with pytest.raises(ConfigError, match=r"size takes several values, separated by commas, got 60\.$"):
        resolve_config(method, assignments=["size=60"])
    with pytest.raises(ConfigError, match=r"Did you mean 'size'\?$"):
        resolve_config(method, assignments=["siz=60,60"])
