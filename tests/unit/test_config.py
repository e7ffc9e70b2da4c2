"""Layers of settings, and the messages of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.config import differences, parse_assignment, resolve_config
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
