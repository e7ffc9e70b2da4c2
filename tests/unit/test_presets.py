"""Presets as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.errors import ConfigError
from zoo.presets import Presets


def test_a_preset_lies_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text("[training]\nimages = 100\nbatch_size = 4\n")
    (tmp_path / "paper-2d.toml").write_text("")
    (tmp_path / "tiny.toml").write_text('base = "small"\n[training]\nimages = 10\n')
    presets = Presets(tmp_path)
    assert list(presets) == ["small", "tiny", "paper-2d"]
    assert presets["tiny"] == {"training": {"images": 10, "batch_size": 4}}
    assert "tiny" in presets
    assert "large" not in presets
    assert presets.get("large") is None


def test_a_preset_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text("images 100")
    with pytest.raises(ConfigError, match=r"small\.toml is not TOML"):
        Presets(tmp_path)["small"]
