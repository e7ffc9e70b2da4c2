"""The files of a reader study: ``study.json``, ``answer-key.json``, and the answers that a page downloads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from zoo.errors import DataError
from zoo.system.files import refuse_newer

FORMAT = 1
STUDY_FILE, KEY_FILE = "study.json", "answer-key.json"
REAL = "real"
"""Source of the real images; every other source is the name of a set of generated images."""

Kind = Literal["single", "pair", "lesion"]
Phase = Literal["warm-up", "test"]

CHOICES: Mapping[Kind, tuple[str, ...]] = {"single": ("real", "fake"), "pair": ("left", "right"), "lesion": ("none",)}
"""What a reader may choose, besides clicking a place in a study of lesions."""

_Word = Literal["real", "fake", "left", "right", "none"]
_StudyName = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
_CaseName = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Content(BaseModel):
    """Base of what is in the files: no value is converted, unknown keys are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class Study(_Content):
    """Content of ``study.json``; nothing in it tells an answer."""

    format: int = Field(FORMAT, ge=1)
    study: _StudyName = Field(description="Name of the study")
    kind: Kind = Field(description="single: real or fake; pair: which one is real; lesion: which one is synthetic")
    seed: int = Field(ge=0)
    sources: tuple[str, ...] = Field(min_length=1, description="Sets of generated images, without 'real'")
    classes: tuple[str, ...] = Field((), description="Classes of the images; none: without classes")
    readers: tuple[str, ...] = Field(min_length=1)
    cases: int = Field(ge=1, description="Cases of the test, the same for every reader")
    warm_up: int = Field(ge=0, description="Cases of the warm-up, whose answers are shown")
    made_with: str = Field(description="Version of mri-zoo")


class Click(_Content):
    """A place that the reader clicked.

    Attributes:
        slice: Number of the slice, from 0.
        x, y: Pixels of the image from its left and upper edge, whatever the zoom of the page; the pixel clicked is
            (floor(x), floor(y)).
    """

    slice: int = Field(ge=0)
    x: float = Field(ge=0)
    y: float = Field(ge=0)


class LesionSlice(_Content):
    """The synthetic lesion in one slice.

    Attributes:
        slice: Number of the slice, from 0.
        runs: Start and length of each run of its pixels in turn; pixels are counted row by row from the upper left.
    """

    slice: int = Field(ge=0)
    runs: tuple[int, ...]

    @model_validator(mode="after")
    def _runs_are_in_order(self) -> LesionSlice:
        starts, lengths = self.runs[::2], self.runs[1::2]
        if len(starts) != len(lengths) or not starts:
            raise ValueError(f"runs must hold a start and a length each, got {len(self.runs)} numbers")
        ends = [0, *(start + length for start, length in zip(starts, lengths, strict=True))]
        if min(lengths) < 1 or any(start < end for start, end in zip(starts, ends[:-1], strict=True)):
            raise ValueError("runs must be at least one pixel long and follow each other")
        return self


class LesionTruth(_Content):
    """Where the synthetic lesion is, and how likely a click at random finds it.

    Attributes:
        width: Pixels of a row of the slices.
        slices: The lesion, slice by slice.
        chance_of: ``"lesions"``: the reader picks one of the image's lesions at random; ``"pixels"``: one of the pixels
            that could hold a lesion.
        target, candidates: Number of lesions or pixels that are the synthetic lesion, and of all that may be picked.
    """

    width: int = Field(ge=1)
    slices: tuple[LesionSlice, ...] = Field(min_length=1)
    chance_of: Literal["lesions", "pixels"]
    target: int = Field(ge=1)
    candidates: int = Field(ge=1)

    @model_validator(mode="after")
    def _target_is_a_candidate(self) -> LesionTruth:
        if self.target > self.candidates:
            raise ValueError(f"target {self.target} must be at most candidates {self.candidates}")
        return self

    def contains(self, click: Click) -> bool:
        """Return whether a place is in the lesion."""
        pixel = int(click.y) * self.width + int(click.x)
        runs = [part.runs for part in self.slices if part.slice == click.slice] if click.x < self.width else []
        return any(
            start <= pixel < start + length
            for one in runs
            for start, length in zip(one[::2], one[1::2], strict=True)
        )  # fmt: skip


def _word_or_object(value: Any) -> str:
    return "object" if isinstance(value, dict | BaseModel) else "word"


_Choice = Annotated[Annotated[_Word, Tag("word")] | Annotated[Click, Tag("object")], Discriminator(_word_or_object)]
_Truth = Annotated[
    Annotated[_Word, Tag("word")] | Annotated[LesionTruth, Tag("object")], Discriminator(_word_or_object)
]


class KeyCase(_Content):
    """The answer to a case.

    Attributes:
        case: Name of the case, drawn at random.
        phase: Part of the study.
        source: ``"real"`` or the name of a set of generated images. In a study of pairs or lesions, which show both, it
            is the set of generated images.
        class_name: Class of the images; empty without classes.
        truth: ``"real"`` or ``"fake"``; of a pair the side of the real image; else the synthetic lesion.
    """

    case: _CaseName
    phase: Phase
    source: str = Field(min_length=1)
    class_name: str = Field("", alias="class")
    truth: _Truth

    def is_correct(self, choice: str | Click) -> bool:
        """Return whether a choice is right."""
        if isinstance(self.truth, LesionTruth):
            return isinstance(choice, Click) and self.truth.contains(choice)
        return choice == self.truth

    @property
    def chance(self) -> float:
        """Probability that a guess is right."""
        return self.truth.target / self.truth.candidates if isinstance(self.truth, LesionTruth) else 0.5


class AnswerKey(_Content):
    """Content of ``answer-key.json``."""

    format: int = Field(FORMAT, ge=1)
    study: _StudyName
    cases: tuple[KeyCase, ...] = Field(min_length=1)
    sha256: _Sha256


class Background(_Content):
    """What readers say about themselves: profession, and years of experience with such images."""

    role: str = Field("", max_length=200)
    years: float | None = Field(None, ge=0, le=100)


class Answer(_Content):
    """A reader's answer to a case.

    Attributes:
        choice: One of `CHOICES`, or a place.
        rating: How sure the reader is, from 1 (a guess) to 5 (certain); ``None`` if not asked.
        seconds: Time from seeing the case to answering it, without pauses.
    """

    case: _CaseName
    phase: Phase
    choice: _Choice
    rating: int | None = Field(None, ge=1, le=5)
    seconds: float = Field(ge=0)


class Answers(_Content):
    """Content of a file of answers, one reader's."""

    format: int = Field(FORMAT, ge=1)
    study: _StudyName
    reader: str = Field(min_length=1)
    background: Background
    started: AwareDatetime
    finished: AwareDatetime | None = Field(None, description="None: the reader has not come to the end")
    answers: tuple[Answer, ...]
    sha256: _Sha256


def checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of everything but ``"sha256"``.

    Canonical is: keys sorted, no spaces, UTF-8. It finds files that were cut off or changed by accident. It is no
    protection against forgery, since anybody can compute it.
    """
    kept = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """Return the text of a JSON file with its `checksum`."""
    return json.dumps({**content, "sha256": checksum(content)}, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class ReaderStudy:
    """A study with its key.

    Attributes:
        about: Content of ``study.json``.
        key: The answers to all cases, by name, in the order of the file.
    """

    about: Study
    key: Mapping[str, KeyCase]

    @classmethod
    def read(cls, folder: Path) -> ReaderStudy:
        """Read the folder that ``zoo reader-study make`` wrote.

        Raises:
            ArtifactError: A file is of a newer format.
            DataError: A file is missing, was changed, or does not belong to the other one.
        """
        remedy = "use the folder as zoo reader-study make wrote it"
        about = _validated(Study, folder / STUDY_FILE, _read_object(folder / STUDY_FILE, remedy), remedy)
        path = folder / KEY_FILE
        stored = _read_object(path, remedy)
        _check_unchanged(path, stored, remedy)
        key = _validated(AnswerKey, path, stored, remedy)
        if key.study != about.study:
            raise DataError(f"{path} is the key of study {key.study}, but {STUDY_FILE} is of {about.study}; {remedy}.")
        cases = {case.case: case for case in key.cases}
        tested = [case for case in cases.values() if case.phase == "test"]
        if len(cases) != len(key.cases) or len(tested) != about.cases:
            raise DataError(
                f"{path} holds {len(tested)} cases of the test under names of their own, but {STUDY_FILE} says "
                f"{about.cases}; {remedy}."
            )
        for case in cases.values():
            _check_case(path, about, case, remedy)
        return cls(about, cases)

    @property
    def test_cases(self) -> list[KeyCase]:
        """The cases that are analysed."""
        return [case for case in self.key.values() if case.phase == "test"]

    def read_answers(self, path: Path) -> Answers:
        """Read one reader's answers to this study.

        Raises:
            ArtifactError: The file is of a newer format.
            DataError: The file is missing, is no file of answers, was changed, is of another study or of an unknown
                reader, or lacks, doubles or does not know a case. The message names the case and what to do.
        """
        remedy = "download the answers once more from the reader's page"
        stored = _read_object(path, remedy)
        if stored.get("study") != self.about.study:
            raise DataError(
                f"{path} holds answers to study {stored.get('study')!r}, not to {self.about.study!r}; name the folder "
                "of that study, or the answers that were given to this one."
            )
        _check_unchanged(path, stored, remedy)
        answers = _validated(Answers, path, stored, remedy)
        if answers.reader not in self.about.readers:
            raise DataError(
                f"{path} is of reader {answers.reader!r}, whom the study does not have; readers: "
                f"{', '.join(self.about.readers)}."
            )
        page = f"{answers.reader}.html"
        for case, count in Counter(answer.case for answer in answers.answers).items():
            if count > 1:
                raise DataError(f"{path} answers case {case!r} {count} times; {remedy}, {page}.")
        for answer in answers.answers:
            self._check_answer(path, answer, f"{remedy}, {page}")
        answered = {answer.case for answer in answers.answers}
        missing = [case.case for case in self.test_cases if case.case not in answered]
        if missing:
            raise DataError(
                f"{path}: {self.about.cases - len(missing)} of {self.about.cases} cases are answered; the first one "
                f"without an answer is {missing[0]!r}. Open {page} in the same browser as before, where it goes on "
                "with the next case, and download the answers at the end."
            )
        return answers

    def _check_answer(self, path: Path, answer: Answer, remedy: str) -> None:
        case = self.key.get(answer.case)
        if case is None:
            raise DataError(f"{path} answers case {answer.case!r}, which the study does not have; {remedy}.")
        if answer.phase != case.phase:
            raise DataError(
                f"{path}: case {answer.case!r} is answered in the {answer.phase}, but it is a case of the "
                f"{case.phase}; {remedy}."
            )
        kind = self.about.kind
        clicked = isinstance(answer.choice, Click)
        if not (kind == "lesion" if clicked else answer.choice in CHOICES[kind]):
            possible = [*CHOICES[kind], *(["a place in the image"] if kind == "lesion" else [])]
            given = "a place in the image" if clicked else repr(answer.choice)
            raise DataError(
                f"{path}: the answer to case {answer.case!r} is {given}, but in a study of kind {kind!r} it must be "
                f"{' or '.join(possible)}. The file comes from a page of another kind; {remedy}."
            )


def _check_case(path: Path, about: Study, case: KeyCase, remedy: str) -> None:
    """Refuse a case of the key that does not fit the study.

    Raises:
        DataError: Its source, class or truth is none of the study's.
    """
    sources = (REAL, *about.sources) if about.kind == "single" else about.sources
    if case.source not in sources:
        raise DataError(f"{path}: case {case.case!r} is of {case.source!r}, not of {', '.join(sources)}; {remedy}.")
    if case.class_name not in (about.classes or ("",)):
        classes = ", ".join(about.classes) or "none"
        raise DataError(f"{path}: case {case.case!r} is of class {case.class_name!r}; classes: {classes}; {remedy}.")
    if about.kind == "lesion":
        fits = isinstance(case.truth, LesionTruth)
    elif about.kind == "single":
        fits = case.truth == ("real" if case.source == REAL else "fake")
    else:
        fits = case.truth in CHOICES["pair"]
    if not fits:
        raise DataError(
            f"{path}: the truth of case {case.case!r} does not fit a study of kind {about.kind!r} and the source "
            f"{case.source!r}; {remedy}."
        )


def _read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object of a format that is known.

    Raises:
        ArtifactError: The format is newer.
        DataError: There is no such file, or it is no JSON object.
    """
    try:
        stored = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is no JSON file, or only a part of one; {remedy}.") from None
    if not isinstance(stored, dict):
        raise DataError(f"{path} holds a JSON {type(stored).__name__}, not an object; {remedy}.")
    if isinstance(stored.get("format"), int):
        refuse_newer(path, stored["format"], FORMAT)
    return stored


def _check_unchanged(path: Path, stored: Mapping[str, Any], remedy: str) -> None:
    if stored.get("sha256") != checksum(stored):
        raise DataError(
            f"{path} has another checksum than when it was written: it was changed or cut off, perhaps by accident "
            f"(an editor, a mail program); {remedy}."
        )


_Any = TypeVar("_Any", bound=_Content)


def _validated(kind: type[_Any], path: Path, stored: Mapping[str, Any], remedy: str) -> _Any:
    """Return the content of a file.

    Raises:
        DataError: With the case and the value that is wrong.
    """
    try:
        return kind.model_validate_json(json.dumps(stored))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = [item for item in problem["loc"] if item not in ("word", "object")]
        where = ".".join(str(item) for item in place)
        if len(place) > 1 and isinstance(place[1], int):
            item = stored[str(place[0])][place[1]]
            name = item.get("case") if isinstance(item, dict) else None
            where = f"case {name!r}, {'.'.join(str(part) for part in place[2:]) or 'the whole of it'}"
        what = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else problem["msg"]
        got = "" if problem["type"] in ("missing", "value_error") else f", got {problem['input']!r}"
        raise DataError(f"{path}: {where}: {what[0].lower()}{what[1:]}{got}; {remedy}.") from None
