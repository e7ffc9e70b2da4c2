"""Saved evaluations, and which options an evaluator gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from zoo.errors import ArtifactError, ConfigError
from zoo.evaluation.run import evaluate, latest_evaluations
from zoo.imaging.phantom import write_phantom
from zoo.models.artifact import Artifact
from zoo.testing.helpers import no_bar


def _save(artifact: Artifact, name: str, stamp: str, value: float, digest: str | None = None) -> None:
    score = {"value": value, "unit": "", "better": "lower", "n": 5, "ci": None, "note": "", "images": None}
    content = {
        "model_sha256": digest or artifact.sha256,
        "evaluator": name,
        "scores": {"all/model/error": score, "all/floor/error": score},
    }
    file = artifact.folder / "evaluations" / f"{name}-{stamp}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def artifact(trained: Path, tmp_path: Path) -> Artifact:
    """A model in a folder of its own."""
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes((trained / "model.safetensors").read_bytes())
    return zoo.load(file.parent)


def test_the_newest_evaluation_of_each_evaluator_is_found(artifact: Artifact) -> None:
    _save(artifact, "one", "2026-01-31T10-20-30", 1.0)
    _save(artifact, "one", "2026-02-01T10-20-30", 2.0)
    _save(artifact, "another", "2026-01-01T10-20-30", 3.0)
    found = latest_evaluations(artifact)
    assert [(one["evaluator"], one["when"]) for one in found] == [
        ("another", "2026-01-01T10-20-30"),
        ("one", "2026-02-01T10-20-30"),
    ]
    assert found[1]["scores"]["all/error"]["value"] == 2.0
    assert list(found[1]["scores"]) == ["all/error"]


def test_evaluations_of_another_model_are_left_out(artifact: Artifact) -> None:
    _save(artifact, "one", "2026-01-31T10-20-30", 1.0, digest="0" * 64)
    assert latest_evaluations(artifact) == []


def test_a_damaged_evaluation_is_named(artifact: Artifact, zoo_command) -> None:
    _save(artifact, "one", "2026-01-31T10-20-30", 1.0)
    file = artifact.folder / "evaluations" / "one-2026-01-31T10-20-30.json"
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"one-2026-01-31T10-20-30\.json is no saved evaluation"):
        latest_evaluations(artifact)
    assert zoo_command("info", artifact.folder)[0] == 1


def test_info_shows_the_models_scores(artifact: Artifact, zoo_command) -> None:
    _save(artifact, "one", "2026-01-31T10-20-30", 0.25)
    code, out, err = zoo_command("info", artifact.folder)
    assert code == 0, err
    assert ["one", "2026-01-31T10-20-30", "all", "error", "0.25"] in [line.split() for line in out.splitlines()]
    code, out, err = zoo_command("info", artifact.folder, "--json")
    assert json.loads(out)["evaluations"][0]["scores"]["all/error"]["value"] == 0.25


def test_an_option_that_no_evaluator_has_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    cohort = write_phantom(tmp_path / "others", subjects=1, seed=9, spacing_mm=4.0)
    with pytest.raises(ConfigError, match="draw"):
        evaluate(artifact, cohort, evaluators=("inpainting", "realism"), options={"draw": 3}, bar=no_bar)
