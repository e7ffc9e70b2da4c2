"""What an evaluation says of a model and its baselines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo.descriptors import Score
from zoo.errors import DataError
from zoo.evaluation.scores import Evaluation, Measure, explain


def _evaluation(model: list[float], baseline: list[float]) -> Evaluation:
    rows = [
        {"subject": f"sub-{n}", "masks": "lesions", "filled by": who, "ssim_in": value}
        for who, values in (("model", model), ("classic", baseline))
        for n, value in enumerate(values)
    ]
    scores = {
        Measure("lesions", who, "ssim_in"): Score(value=float(np.mean(values)), unit="", better="higher", n=len(values))
        for who, values in (("model", model), ("classic", baseline))
    }
    return Evaluation(scores, {}, rows)


def test_a_baseline_beats_the_model_by_the_difference_within_subjects() -> None:
    subjects = np.linspace(0.4, 0.9, 6)
    worse = _evaluation(list(subjects - 0.01 - 0.001 * np.arange(6)), list(subjects))
    (verdict,) = worse.verdicts()
    assert verdict.startswith("classic beats the model on lesions (ssim_in -0.0125 [-0.0145, -0.0105], 0 of 6")
    assert f"Baselines that win: {verdict}" in explain(worse)
    assert worse.paired_table() == [
        {"masks": "lesions", "model against": "classic", "ssim_in": "-0.0125 [-0.0145, -0.0105], 0 of 6"}
    ]


def test_a_difference_that_may_be_0_or_of_few_subjects_is_no_win() -> None:
    unsure = _evaluation([0.5, 0.6, 0.7, 0.8, 0.6], [0.6, 0.5, 0.8, 0.7, 0.65])
    few = _evaluation([0.5, 0.6], [0.6, 0.7])
    for evaluation, won in ((unsure, "2 of 5"), (few, "-0.1, 0 of 2")):
        (verdict,) = evaluation.verdicts()
        assert "better than the model on average, not for certain" in verdict
        assert won in verdict
    assert _evaluation([0.7, 0.8], [0.6, 0.7]).verdicts() == []


def test_scores_are_named_by_their_parts_in_json_and_tables() -> None:
    evaluation = _evaluation([0.5, 0.6], [0.6, 0.7])
    assert list(json.loads(json.dumps(evaluation.to_json()))["scores"]) == [
        "lesions/model/ssim_in",
        "lesions/classic/ssim_in",
    ]
    assert [(row["masks"], row["filled by"], row["ssim_in"]) for row in evaluation.table()] == [
        ("lesions", "model", "0.55"),
        ("lesions", "classic", "0.65"),
    ]


@pytest.mark.parametrize(
    "key",
    ["lesions/model/ssim_in", ("lesions", "model", "ssim_in"), Measure("a/b", "model", "c"), Measure("a", "", "c")],
)
def test_a_score_without_a_measure_of_three_parts_is_refused(key: object) -> None:
    score = Score(value=0.5, unit="", better="higher", n=1)
    with pytest.raises(DataError, match=r"Measure\(condition, filler, metric\)"):
        Evaluation({key: score}, {})  # type: ignore[dict-item]


def _of_sets(note: str = "") -> Evaluation:
    scores = {
        Measure("malignant", who, "frechet"): Score(
            value=value, unit="", better="lower", n=9, images=80, note=note if who == "model" else ""
        )
        for who, value in (("model", 4.0), ("real (floor)", 2.0))
    }
    return Evaluation(scores, {"seed": 3}, columns=("class", "set"), reading="Sets are compared.")


def test_scores_of_sets_have_a_column_of_images() -> None:
    assert _of_sets().table() == [
        {"class": "malignant", "set": "model", "n": 9, "images": 80, "frechet": "4"},
        {"class": "malignant", "set": "real (floor)", "n": 9, "images": 80, "frechet": "2"},
    ]
    assert "images" not in _evaluation([0.5], [0.6]).table()[0]


def test_the_text_says_how_scores_are_read() -> None:
    assert explain(_of_sets()) == "Sets are compared.\nseed: 3."
    assert explain(_evaluation([0.5], [0.6])).startswith("Means over subjects with 95 % intervals")


def test_a_limited_score_has_a_star_and_a_note() -> None:
    limited = _of_sets("fewer images than features")
    assert [row["frechet"] for row in limited.table()] == ["4 *", "2"]
    assert "* frechet: fewer images than features" in explain(limited)


def test_best_near_a_half_is_compared_by_the_distance_from_it() -> None:
    rows = [
        {"subject": f"sub-{n}", "masks": "all", "filled by": who, "1-nn": value}
        for who, value in (("model", 0.4), ("other", 0.9))
        for n in range(5)
    ]
    scores = {
        Measure("all", who, "1-nn"): Score(value=value, unit="", better="nearer 0.5", n=5)
        for who, value in (("model", 0.4), ("other", 0.9))
    }
    (comparison,) = Evaluation(scores, {}, rows).comparisons()
    assert comparison.paired.difference.mean == pytest.approx(-0.3)
    assert comparison.sign == 1
