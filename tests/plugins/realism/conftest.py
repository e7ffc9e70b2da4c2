"""Models for the tests of distribution metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY, train_briefly
from tests.plugins.realism.toy import NAME, CopiesConfig
from zoo.config import DataConfig
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.imaging.phantom import write_phantom
from zoo.models.artifact import Artifact, make_manifest
from zoo.registry import registry
from zoo_realism.images import real_images

Copies = Callable[..., Artifact]


@pytest.fixture(scope="package")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four training steps of ``stylegan2-ada``."""
    folder = tmp_path_factory.mktemp("realism") / "run"
    return train_briefly(folder, "stylegan2-ada", phantom, "--images", "32", *TINY)


@pytest.fixture(scope="package")
def others(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Twelve subjects that no model of these tests has seen."""
    return read_cohort(write_phantom(tmp_path_factory.mktemp("others"), subjects=12, seed=7, spacing_mm=4.0))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Copies]:
    """Return ``(cohort, **manifest) -> Artifact``: a generator of two classes that copies a cohort's real patches."""
    monkeypatch.setenv("ZOO_PLUGINS", "tests.plugins.realism.toy")
    registry.cache_clear()

    def make(cohort: Cohort, **manifest: object) -> Artifact:
        config = CopiesConfig(source=str(tmp_path / "images.npz"), data=DataConfig(spacing_mm=4.0))
        artifact = Artifact(None, make_manifest(registry().methods[NAME], config, **{"trained_on": [], **manifest}))
        real = real_images(artifact, cohort)
        labels = [config.class_names.index(name) for name in real.classes]
        np.savez(config.source, images=real.images.numpy(), labels=labels)
        return artifact

    yield make
    registry.cache_clear()
