"""The evaluator ``realism``: scores, intervals, the baseline, and few subjects."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import zoo
from tests.conftest import TINY, train_briefly
from zoo.errors import DataError
from zoo.imaging.cohort import read_cohort
from zoo.imaging.phantom import write_phantom
from zoo_realism.config import RealismOptions
from zoo_realism.evaluation import _resampled, realism


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four training steps."""
    folder = tmp_path_factory.mktemp("realism") / "run"
    return train_briefly(folder, "stylegan2-ada", phantom, "--images", "32", *TINY)


def test_distances_come_with_numbers_intervals_and_a_baseline(run: Path, tmp_path: Path, zoo_command) -> None:
    others = write_phantom(tmp_path / "others", subjects=5, seed=7, spacing_mm=4.0)
    code, out, err = zoo_command(
        "evaluate", run, "--data", others, "--set", "samples=40", "--set", "bootstraps=20", "--json"
    )
    assert code == 0, err
    found = json.loads(out)["realism"]
    scores = found["scores"]
    assert set(scores) == {
        f"samples/{who}/{name}" for who in ("model", "real-halves") for name in ("frechet", "kernel")
    }
    for name in ("frechet", "kernel"):
        own = scores[f"samples/model/{name}"]
        assert own["n"] == 5
        assert own["ci"][0] < own["value"] < own["ci"][1]
        # Noise, after four steps of training, is further from brains than brains are from each other.
        assert own["value"] > 3 * abs(scores[f"samples/real-halves/{name}"]["value"])
    assert found["about"]["features"] == "fixed set of 17 features per channel"
    assert found["about"]["generated images"] == 40
    assert [row["subject"] for row in found["by_subject"]] == [f"sub-00{n}" for n in range(1, 6)]
    assert sum(row["images"] for row in found["by_subject"]) == found["about"]["real images"]


@pytest.mark.parametrize("subjects", [1, 2])
def test_few_subjects_have_no_interval(run: Path, tmp_path: Path, subjects: int) -> None:
    other = write_phantom(tmp_path / "other", subjects=subjects, seed=8, spacing_mm=4.0)
    options = RealismOptions(samples=8, bootstraps=10)
    found = realism(zoo.load(run), read_cohort(other), options, lambda done, total: None)
    own = [score for measure, score in found.scores.items() if measure.filler == "model"]
    assert len(own) == 2
    assert len(found.scores) == (2 if subjects == 1 else 4)
    assert all(score.ci is None and "full rank" in score.note for score in own)


def test_a_method_without_real_examples_is_refused(run: Path, phantom: Path) -> None:
    artifact = zoo.load(run)
    method = copy.copy(artifact.method)
    object.__setattr__(method, "real", "")
    artifact.method = method
    with pytest.raises(DataError, match="'stylegan2-ada' names no real examples"):
        realism(artifact, read_cohort(phantom), RealismOptions(samples=2), lambda done, total: None)


def test_resampling_keeps_the_images_of_a_subject_together() -> None:
    real = torch.arange(10.0)[:, None].expand(10, 2)
    rows = {f"sub-{n}": torch.tensor([2 * n, 2 * n + 1]) for n in range(5)}

    def measure(first: torch.Tensor, second: torch.Tensor) -> float:
        pairs = first[:, 0].reshape(5, 2)
        assert (pairs[:, 1] == pairs[:, 0] + 1).all()
        assert (pairs[:, 0] % 2 == 0).all()
        return 0.0

    options = RealismOptions(bootstraps=30)
    resampled = _resampled(real, real, rows, options, lambda done: None, {"mean": measure})
    assert len(resampled["mean"]) == 30
