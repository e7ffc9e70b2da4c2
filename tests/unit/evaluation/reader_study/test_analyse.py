"""Figures of a reader study agree with the paper's, with scipy, scikit-learn, and a published kappa."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from tests.unit.evaluation.reader_study.simulate import simulated, write_answers, write_study
from zoo.errors import DataError
from zoo.evaluation.reader_study.analyse import ALL, analyse, chance_test, exact_interval, fleiss_kappa, roc_auc
from zoo.evaluation.reader_study.report import table3
from zoo.metrics.statistics import holm

CLASSES = ("benign", "malignant", "no-findings")
PAPER = {"reader-1": {"real": 155, "dcgan": 75, "wgan": 84}, "reader-2": {"real": 176, "dcgan": 90, "wgan": 92}}
"""Correct answers of the layperson and the radiologist that give Table 3 of the paper."""


def _counted(correct: dict[str, int]) -> Callable[[Any], dict[str, Any]]:
    """Return a reader who is right on the first cases of each source, as often as given."""
    left = dict(correct)

    def answer(case: Any) -> dict[str, Any]:
        if case.phase == "warm-up":
            return {"choice": "fake", "seconds": 1000.0}
        left[case.source] -= 1
        right = left[case.source] >= 0
        return {"choice": case.truth if right else {"real": "fake", "fake": "real"}[case.truth]}

    return answer


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's study: 240 real and 240 generated cases, and a warm-up of 24 each."""
    cases = [
        {"source": source, "class": name, "truth": "real" if source == "real" else "fake", "phase": phase}
        for phase, each in (("warm-up", 4), ("test", 40))
        for source in ("real", "real", "dcgan", "wgan")
        for name in CLASSES
        for _ in range(each)
    ]
    return write_study(tmp_path_factory.mktemp("paper") / "study", cases)


@pytest.fixture(scope="module")
def papers_answers(paper: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("answers")
    return [
        write_answers(
            paper, reader, _counted(correct), folder / f"{reader}.json", background={"role": role, "years": years}
        )
        for (reader, correct), role, years in zip(PAPER.items(), ("layperson", "radiologist"), (0, 7), strict=True)
    ]


def test_table_3_of_the_paper(paper: Path, papers_answers: list[Path]) -> None:
    analysis = analyse(paper, papers_answers)
    rows = [[cell.split(" %")[0] for cell in row.values()] for row in table3(analysis)]
    assert rows == [
        ["reader-1 (layperson)", "64.6", "62.5", "70.0"],
        ["reader-2 (radiologist)", "73.3", "75.0", "76.7"],
        ["mean of the readers", "69.0", "68.8", "73.3"],
    ]
    assert list(table3(analysis)[0]) == ["reader", "real called real", "dcgan called fake", "wgan called fake"]
    row = analysis.accuracy("reader-1", "dcgan")
    wanted = stats.binomtest(75, 120)
    assert (row.correct, row.n, row.chance) == (75, 120, 0.5)
    assert row.p == pytest.approx(wanted.pvalue)
    assert (row.low, row.high) == pytest.approx(tuple(wanted.proportion_ci(method="exact")))


def test_warm_up_answers_are_left_out(paper: Path, papers_answers: list[Path]) -> None:
    reader = analyse(paper, papers_answers[:1]).readers[0]
    assert (reader.n, reader.median, reader.minutes) == (480, 4.25, 480 * 4.25 / 60)


def test_classes_add_up_to_all(paper: Path, papers_answers: list[Path]) -> None:
    analysis = analyse(paper, papers_answers)
    for reader in PAPER:
        for source in (ALL, "real", "dcgan", "wgan"):
            parts = [analysis.accuracy(reader, source, name) for name in CLASSES]
            whole = analysis.accuracy(reader, source)
            assert (sum(part.correct for part in parts), sum(part.n for part in parts)) == (whole.correct, whole.n)


def test_all_p_values_of_a_reader_are_corrected_together(paper: Path, papers_answers: list[Path]) -> None:
    analysis = analyse(paper, papers_answers)
    rows = [row for row in (*analysis.accuracies, *analysis.discriminations) if row.reader == "reader-2"]
    tests = [row for row in rows if row.p is not None]
    assert len(tests) == 4 * 3 + 3
    assert [row.holm for row in tests] == pytest.approx(holm([row.p for row in tests if row.p is not None]))
    assert all(row.source == ALL and row.holm is None for row in rows if row.p is None)


def test_a_reader_who_calls_everything_fake_tells_nothing_apart(paper: Path) -> None:
    analysis = analyse(paper, [write_answers(paper, "reader-1", lambda case: {"choice": "fake"})])
    assert analysis.accuracy("reader-1", "dcgan").p < 1e-30
    assert [row.p for row in analysis.discriminations] == [1.0, 1.0, 1.0]


def test_a_guessing_reader_is_seldom_significant(paper: Path) -> None:
    found = []
    for seed in range(8):
        path = write_answers(paper, "reader-1", simulated(0.5, seed))
        analysis = analyse(paper, [path])
        found += [row for row in (*analysis.accuracies, *analysis.discriminations) if row.holm and row.holm < 0.05]
    assert len(found) <= 1


def test_a_good_reader_is_significant(paper: Path) -> None:
    analysis = analyse(paper, [write_answers(paper, "reader-1", simulated(0.8, 1))])
    assert all(row.holm < 0.001 for row in analysis.discriminations if row.holm is not None)
    assert all(row.low is not None and row.low > 0.6 for row in analysis.discriminations)


def test_chance_test_is_the_binomial_test_where_all_chances_are_equal() -> None:
    for correct, n, chance in ((0, 12, 0.25), (3, 12, 0.25), (9, 12, 0.5), (84, 120, 0.5), (12, 12, 0.1)):
        assert chance_test(correct, [chance] * n) == pytest.approx(stats.binomtest(correct, n, chance).pvalue)


def test_chance_test_with_a_chance_for_each_case() -> None:
    # Numbers of right guesses 0 … 2 have the probabilities 0.5 * 0.9, 0.5 * 0.9 + 0.5 * 0.1 and 0.5 * 0.1.
    assert chance_test(2, [0.5, 0.1]) == pytest.approx(0.05)
    assert chance_test(1, [0.5, 0.1]) == pytest.approx(1.0)
    assert chance_test(0, [0.5, 0.1]) == pytest.approx(0.5)
    assert chance_test(2, [1.0, 1.0]) == 1.0


def test_exact_interval_at_the_ends() -> None:
    assert exact_interval(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert exact_interval(20, 20) == pytest.approx((0.025 ** (1 / 20), 1))


def test_area_under_the_curve_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.integers(-3, 6, 60), random.integers(-5, 4, 80)
    area, low, high = roc_auc(positive, negative)
    assert area == pytest.approx(roc_auc_score([1] * 60 + [0] * 80, [*positive, *negative]))
    drawn = [roc_auc(random.choice(positive, 60), random.choice(negative, 80))[0] for _ in range(2000)]
    assert (low, high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.012)


def test_area_without_an_interval() -> None:
    assert roc_auc([1, 2, 3], [-1, 0]) == (1.0, None, None)
    assert roc_auc([2], [1, 3]) == (0.5, None, None)


def test_ratings_are_signed_by_the_choice(tmp_path: Path) -> None:
    write_study(tmp_path, [*[{"source": "real", "truth": "real"}] * 4, *[{"source": "gan", "truth": "fake"}] * 4])
    grades = [-5, -2, 1, -1, 5, 2, -3, 1]
    given = iter([{"choice": "fake" if grade > 0 else "real", "rating": abs(grade)} for grade in grades])
    path = write_answers(tmp_path, "reader-1", lambda case: next(given))
    [row] = analyse(tmp_path, [path]).discriminations
    assert row.auc == pytest.approx(roc_auc_score([0] * 4 + [1] * 4, grades))
    assert (row.source, row.positive_correct, row.negative_correct) == ("gan", 3, 3)
    assert row.p == pytest.approx(stats.fisher_exact([[3, 1], [1, 3]]).pvalue)


def test_without_ratings_there_is_no_curve_and_a_note(paper: Path, papers_answers: list[Path]) -> None:
    analysis = analyse(paper, papers_answers)
    assert all(row.auc is None for row in analysis.discriminations)
    assert "No ROC curve of reader-1, reader-2: not every case has a rating." in analysis.notes


FLEISS = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
          [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]  # fmt: skip
"""Ten subjects judged by 14 raters, the worked example of Wikipedia's page on Fleiss' kappa: P 0.378, kappa 0.210."""


def test_kappa_of_a_published_example() -> None:
    assert fleiss_kappa(np.array(FLEISS)) == pytest.approx((0.378, 0.210), abs=5e-4)


def test_kappa_of_the_study(paper: Path) -> None:
    same = [write_answers(paper, reader, simulated(0.7, 3)) for reader in PAPER]
    [whole, *classes] = analyse(paper, same).agreements
    assert (whole.agreement, whole.kappa, whole.low, whole.high, whole.n) == (1.0, 1.0, 1.0, 1.0, 480)
    assert [row.class_name for row in classes] == list(CLASSES)
    other = [write_answers(paper, reader, simulated(0.5, seed)) for seed, reader in enumerate(PAPER)]
    guessed = analyse(paper, other).agreements[0]
    assert guessed.low < 0 < guessed.high
    constant = [write_answers(paper, reader, lambda case: {"choice": "fake"}) for reader in PAPER]
    assert analyse(paper, constant).agreements[0].kappa is None


def test_a_study_of_pairs(tmp_path: Path) -> None:
    cases = [{"source": "gan", "truth": side} for side in ("left", "right") for _ in range(20)]
    write_study(tmp_path, cases, kind="pair")
    analysis = analyse(tmp_path, [write_answers(tmp_path, "reader-1", simulated(0.9, 0))])
    [row] = analysis.accuracies
    assert analysis.columns == ("gan",)
    assert row.p == pytest.approx(stats.binomtest(row.correct, 40).pvalue)
    [side] = analysis.discriminations
    assert side.positive_correct + side.negative_correct == row.correct


def test_a_study_of_lesions(tmp_path: Path) -> None:
    truth = {"width": 10, "slices": [{"slice": 3, "runs": [12, 2]}], "chance_of": "lesions", "target": 1}
    write_study(tmp_path, [{"source": "fills", "truth": {**truth, "candidates": n}} for n in (2, 4, 10)], kind="lesion")
    paths = [write_answers(tmp_path, f"reader-{number}", simulated(number - 1, 0)) for number in (1, 2)]
    analysis = analyse(tmp_path, paths)
    never, always = analysis.accuracies
    assert (never.correct, always.correct) == (0, 3)
    assert always.chance == pytest.approx((1 / 2 + 1 / 4 + 1 / 10) / 3)
    assert always.p == pytest.approx(1 / 80)
    assert analysis.discriminations == ()
    assert "1 of as many cases as the image has lesions" in " ".join(analysis.notes)


def test_a_reader_is_counted_once(paper: Path, papers_answers: list[Path], tmp_path: Path) -> None:
    again = write_answers(paper, "reader-1", simulated(0.6, 1), tmp_path / "again.json")
    with pytest.raises(DataError, match=r"again\.json are both of 'reader-1'"):
        analyse(paper, [papers_answers[0], again])
    with pytest.raises(DataError, match="--answers FILE"):
        analyse(paper, [])


def test_the_command_prints_json_and_writes_a_page(
    paper: Path, papers_answers: list[Path], tmp_path: Path, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    given = [word for path in papers_answers for word in ("--answers", path)]
    code, out, err = zoo_command("reader-study", "analyse", paper, *given, "--json", "--out", tmp_path / "report.html")
    assert code == 0, err
    assert json.loads(out) == json.loads(json.dumps(analyse(paper, papers_answers).to_json()))
    page = (tmp_path / "report.html").read_text()
    for words in ("64.6 %", "76.7 %", "real called real", "wgan called fake", "Clopper-Pearson", "data:image/png"):
        assert words in page
    code, out, _ = zoo_command("reader-study", "analyse", paper, *given)
    assert code == 0
    assert "reader-2 (radiologist)  73.3 % [67.3, 78.8], 176 of 240" in out


def test_the_command_refuses_in_one_line(
    paper: Path, papers_answers: list[Path], zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = zoo_command("reader-study", "analyse", paper.parent, "--answers", papers_answers[0])
    assert code == 1
    assert "study.json cannot be read" in err
