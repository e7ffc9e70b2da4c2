"""The evaluator ``realism``: classes, the floor of equal numbers, draws, networks, and few subjects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from tests.plugins.realism.conftest import Copies
from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation, explain
from zoo.imaging.cohort import Cohort
from zoo.imaging.phantom import write_phantom
from zoo.models.artifact import Artifact
from zoo_realism.config import RealismOptions
from zoo_realism.evaluation import FLOOR, MODEL_AT_FLOOR, realism

SETS = {"frechet", "kernel", "precision", "recall", "density", "coverage", "1-nn real", "1-nn generated"}


def _evaluate(artifact: Artifact, cohort: Cohort, **options: object) -> Evaluation:
    return realism(artifact, cohort, RealismOptions(**options), lambda done, total: None)


def _score(evaluation: Evaluation, condition: str, filler: str, metric: str) -> Score:
    (found,) = (score for key, score in evaluation.scores.items() if key == (condition, filler, metric))
    return found


@pytest.fixture(scope="module")
def evaluated(run: Path, others: Cohort) -> Evaluation:
    """The evaluation of an untrained generator of slices."""
    return _evaluate(zoo.load(run), others, samples=160)


def test_every_metric_is_measured(evaluated: Evaluation) -> None:
    assert {key.metric for key in evaluated.scores if key.filler == MODEL} == {*SETS, "ms-ssim"}
    assert all(score.value is not None and score.ci for score in evaluated.scores.values())
    assert all(score.n == 12 for score in evaluated.scores.values())


def test_noise_is_further_from_brains_than_brains_from_each_other(evaluated: Evaluation) -> None:
    # After four steps of training the samples are noise.
    for metric in ("frechet", "kernel"):
        floor = _score(evaluated, "all", FLOOR, metric)
        assert _score(evaluated, "all", MODEL_AT_FLOOR, metric).value > 3 * abs(floor.value)
    assert _score(evaluated, "all", MODEL, "1-nn real").value == 1
    assert _score(evaluated, "all", FLOOR, "coverage").value > 0.5


def test_the_floor_is_compared_with_as_many_images_of_the_model(evaluated: Evaluation) -> None:
    images = {key.filler: score.images for key, score in evaluated.scores.items() if key.metric == "frechet"}
    assert images[MODEL] == 160
    assert images[FLOOR] == images[MODEL_AT_FLOOR] < 160


def test_where_the_floor_has_as_many_images_there_is_one_row_of_the_model(run: Path, others: Cohort) -> None:
    assert {key.filler for key in _evaluate(zoo.load(run), others, samples=8).scores} == {MODEL, FLOOR}


def test_the_record_says_what_was_compared(evaluated: Evaluation) -> None:
    assert evaluated.about["features"].startswith("texture features")
    assert len(evaluated.about["extractor"]) == 12
    assert evaluated.about["subjects"] == 12
    assert evaluated.about["seed"] == 0
    assert not evaluated.comparisons()
    assert "compares real images of one half" in explain(evaluated)
    assert "No baseline wins" not in explain(evaluated)


def test_each_subject_has_a_row(evaluated: Evaluation) -> None:
    assert [row["subject"] for row in evaluated.by_subject] == [f"sub-0{n:02d}" for n in range(1, 13)]
    assert sum(row["images"] for row in evaluated.by_subject) <= evaluated.about["real images"]


def test_the_same_seed_gives_the_same_scores(run: Path, others: Cohort) -> None:
    first, again, other = (_evaluate(zoo.load(run), others, samples=12, seed=seed) for seed in (1, 1, 2))
    assert first.scores == again.scores
    assert first.scores != other.scores


def test_fewer_images_than_features_are_warned_of_in_the_text(run: Path, others: Cohort) -> None:
    few = _evaluate(zoo.load(run), others, samples=20)
    assert "* frechet: WARNING: fewer images than the 63 features" in explain(few)


def test_classes_are_measured_apart(copies: Copies, others: Cohort) -> None:
    evaluation = _evaluate(copies(others), others, samples=40)
    for name in ("positive", "negative"):
        assert _score(evaluation, name, MODEL, "class fidelity").value > 0.95
        assert _score(evaluation, name, FLOOR, "class fidelity").value > 0.9
        assert _score(evaluation, name, MODEL, "frechet").images == 40
    assert len(evaluation.by_subject) == 24


def test_images_of_the_wrong_class_are_found(copies: Copies, others: Cohort) -> None:
    artifact = copies(others)
    right = _evaluate(artifact, others, samples=40)
    file = dict(np.load(artifact.config.source))
    np.savez(artifact.config.source, images=file["images"], labels=1 - file["labels"])
    wrong = _evaluate(artifact, others, samples=40)
    for name in ("positive", "negative"):
        assert _score(wrong, name, MODEL, "class fidelity").value < 0.05
        assert _score(wrong, name, MODEL, "frechet").value > 3 * _score(right, name, MODEL, "frechet").value


def test_draws_are_of_different_images(copies: Copies, others: Cohort) -> None:
    score = _score(_evaluate(copies(others), others, samples=12, draws=3), "positive", MODEL, "frechet")
    assert "mean of 3 draws, standard deviation between draws" in score.note
    assert score.images == 12


def test_a_class_that_no_unseen_subject_has_is_named(
    copies: Copies, others: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = copies(others)
    monkeypatch.setattr("tests.plugins.realism.toy.PATCHES", 1)  # of each subject the first, a positive one
    evaluation = _evaluate(artifact, others, samples=20)
    missing = _score(evaluation, "negative", MODEL, "frechet")
    assert missing.value is None
    assert "the unseen subjects have 0 of the class 'negative'" in missing.note
    assert _score(evaluation, "positive", MODEL, "frechet").value is not None


@pytest.mark.parametrize(("subjects", "fillers"), [(1, {MODEL}), (2, {MODEL, FLOOR, MODEL_AT_FLOOR})])
def test_few_subjects_have_no_interval_and_one_has_no_floor(
    run: Path, others: Cohort, subjects: int, fillers: set[str]
) -> None:
    found = _evaluate(zoo.load(run), others.subset(others.subjects[:subjects]), samples=40)
    assert {key.filler for key in found.scores} == fillers
    assert all(_score(found, "all", MODEL, metric).ci is None for metric in ("frechet", "kernel", "coverage"))
    assert all(score.value is not None or score.note for score in found.scores.values())


class _Grey(nn.Module):
    """Two features of images of three channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3
        return torch.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], dim=1)


def test_a_network_sees_one_channel_in_grey(run: Path, others: Cohort, tmp_path: Path) -> None:
    torch.jit.script(_Grey()).save(str(tmp_path / "grey.pt"))
    found = _evaluate(zoo.load(run), others, samples=16, features=f"torchscript:{tmp_path / 'grey.pt'}")
    assert _score(found, "all", MODEL, "frechet").value > 0
    assert "not the Fréchet Inception distance" in found.about["frechet"]


def test_inception_without_weights_says_where_they_are_looked_for(
    run: Path, others: Cohort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DataError, match=f"weights-inception.* in {tmp_path}.* 'texture' need no weights"):
        _evaluate(zoo.load(run), others, samples=4, features="inception")


def test_it_is_run_by_default_and_shown_by_info(run: Path, tmp_path: Path, zoo_command) -> None:
    others = write_phantom(tmp_path / "others", subjects=1, seed=9, spacing_mm=4.0)
    code, out, err = zoo_command("evaluate", run, "--data", others, "--set", "samples=12", "--json")
    assert code == 0, err
    saved = json.loads(out)["realism"]["scores"]
    assert saved["all/model/frechet"]["images"] == 12
    code, out, err = zoo_command("info", run)
    assert code == 0, err
    (line,) = (line for line in out.splitlines() if line.startswith("realism"))
    assert f"frechet {saved['all/model/frechet']['value']:.3g};" in line
