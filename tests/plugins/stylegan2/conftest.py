"""Shared by the tests of StyleGAN2-ADA: settings, and a run of a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import train_briefly
from zoo.config import resolve_config
from zoo.registry import registry
from zoo_stylegan2.config import StyleGANConfig

METHOD = "stylegan2-ada"


def config_of(preset: str, *assignments: str) -> StyleGANConfig:
    """Return the settings of a preset with ``assignments``."""
    config = resolve_config(registry().methods[METHOD], preset=preset, assignments=assignments)
    assert isinstance(config, StyleGANConfig)
    return config


def tiny_config(*assignments: str) -> StyleGANConfig:
    """Return the settings of the preset ``tiny`` with ``assignments``."""
    return config_of("tiny", *assignments)


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the phantom: eight steps, four checkpoints."""
    folder = tmp_path_factory.mktemp("stylegan") / "run"
    return train_briefly(
        folder, METHOD, phantom, "--images", "64", "--preset", "tiny", "--set", "training.batch_size=8",
        "--set", "training.checkpoint_images=16", "--set", "training.log_images=8",
        "--set", "training.sample_images=64",
    )  # fmt: skip
