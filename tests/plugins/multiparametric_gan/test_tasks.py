"""Patches of a class that is asked for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests.plugins.multiparametric_gan.conftest import tiny_config
from zoo.errors import UnknownNameError
from zoo.tasks import Samples
from zoo_multiparametric_gan.config import GANOptions
from zoo_multiparametric_gan.networks import build
from zoo_multiparametric_gan.tasks import sample

CONFIG = tiny_config("data.spacing_mm=1,1,4")


def _samples(count: int, label: str | None = None) -> Samples:
    torch.manual_seed(0)
    generator = build(CONFIG).eval()
    with torch.inference_mode():
        return sample({"generator": generator}, CONFIG, range(count), GANOptions(label=label))


def test_samples_say_channels_spacing_and_class() -> None:
    samples = _samples(2, "malignant")
    assert samples.images.shape == (2, 7, 16, 16)
    assert samples.channels == CONFIG.data.contrasts
    assert samples.spacing_mm == (1, 1, 4)
    assert samples.labels == ("malignant", "malignant")


def test_each_sample_draws_its_own_class() -> None:
    labels = _samples(90).labels
    assert labels is not None
    counts = Counter(labels)
    assert set(counts) == set(CONFIG.class_names)
    assert min(counts.values()) > 15
    assert _samples(5).labels == labels[:5]


def test_a_class_that_a_sample_would_draw_itself_changes_nothing() -> None:
    drawn = _samples(3)
    assert drawn.labels is not None
    asked = _samples(3, drawn.labels[2])
    assert torch.allclose(drawn.images[2], asked.images[2], atol=1e-6)


def test_an_unknown_class_is_refused_with_the_classes() -> None:
    with pytest.raises(UnknownNameError, match=r"no class 'malign'.*Classes: benign, malignant, no-findings"):
        _samples(1, "malign")
