"""Projecting a cohort: which images, how close the reconstructions are, and that a stopped projection resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.config import resolve_config
from zoo.descriptors import resolve
from zoo.errors import ArtifactError, ConfigError, DataError
from zoo.imaging.cohort import read_cohort
from zoo.models.artifact import Artifact, make_manifest, write_model
from zoo.registry import registry
from zoo.system.files import sha256
from zoo.tasks.project.files import Targets, choose_scans, find_targets, measure, project_files, summary
from zoo.tasks.projections import Projections

METHOD = "stylegan2-ada"
FAST = {"loss": "ssim+l2", "iterations": 6, "candidates": 3, "ramp_up": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def model(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random tiny generator that has seen sub-001."""
    method = registry().methods[METHOD]
    config = resolve_config(method, preset="tiny")
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    seen = sha256(phantom / "sub-001/anat/sub-001_T1w.nii.gz")
    write_model(file, resolve(method.build)(config), make_manifest(method, config, trained_on=[seen]))
    return zoo.load(file)


@pytest.fixture(scope="module")
def targets(model: Artifact, phantom: Path) -> Targets:
    cohort = choose_scans(model, read_cohort(phantom), subjects=("001", "sub-003"))
    return find_targets(model, cohort, positions=(0.5, 0.7))


def test_targets_are_slices_that_say_what_they_are(model: Artifact, phantom: Path, targets: Targets) -> None:
    assert [(row["subject"], row["trained_on"]) for row in targets.rows] == [
        ("sub-001", True), ("sub-001", True), ("sub-003", False), ("sub-003", False),
    ]  # fmt: skip
    assert [row["position"] for row in targets.rows[:2]] == pytest.approx([0.5, 0.7], abs=0.03)
    assert all(isinstance(row["covariates"]["age"], float) for row in targets.rows)
    assert all(isinstance(row["covariates"]["group"], str) for row in targets.rows)
    assert targets.images.shape == (4, 1, 40, 48)
    assert targets.lesions.shape == (4, 40, 48)
    cohort = choose_scans(model, read_cohort(phantom))
    assert "sub-001" not in cohort.subjects
    assert len(choose_scans(model, read_cohort(phantom), all_subjects=True).subjects) == 5
    one = cohort.subset(["sub-003"])
    every = find_targets(model, one, every=1)
    assert len(find_targets(model, one, every=3).rows) == -(-len(every.rows) // 3)
    assert len(find_targets(model, one).rows) == 6
    index = [row["slice"] for row in every.rows].index(targets.rows[2]["slice"])
    assert np.array_equal(every.images[index], targets.images[2])


def test_lesion_masks_lie_on_the_lesions(model: Artifact, phantom: Path) -> None:
    patients = [scan.subject for scan in read_cohort(phantom).scans if "lesion-mask" in scan.maps]
    found = find_targets(model, choose_scans(model, read_cohort(phantom), subjects=patients[:1]), every=1)
    held = [number for number in range(len(found.rows)) if found.lesions[number].sum() >= 4]
    assert held
    about = measure(torch.from_numpy(found.images), torch.from_numpy(found.images), found.lesions, ("T1w",))
    contrasts = [about[number]["lesions"]["T1w"]["target"] for number in held]
    assert np.mean(contrasts) < -0.05  # lesions are dark on T1w


def test_bad_choices_are_refused(model: Artifact, phantom: Path) -> None:
    cohort = read_cohort(phantom)
    with pytest.raises(DataError, match=r"no subject 'sub-0003'.*Did you mean 'sub-003'"):
        choose_scans(model, cohort, subjects=["0003"])
    with pytest.raises(DataError, match="were used in training"):
        choose_scans(model, cohort.subset(["sub-001"]))
    with pytest.raises(DataError, match=r"Position 0.95 of sub-001"):
        find_targets(model, cohort.subset(["sub-001"]), positions=(0.95,))
    with pytest.raises(ConfigError, match="give one of them"):
        find_targets(model, cohort, positions=(0.5,), every=2)


def test_lesion_contrast_is_measured_against_its_surroundings() -> None:
    lesions = np.zeros((1, 20, 20), bool)
    lesions[0, 8:12, 8:12] = True
    target = torch.full((1, 1, 20, 20), 0.5)
    target[0, 0][torch.from_numpy(lesions[0])] = 0.1
    made = torch.full((1, 1, 20, 20), 0.4)
    made[0, 0][torch.from_numpy(lesions[0])] = 0.3
    (about,) = measure(target, made, lesions, ("T1w",))
    assert about["lesions"]["T1w"] == pytest.approx(
        {"target": -0.4, "reconstruction": -0.1, "survives": 0.25}, abs=1e-6
    )
    assert about["losses"]["mse"] == pytest.approx(0.01 * 384 / 400 + 0.04 * 16 / 400, rel=1e-4)
    (none,) = measure(target, made, np.zeros_like(lesions), ("T1w",))
    assert none["lesions"] == {}
    (flat,) = measure(made * 0, made, lesions, ("T1w",))
    assert flat["lesions"]["T1w"]["survives"] is None


def test_figures_inside_the_head_leave_out_the_background() -> None:
    target = torch.full((2, 1, 40, 40), -1.0)
    target[0, 0, 10:30, 10:30] = 0.5
    made = target.clone()
    made[0, 0, 10:30, 10:30] = 0.3
    head, empty = (about["losses"] for about in measure(target, made, np.zeros((2, 40, 40), bool), ("T1w",)))
    assert head["psnr_head"] == pytest.approx(10 * np.log10(4 / 0.04), abs=1e-3)
    assert head["psnr"] == pytest.approx(head["psnr_head"] + 10 * np.log10(4), abs=1e-3)
    assert head["ssim_head"] < head["ssim"] - 0.05
    assert "ssim_head" not in empty


def test_subjects_count_once_in_the_summary() -> None:
    def row(subject: str, ssim: float) -> dict[str, Any]:
        return {"subject": subject, "losses": {"ssim": ssim, "psnr": 20.0, "mse": 0.1}, "lesions": {}}

    found = summary([row("sub-1", 0.8), row("sub-1", 0.9), row("sub-1", 0.7), row("sub-2", 0.6)])["ssim"]
    assert (found.n, found.mean) == (2, pytest.approx(0.7))


def test_an_interrupted_projection_goes_on_to_the_same_numbers(
    model: Artifact, targets: Targets, tmp_path: Path
) -> None:
    whole = project_files(model, targets, tmp_path / "whole", options=FAST)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "projections.json", "projections.png", "projections.safetensors",
    ]  # fmt: skip

    def stop(done: int, total: int) -> None:
        assert total == 4 * 6
        if done > 2 * 6 + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project_files(model, targets, tmp_path / "torn", options=FAST, progress=stop)
    assert [path.name for path in (tmp_path / "torn").iterdir()] == [".parts"]
    done: list[int] = []
    again = project_files(model, targets, tmp_path / "torn", options=FAST, progress=lambda now, total: done.append(now))
    assert done[0] == 2 * 6  # the first batch was there
    first, second = (Projections.read(report.projections) for report in (whole, again))
    assert first.rows == second.rows
    for one, other in zip(
        (first.codes, first.reconstruction, *first.noise),
        (second.codes, second.reconstruction, *second.noise),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert first.model_sha256 == model.sha256
    assert first.options["distance"] == "1 - SSIM + mean square"
    assert set(first.rows[0]["losses"]) == {
        "distance", "noise", "ssim", "psnr", "mse", "ssim_head", "psnr_head",
    }  # fmt: skip

    calls: list[int] = []
    project_files(model, targets, tmp_path / "torn", options=FAST, progress=lambda now, total: calls.append(now))
    assert not calls  # all is there
    with pytest.raises(ArtifactError, match="other images or with other settings"):
        project_files(model, targets, tmp_path / "torn", options={**FAST, "seed": 1})


def test_the_command_projects_unseen_subjects_and_says_how_well(
    model: Artifact, phantom: Path, tmp_path: Path, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    fast = ("--loss", "ssim+l2", "--iterations", 4, "--set", "candidates=2", "--positions", "0.5", "--json")
    code, out, err = zoo_command("project", model.path, "--data", phantom, "--out", tmp_path / "all", *fast)
    assert code == 0, err
    report = json.loads(out)
    assert report["images"] == 4
    assert report["trained_on"] == 0
    assert report["summary"]["ssim"]["n"] == 4
    assert json.loads((tmp_path / "all" / "projections.json").read_text())["rows"] == report["rows"]
    assert str(tmp_path) not in (tmp_path / "all" / "projections.json").read_text()

    code, out, err = zoo_command(
        "project", model.path, "--data", phantom, "--subjects", "001", "--out", tmp_path / "one", *fast
    )
    assert (code, json.loads(out)["trained_on"]) == (0, 1)
    assert "training has seen sub-001" in err
    image = phantom / "sub-003/anat/sub-003_T1w.nii.gz"
    code, out, err = zoo_command("project", model.path, "--image", image, "--out", tmp_path / "file", *fast)
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["subject"] == "sub-003"
    one, several = (Projections.read(tmp_path / name) for name in ("file", "all"))
    place = [row["subject"] for row in several.rows].index("sub-003")
    assert torch.equal(one.image[0], several.image[place])
    assert torch.allclose(one.codes[0], several.codes[place], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "either --data or --image"),
        (("--data", "D", "--subjects", "1", "--all"), 2, "contradict"),
        (("--data", "D", "--lesions", "L"), 2, "--lesions belongs to --image"),
        (("--image", "I", "--all"), 2, "leave them out"),
        (("--image", "I", "--image", "I"), 1, "give --image 1 times"),
        (("--data", "D", "--positions", "low"), 2, "not a list of positions"),
    ],
)
def test_wrong_calls_are_refused(
    arguments: tuple[str, ...], code: int, words: str, model: Artifact, tmp_path: Path,
    zoo_command: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    told = zoo_command("project", model.path, "--out", tmp_path / "none", *arguments)
    assert (told[0], words in told[2]) == (code, True), told[2]
    assert not (tmp_path / "none").exists()
