"""Shared by all tests: a cache of their own, one thread a worker, and small synthetic cohorts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
"""Of the repository."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Child processes import torch again and again; compiled modules make that three times as fast.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``gpu`` where torch sees none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no NVIDIA GPU")


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ZOO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five synthetic subjects at 4 mm."""
    from zoo.imaging.phantom import write_phantom

    return write_phantom(tmp_path_factory.mktemp("phantom") / "cohort", subjects=5, seed=1, spacing_mm=4.0)


@pytest.fixture
def zoo_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process and return exit code, stdout and stderr."""
    from zoo.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


TINY = (
    "--preset", "tiny", "--set", "data.spacing_mm=4.0", "--set", "training.batch_size=8",
    "--set", "training.checkpoint_images=32", "--set", "training.sample_images=64", "--set", "training.log_images=8",
)  # fmt: skip
"""Settings of a training that takes about a second."""


def train_briefly(folder: Path, method: str, data: Path, *settings: str) -> Path:
    """Train by the command line and return the run folder."""
    from zoo.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["train", method, "--data", str(data), "--out", str(folder), *settings])
    assert not stop.value.code
    return folder


@pytest.fixture(scope="session")
def trained(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of lesion filling on the phantom."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train_briefly(folder, "lesion-filling", phantom, "--images", "64", *TINY)
