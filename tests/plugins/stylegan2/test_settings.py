"""Settings and presets of StyleGAN2-ADA."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.plugins.stylegan2.conftest import METHOD, config_of, tiny_config
from zoo.descriptors import resolve
from zoo.errors import ConfigError
from zoo.registry import registry
from zoo_stylegan2.training import r1_gamma

PAPER = [
    ("paper-t1w-te1-3", ("echo-1_MEGRE", "echo-2_MEGRE", "echo-3_MEGRE"), 1, 1.0, 71, 18_600_000),
    ("paper-t1w-te2-4", ("echo-2_MEGRE", "echo-3_MEGRE", "echo-4_MEGRE"), 1, 1.0, 71, 18_600_000),
    ("paper-t1w-te3-5", ("echo-3_MEGRE", "echo-4_MEGRE", "echo-5_MEGRE"), 1, 1.0, 71, 18_600_000),
    ("paper-adc", ("ADC",), 3, 1.5, 41, 9_200_000),
]
"""Preset, contrasts, copies, spacing in mm, slices per scan, images."""


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("network.group=5", "batch_size 8 must be a multiple of network.group 5"),
        ("slices.between=0.8,0.2", "two rising positions within 0 and 1"),
        ("size=4,40", "at least 8"),
        ("augmentation.kinds=mirror,blur", "augmentation.kinds"),
    ],
)
def test_settings_that_do_not_fit_are_refused(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(assignment)


def test_the_presets_are_the_files() -> None:
    assert sorted(registry().methods[METHOD].presets) == sorted(["small", "tiny", *(preset for preset, *_ in PAPER)])


def test_small_is_the_defaults() -> None:
    assert not registry().methods[METHOD].presets["small"]


@pytest.mark.parametrize(("preset", "contrasts", "copies", "spacing_mm", "count", "images"), PAPER)
def test_the_papers_presets_differ_in_their_data(
    preset: str, contrasts: tuple[str, ...], copies: int, spacing_mm: float, count: int, images: int
) -> None:
    config = config_of(preset)
    assert (config.data.contrasts, config.copies, config.data.spacing_mm) == (contrasts, copies, spacing_mm)
    assert (config.slices.count, config.training.images) == (count, images)
    assert config.image_channels == 3


@pytest.mark.parametrize("preset", [preset for preset, *_ in PAPER])
def test_the_papers_presets_share_the_rest(preset: str) -> None:
    config = config_of(preset)
    assert (config.size, config.training.batch_size) == ((256, 256), 16)
    assert (config.network.mapping_layers, config.network.channel_budget) == (4, 16384)
    assert config.augmentation.kinds == ("mirror",)


def test_the_papers_network_has_14_styles_of_512() -> None:
    parts = resolve(registry().methods[METHOD].parts)(config_of("paper-t1w-te1-3"))
    assert parts["mapping"].inputs[0].shape == ("batch", 512)
    assert parts["synthesis"].inputs[0].shape == ("batch", 14, 512)


def test_the_default_gamma_is_the_references_at_256_pixels() -> None:
    assert r1_gamma(config_of("paper-t1w-te1-3")) == pytest.approx(0.82, abs=0.005)


def test_gamma_can_be_set() -> None:
    assert r1_gamma(tiny_config("loss.r1_gamma=2")) == 2


def test_the_papers_figures_are_reported_as_in_the_paper() -> None:
    assert [row["images"] for row in registry().methods[METHOD].reported] == ["18,600", "9,200"]


def test_the_readme_says_that_the_presets_hold_subjects_out() -> None:
    page = (ROOT / "plugins" / "zoo_stylegan2" / "README.md").read_text(encoding="utf-8")
    assert "`data.validation`, `data.test`" in page  # the paper trains on all subjects
