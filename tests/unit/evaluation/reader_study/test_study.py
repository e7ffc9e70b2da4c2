"""Files of a reader study are read strictly, and a refusal names the file, the case and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.reader_study.simulate import write_answers, write_study
from zoo.errors import ArtifactError, DataError
from zoo.evaluation.reader_study.study import KEY_FILE, STUDY_FILE, Click, LesionTruth, ReaderStudy, checksum, sealed

CASES = [
    {"source": "real", "truth": "real", "phase": "warm-up"},
    *[{"source": "real", "truth": "real"} for _ in range(3)],
    *[{"source": "dcgan", "truth": "fake"} for _ in range(3)],
]


def _right(case: Any) -> dict[str, Any]:
    return {"choice": case.truth}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", CASES)


@pytest.fixture
def file(folder: Path) -> Path:
    return write_answers(folder, "reader-1", _right)


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a file and give it a new checksum."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(sealed(content))


def test_answers_are_read_as_written(folder: Path, file: Path) -> None:
    study = ReaderStudy.read(folder)
    answers = study.read_answers(file)
    assert answers.reader == "reader-1"
    assert answers.background.years == 7
    assert [study.key[answer.case].truth for answer in answers.answers] == [answer.choice for answer in answers.answers]
    assert len(answers.answers) == 7
    assert len(study.test_cases) == 6


def test_a_checksum_does_not_depend_on_order_spaces_or_itself() -> None:
    content = {"b": [1, 2.5, None], "a": {"ä": "ö"}}
    assert checksum({"sha256": "x", "a": {"ä": "ö"}, "b": [1, 2.5, None]}) == checksum(content)
    assert checksum({**content, "b": [1, 2.5]}) != checksum(content)
    # sha256sum of {"a":{"ä":"ö"},"b":[1,2.5,null]}
    assert checksum(content) == "686c7cd7c7e14d814acf6e34918c1a5f7de747d6984196942db32e39d1d871fd"


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...]]] = {
    "incomplete": (lambda c: c["answers"].pop(), ("5 of 6 cases are answered", "'c0006'", "Open reader-1.html")),
    "doubled case": (lambda c: c["answers"].append(c["answers"][2]), ("'c0002' 2 times", "download")),
    "another study": (lambda c: c.update(study="ba9876543210"), ("'ba9876543210'", "name the folder")),
    "unknown reader": (lambda c: c.update(reader="reader-9"), ("'reader-9'", "reader-1, reader-2")),
    "unknown case": (lambda c: c["answers"][1].update(case="zzzz"), ("'zzzz'", "does not have")),
    "other phase": (lambda c: c["answers"][1].update(phase="warm-up"), ("'c0001'", "case of the test")),
    "unknown choice": (lambda c: c["answers"][1].update(choice="maybe"), ("'c0001', choice", "'maybe'")),
    "other kind": (lambda c: c["answers"][1].update(choice="left"), ("'c0001' is 'left'", "real or fake", "kind")),
    "clicked": (
        lambda c: c["answers"][1].update(choice={"slice": 0, "x": 1, "y": 1}),
        ("'c0001' is a place", "real or fake"),
    ),
    "text for a number": (lambda c: c["answers"][1].update(seconds="4"), ("'c0001', seconds", "'4'")),
    "flag for a number": (lambda c: c["answers"][1].update(rating=True), ("'c0001', rating", "True")),
    "rating": (lambda c: c["answers"][1].update(rating=6), ("'c0001', rating", "5", "got 6")),
    "nan": (lambda c: c["answers"][1].update(seconds=float("nan")), ("'c0001', seconds", "finite", "nan")),
    "infinite": (lambda c: c["answers"][1].update(seconds=float("inf")), ("'c0001', seconds", "finite")),
    "negative": (lambda c: c["answers"][1].update(seconds=-1), ("'c0001', seconds", "got -1")),
    "missing key": (lambda c: c["answers"][1].pop("seconds"), ("'c0001', seconds", "required")),
    "unknown key": (lambda c: c.update(comment="x"), ("comment", "not permitted")),
    "no list": (lambda c: c.update(answers={}), ("answers", "got {}")),
    "no object": (lambda c: c["answers"].__setitem__(1, 3), ("answers", "got 3")),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_refused(name: str, folder: Path, file: Path) -> None:
    change, words = WRONG[name]
    _change(file, change)
    with pytest.raises(DataError) as refused:
        ReaderStudy.read(folder).read_answers(file)
    for word in (str(file), *words):
        assert word in str(refused.value)


def test_the_warm_up_may_be_left_out(folder: Path, file: Path) -> None:
    _change(file, lambda content: content["answers"].pop(0))
    assert len(ReaderStudy.read(folder).read_answers(file).answers) == 6


def test_a_changed_file_is_called_an_accident(folder: Path, file: Path) -> None:
    file.write_text(file.read_text().replace('"choice": "fake"', '"choice": "real"', 1))
    with pytest.raises(DataError, match=r"checksum.*accident.*download the answers once more"):
        ReaderStudy.read(folder).read_answers(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000])
def test_what_is_no_file_of_answers_is_refused(text: str, folder: Path, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(DataError, match=file.name):
        ReaderStudy.read(folder).read_answers(file)


def test_a_newer_format_asks_for_an_update(folder: Path, file: Path) -> None:
    _change(file, lambda content: content.update(format=2))
    with pytest.raises(ArtifactError, match=r"format 2.*pip install -U"):
        ReaderStudy.read(folder).read_answers(file)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.json cannot be read"):
        ReaderStudy.read(folder).read_answers(tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"study.json cannot be read"):
        ReaderStudy.read(tmp_path)


KEY_WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another study": (lambda key: key.update(study="ba9876543210"), "key of study ba9876543210"),
    "unknown source": (lambda key: key["cases"][1].update(source="wgan"), "'c0001' is of 'wgan'"),
    "unknown class": (lambda key: key["cases"][1].update({"class": "benign"}), "class 'benign'"),
    "wrong truth": (lambda key: key["cases"][1].update(truth="fake"), "truth of case 'c0001'"),
    "lacks a case": (lambda key: key["cases"].pop(), "5 cases"),
    "doubled case": (lambda key: key["cases"].append(key["cases"][1]), "6 cases of the test under names"),
}


@pytest.mark.parametrize("name", KEY_WRONG)
def test_a_key_that_does_not_fit_its_study_is_refused(name: str, folder: Path) -> None:
    change, words = KEY_WRONG[name]
    _change(folder / KEY_FILE, change)
    with pytest.raises(DataError, match=words):
        ReaderStudy.read(folder)


def test_a_study_says_what_is_wrong_in_it(folder: Path) -> None:
    content = json.loads((folder / STUDY_FILE).read_text())
    (folder / STUDY_FILE).write_text(json.dumps({**content, "kind": "triple"}))
    with pytest.raises(DataError, match=r"kind.*'triple'"):
        ReaderStudy.read(folder)


LESION = {"width": 10, "slices": [{"slice": 3, "runs": [12, 2, 22, 1]}], "chance_of": "lesions", "target": 1,
          "candidates": 4}  # fmt: skip


@pytest.mark.parametrize(
    ("click", "hit"),
    [
        ((3, 2.0, 1.0), True), ((3, 3.99, 1.99), True), ((3, 4.0, 1.0), False), ((3, 2.5, 2.5), True),
        ((3, 3.5, 2.5), False), ((2, 2.5, 1.5), False), ((3, 12.0, 0.0), False),
    ],
)  # fmt: skip
def test_a_click_hits_the_lesion_or_misses_it(click: tuple[int, float, float], hit: bool) -> None:
    truth = LesionTruth.model_validate_json(json.dumps(LESION))
    assert truth.contains(Click(slice=click[0], x=click[1], y=click[2])) is hit


@pytest.mark.parametrize(
    "change",
    [{"slices": []}, {"slices": [{"slice": 3, "runs": [12]}]}, {"slices": [{"slice": 3, "runs": [12, 3, 13, 1]}]},
     {"slices": [{"slice": 3, "runs": [12, 0]}]}, {"candidates": 0}, {"target": 5}],
)  # fmt: skip
def test_a_lesion_that_is_none_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_study(tmp_path, [{"source": "fills", "truth": {**LESION, **change}}], kind="lesion")
    with pytest.raises(DataError, match="'c0000', truth"):
        ReaderStudy.read(tmp_path)
