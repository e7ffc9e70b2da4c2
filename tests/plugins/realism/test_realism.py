"""The evaluator ``realism``: scores, intervals, the baseline, and few subjects."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import zoo
from tests.conftest import TINY, train_briefly
from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation
from zoo.imaging.cohort import read_cohort
from zoo.imaging.phantom import write_phantom
from zoo_realism.config import RealismOptions
from zoo_realism.evaluation import HALVES, _resampled, realism


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four training steps."""
    folder = tmp_path_factory.mktemp("realism") / "run"
    return train_briefly(folder, "stylegan2-ada", phantom, "--images", "32", *TINY)


@pytest.fixture(scope="module")
def evaluated(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """The evaluation of the run on five unseen subjects."""
    others = write_phantom(tmp_path_factory.mktemp("others"), subjects=5, seed=7, spacing_mm=4.0)
    options = RealismOptions(samples=40, bootstraps=20)
    return realism(zoo.load(run), read_cohort(others), options, lambda done, total: None)


def _score(evaluation: Evaluation, filler: str, metric: str) -> Score:
    (found,) = (score for key, score in evaluation.scores.items() if (key.filler, key.metric) == (filler, metric))
    return found


@pytest.mark.parametrize("metric", ["frechet", "kernel"])
def test_a_distance_has_a_number_of_subjects_and_an_interval(evaluated: Evaluation, metric: str) -> None:
    score = _score(evaluated, MODEL, metric)
    assert score.n == 5
    assert score.ci[0] < score.value < score.ci[1]


@pytest.mark.parametrize("metric", ["frechet", "kernel"])
def test_noise_is_further_from_brains_than_brains_from_each_other(evaluated: Evaluation, metric: str) -> None:
    # After four steps of training the samples are noise.
    assert _score(evaluated, MODEL, metric).value > 3 * abs(_score(evaluated, HALVES, metric).value)


def test_the_features_and_the_numbers_are_recorded(evaluated: Evaluation) -> None:
    assert evaluated.about["features"] == "texture features, version 1: 63 per channel"
    assert evaluated.about["generated images"] == 40


def test_each_subject_has_a_row(evaluated: Evaluation) -> None:
    assert [row["subject"] for row in evaluated.by_subject] == [f"sub-00{n}" for n in range(1, 6)]
    assert sum(row["images"] for row in evaluated.by_subject) == evaluated.about["real images"]


def test_the_method_is_evaluated_by_realism_by_default(run: Path, phantom: Path, tmp_path: Path, zoo_command) -> None:
    others = write_phantom(tmp_path / "others", subjects=1, seed=9, spacing_mm=4.0)
    code, out, err = zoo_command(
        "evaluate", run, "--data", others, "--set", "samples=4", "--set", "bootstraps=10", "--json"
    )
    assert code == 0, err
    assert set(json.loads(out)["realism"]["scores"]) == {"samples/model/frechet", "samples/model/kernel"}


@pytest.mark.parametrize("subjects", [1, 2])
def test_few_subjects_have_no_interval(run: Path, tmp_path: Path, subjects: int) -> None:
    other = write_phantom(tmp_path / "other", subjects=subjects, seed=8, spacing_mm=4.0)
    options = RealismOptions(samples=8, bootstraps=10)
    found = realism(zoo.load(run), read_cohort(other), options, lambda done, total: None)
    own = [_score(found, MODEL, metric) for metric in ("frechet", "kernel")]
    assert all(score.ci is None and "full rank" in score.note for score in own)


@pytest.mark.parametrize(("subjects", "fillers"), [(1, {MODEL}), (2, {MODEL, HALVES})])
def test_one_subject_has_no_halves(run: Path, tmp_path: Path, subjects: int, fillers: set[str]) -> None:
    other = write_phantom(tmp_path / "other", subjects=subjects, seed=8, spacing_mm=4.0)
    found = realism(
        zoo.load(run), read_cohort(other), RealismOptions(samples=8, bootstraps=10), lambda done, total: None
    )
    assert {key.filler for key in found.scores} == fillers


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
