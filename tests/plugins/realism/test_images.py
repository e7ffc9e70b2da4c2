"""Sets of real and generated images, and their features in the cache."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import zoo
from tests.plugins.realism.conftest import Copies
from zoo.errors import DataError
from zoo.imaging.cohort import Cohort, read_cohort
from zoo.metrics.features import load_extractor
from zoo.tasks.sample.files import sample_files
from zoo_realism.images import ALL, ImageSet, features_of, generated_images, real_images


def test_real_images_have_subjects_and_channels(run: Path, phantom: Path) -> None:
    real = real_images(zoo.load(run), read_cohort(phantom))
    assert real.images.shape == (len(real), 1, 40, 48)
    assert set(real.subjects) == {f"sub-00{n}" for n in range(1, 6)}
    assert real.channels == ("T1w",)
    assert set(real.classes) == {ALL}
    assert torch.equal(real.take([3, 0]), real.images[[3, 0]])


def test_other_subjects_make_another_digest(run: Path, phantom: Path) -> None:
    cohort = read_cohort(phantom)
    whole, part = (real_images(zoo.load(run), some) for some in (cohort, cohort.subset(["sub-001"])))
    assert whole.digest != part.digest
    assert whole.digest == real_images(zoo.load(run), cohort).digest


def test_a_generated_image_is_the_one_that_zoo_sample_writes(run: Path, tmp_path: Path) -> None:
    artifact = zoo.load(run)
    written = sample_files(artifact, tmp_path / "samples", count=1, first=5, options={"seed": 3}).images[0]
    generated = generated_images(artifact, per_class=7, seed=3).take([5])
    decoded = nibabel.load(written).get_fdata()[..., 0]
    assert np.abs(decoded - (generated[0, 0].numpy() + 1) / 2).max() < 1e-5


def test_generated_images_have_the_class_that_they_were_asked_for(copies: Copies, others: Cohort) -> None:
    generated = generated_images(copies(others), per_class=5, seed=1)
    assert generated.classes == ("positive",) * 5 + ("negative",) * 5
    brightness = generated.images.mean((1, 2, 3))
    real = real_images(copies(others), others)
    for name in ("positive", "negative"):
        own = real.images[real.rows(name)]
        assert all((own == image).flatten(1).all(1).any() for image in generated.images[generated.rows(name)])
    assert torch.equal(generated.take([7, 2]).mean((1, 2, 3)), brightness[[7, 2]])


def test_progress_is_told(copies: Copies, others: Cohort) -> None:
    told: list[tuple[int, int]] = []
    generated = generated_images(copies(others), 40, progress=lambda done, total: told.append((done, total)))
    assert len(generated.images) == 80
    assert told == [(64, 80), (80, 80)]


def test_features_are_computed_once(copies: Copies, others: Cohort) -> None:
    generated = generated_images(copies(others), per_class=4, seed=2)
    taken: list[int] = []
    counted = replace(generated, take=lambda rows: (taken.extend(rows), generated.take(rows))[1])
    extractor = load_extractor("texture")
    first = features_of(extractor, counted)
    again = features_of(extractor, counted)
    assert torch.equal(first, again)
    assert torch.allclose(first, extractor.features(generated.images))
    assert taken == list(range(8))


def test_other_seeds_and_numbers_have_features_of_their_own(copies: Copies, others: Cohort) -> None:
    artifact = copies(others)
    sets = [generated_images(artifact, number, seed) for number, seed in ((4, 0), (4, 1), (5, 0))]
    assert len({one.digest for one in sets}) == 3
    assert generated_images(artifact, 4, 0).digest == sets[0].digest


def test_a_changed_sampler_makes_another_digest(copies: Copies, others: Cohort) -> None:
    artifact = copies(others)
    before = generated_images(artifact, 4).digest
    file = dict(np.load(artifact.config.source))
    np.savez(artifact.config.source, images=-file["images"], labels=file["labels"])
    assert generated_images(artifact, 4).digest != before


def test_features_of_one_channel(others: Cohort) -> None:
    images = torch.rand(5, 2, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    extractor = load_extractor("texture")
    one = features_of(extractor, ImageSet.of(images, ("T1w", "FLAIR")), channels=("FLAIR",))
    assert torch.allclose(one, extractor.features(images[:, 1:]))


def test_a_method_without_real_examples_is_refused(run: Path, phantom: Path) -> None:
    artifact = zoo.load(run)
    method = copy.copy(artifact.method)
    object.__setattr__(method, "real", "")
    artifact.method = method
    with pytest.raises(DataError, match="'stylegan2-ada' names no real examples"):
        real_images(artifact, read_cohort(phantom))
