"""Sampling with a trained StyleGAN2-ADA, and the score of its discriminator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import zoo
from zoo.models.artifact import Artifact
from zoo.models.run import Run
from zoo.training.state import load_state
from zoo_stylegan2.config import StyleGANConfig, StyleGANOptions
from zoo_stylegan2.networks import build_discriminator
from zoo_stylegan2.tasks import discriminator_score, sample

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def artifact(run: Path) -> Artifact:
    """The model of the run."""
    return zoo.load(run)


@pytest.fixture(scope="module")
def samples(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five samples."""
    from zoo.cli import main

    folder = tmp_path_factory.mktemp("samples") / "some"
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(run), "-n", "5", "--out", str(folder), "--seed", "3", "--batch", "2"])
    assert not stop.value.code
    return folder


def test_samples_are_numbered_images(samples: Path) -> None:
    assert sorted(path.name for path in samples.glob("*.nii.gz")) == [
        f"sample-{number:04d}_T1w.nii.gz" for number in range(5)
    ]


def test_a_sample_has_the_size_and_spacing_of_the_model(samples: Path) -> None:
    image = nibabel.load(samples / "sample-0004_T1w.nii.gz")
    assert image.shape == (40, 48, 1)
    assert tuple(image.header.get_zooms()) == (4, 4, 4)


def test_the_sidecar_says_that_a_sample_is_synthetic(samples: Path) -> None:
    sidecar = json.loads((samples / "sample-0004_T1w.json").read_text())
    assert (sidecar["Synthetic"], sidecar["Sample"]) == (True, 4)
    assert str(samples.parent) not in json.dumps(sidecar)


def test_samples_of_another_model_are_not_mixed_with_new_ones(
    run: Path, samples: Path, tmp_path: Path, zoo_command: Command
) -> None:
    sidecar = json.loads((samples / "sample-0004_T1w.json").read_text())
    (tmp_path / "sample-0004_T1w.json").write_text(json.dumps({**sidecar, "ModelSHA256": "of another"}))
    code, _, err = zoo_command("sample", run, "-n", "1", "--out", tmp_path)
    assert (code, "holds samples of another model, such as sample-0004_T1w.json" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["sample-0004_T1w.json"]


def test_a_sample_does_not_depend_on_its_batch(run: Path, samples: Path, tmp_path: Path, zoo_command: Command) -> None:
    code, _, err = zoo_command("sample", run, "-n", 1, "--first", 4, "--out", tmp_path / "one", "--seed", 3)
    assert code == 0, err
    alone, among = (
        nibabel.load(folder / "sample-0004_T1w.nii.gz").get_fdata() for folder in (tmp_path / "one", samples)
    )
    assert np.abs(alone - among).max() < 1e-6


def test_truncation_to_0_leaves_only_the_noise_to_differ(artifact: Artifact) -> None:
    assert isinstance(artifact.config, StyleGANConfig)
    varied, mean = (
        sample(artifact.parts(), artifact.config, [1, 2, 3], StyleGANOptions(truncation=psi)).images.std(0).mean()
        for psi in (1.0, 0.0)
    )
    assert float(mean) < 0.5 * float(varied)


def test_a_truncation_out_of_range_is_refused(run: Path, tmp_path: Path, zoo_command: Command) -> None:
    code, _, err = zoo_command("sample", run, "--out", tmp_path / "none", "--truncation", "3")
    assert (code, "truncation" in err) == (1, True)


@pytest.fixture(scope="module")
def images(artifact: Artifact) -> torch.Tensor:
    """Eight random images ``[N, 1, H, W]``."""
    return torch.rand(8, 1, *artifact.config.size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_score_does_not_depend_on_other_images(run: Path, artifact: Artifact, images: torch.Tensor) -> None:
    assert isinstance(artifact.config, StyleGANConfig)
    score = discriminator_score(artifact.config, Run.open(run).checkpoint(64), "cpu")
    assert torch.allclose(score(images[:3], images)[2:], score(images[2:3], images), atol=1e-5)


def test_a_score_is_the_discriminators_in_a_group_with_companions(
    run: Path, artifact: Artifact, images: torch.Tensor
) -> None:
    assert isinstance(artifact.config, StyleGANConfig)
    checkpoint = Run.open(run).checkpoint(64)
    network = build_discriminator(artifact.config)
    network.load_state_dict(load_state(checkpoint)["trainer"]["discriminator"])
    group = torch.cat([images[7:], images[:3]])
    score = discriminator_score(artifact.config, checkpoint, "cpu")
    assert torch.allclose(score(images[7:], images), network(group)[:1], atol=1e-5)
