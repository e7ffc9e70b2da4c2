"""The training images of StyleGAN2-ADA: which slices, cut where, and with which channels."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.plugins.stylegan2.conftest import tiny_config
from zoo.errors import DataError
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo_stylegan2.config import SliceConfig, StyleGANConfig
from zoo_stylegan2.examples import StyleGANExamples, crop_around, slices_between, to_network

HEAD = (10, 31)
"""First slice of a head and the one past its last."""


@pytest.fixture(scope="module")
def config() -> StyleGANConfig:
    """Slices from the middle fifth of the head."""
    return tiny_config("slices.between=0.4,0.6")


@pytest.fixture(scope="module")
def packed(phantom: Path, config: StyleGANConfig) -> PackedCohort:
    """The packed phantom."""
    return pack_cohort(read_cohort(phantom), config.data)


def test_slices_are_chosen_by_position() -> None:
    chosen = slices_between(HEAD, SliceConfig(between=(0.25, 0.75)), "sub-1")
    assert [index for index, _ in chosen] == list(range(15, 26))
    assert (chosen[0][1], chosen[-1][1]) == (0.25, 0.75)


def test_counted_slices_are_the_middle_ones() -> None:
    chosen = slices_between(HEAD, SliceConfig(between=(0.0, 1.0), count=5), "sub-1")
    assert [index for index, _ in chosen] == [18, 19, 20, 21, 22]


def test_too_few_slices_are_refused_with_the_scan() -> None:
    with pytest.raises(DataError, match=r"sub-1 has 11 slices between positions 0.25 and 0.75.*slices.count 71"):
        slices_between(HEAD, SliceConfig(between=(0.25, 0.75), count=71), "sub-1")


def test_the_window_is_centred_on_the_head() -> None:
    image = np.full((1, 10, 12), -1.0, np.float32)
    image[0, 6:10, 2:6] = np.arange(16).reshape(4, 4)
    window = crop_around(image, ((6, 10), (2, 6)), (6, 6))
    assert np.array_equal(window[0, 1:5, 1:5], image[0, 6:10, 2:6])


def test_beyond_the_image_is_background() -> None:
    window = crop_around(np.zeros((1, 10, 12), np.float32), ((6, 10), (2, 6)), (6, 6))
    assert (window[0, 5] == -1).all()
    assert (window[0, :5] == 0).all()


def test_pooling_averages_pixels() -> None:
    config = tiny_config("size=8,8", "slices.pool=2")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16)).astype(np.float32)
    seen = to_network(image, ((0, 16), (0, 16)), config)
    assert seen.shape == (1, 8, 8)
    assert seen[0, 2, 3] == pytest.approx(image[0, 4:6, 6:8].mean())


def test_a_contrast_is_copied_to_several_channels() -> None:
    config = tiny_config("size=8,8", "copies=3")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8)).astype(np.float32)
    seen = to_network(image, ((0, 8), (0, 8)), config)
    assert seen.shape == (3, 8, 8)
    assert np.array_equal(seen[0], seen[2])


def test_examples_lie_within_the_positions(packed: PackedCohort, config: StyleGANConfig) -> None:
    examples = StyleGANExamples(config, packed)
    positions = [
        float(examples.example(index, np.random.default_rng(0))["slice_position"]) for index in range(len(examples))
    ]
    assert len(positions) >= 5 * len(packed.scans)
    assert all(0.4 <= position <= 0.6 for position in positions)


def test_examples_show_a_head_surrounded_by_background(packed: PackedCohort, config: StyleGANConfig) -> None:
    examples = StyleGANExamples(config, packed)
    for index in range(len(examples)):
        image = examples.example(index, np.random.default_rng(0))["image"]
        assert image.shape == (1, *config.size)
        assert (image > -0.9).mean() > 0.3
        assert (image[:, 0] < -0.9).all()


def test_examples_keep_intensities(packed: PackedCohort, config: StyleGANConfig) -> None:
    examples = StyleGANExamples(config, packed)
    _, index, _ = examples.places[0]
    expected = packed.scans[0].images[index, 0].max()
    assert examples.example(0, np.random.default_rng(0))["image"].max() == pytest.approx(float(expected), abs=1e-3)


def test_each_echo_is_a_contrast(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    for echo in (1, 2, 3):
        nibabel.save(image, folder / f"sub-01_echo-{echo}_MEGRE.nii.gz")
    (scan,) = read_cohort(tmp_path).scans
    assert sorted(scan.images) == ["echo-1_MEGRE", "echo-2_MEGRE", "echo-3_MEGRE"]
