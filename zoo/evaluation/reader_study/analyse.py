"""What the answers of a reader study say: correct answers against chance, ratings, agreement and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from zoo.errors import DataError
from zoo.evaluation.reader_study.study import REAL, Answer, Answers, KeyCase, Kind, LesionTruth, ReaderStudy
from zoo.metrics.statistics import bootstrap_interval, holm

ALL = "all"
"""Source or class of a row that counts all of them."""

_CONFIDENCE = 0.95
_POSITIVE = ("fake", "left")
"""Choices that count as positive in `Discrimination`."""


@dataclass(frozen=True)
class Accuracy:
    """Share of correct answers of one reader.

    Attributes:
        reader: Name of the reader.
        source, class_name: Which cases are counted; `ALL` for all of them.
        correct, n: Number of correct answers, and of cases.
        share: correct / n.
        low, high: Exact (Clopper-Pearson) 95 % interval of the share.
        chance: Mean probability that a guess is right.
        p: Two-sided exact test against chance; ``None`` where the row mixes real and generated images.
        holm: p corrected for all tests of this reader by Holm's method.
    """

    reader: str
    source: str
    class_name: str
    correct: int
    n: int
    share: float
    low: float
    high: float
    chance: float
    p: float | None
    holm: float | None = None


@dataclass(frozen=True)
class Discrimination:
    """How well one reader tells the images of a source from the others, whichever answer the reader prefers.

    In a study of single images, generated images of the source (positive) are held against all real ones; in a study of
    pairs, those with the real image on the left (positive) against those with the real image on the right.

    Attributes:
        reader, source: As in `Accuracy`.
        positive_correct, positives: Of the positive cases, those called so, and all.
        negative_correct, negatives: The same of the negative ones.
        p: Two-sided exact test by Fisher that the answer does not depend on the truth.
        holm: p corrected for all tests of this reader by Holm's method.
        auc: Area under the ROC curve of the ratings, in [0, 1], 0.5 by chance; ``None`` without a rating of every case.
        low, high: 95 % interval of the area; ``None`` where the ratings separate the two kinds perfectly, and for fewer
            than two cases of a kind.
    """

    reader: str
    source: str
    positive_correct: int
    positives: int
    negative_correct: int
    negatives: int
    p: float
    auc: float | None
    low: float | None
    high: float | None
    holm: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement of all readers on the cases of the test.

    Attributes:
        class_name: Class of the cases, or `ALL`.
        readers, n: Numbers of readers and cases.
        agreement: Mean share of pairs of readers with the same answer to a case.
        kappa: Fleiss' kappa: 1 is full agreement, 0 is that of chance; ``None`` if all answers are the same one.
        low, high: 95 % interval of kappa by a bootstrap over cases; ``None`` below five cases.
    """

    class_name: str
    readers: int
    n: int
    agreement: float
    kappa: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReaderSummary:
    """A reader, and how long the cases of the test took.

    Attributes:
        reader, role, years: Name, profession and years of experience as given.
        n: Number of cases.
        rated: Number of cases with a rating.
        quartile, median, upper_quartile: Seconds per case.
        minutes: Time of all cases together, without pauses.
        sha256: Checksum of the file of answers.
    """

    reader: str
    role: str
    years: float | None
    n: int
    rated: int
    quartile: float
    median: float
    upper_quartile: float
    minutes: float
    sha256: str


@dataclass(frozen=True)
class Analysis:
    """All that is computed of a study.

    Attributes:
        study, kind, sources, classes, cases: As in ``study.json``.
        columns: Sources of the columns of the table of correct answers, real images first.
        readers: One per file of answers.
        accuracies: Of each reader: all cases, each source, each class, and each source in each class.
        means: Mean of the readers' shares by source, in the order of ``columns``; a description, without a test.
        discriminations: Empty for a study of lesions.
        agreements: Empty for a single reader.
        missing: Readers of the study without a file of answers.
        notes: How to read the figures, in sentences.
    """

    study: str
    kind: Kind
    sources: tuple[str, ...]
    classes: tuple[str, ...]
    cases: int
    columns: tuple[str, ...]
    readers: tuple[ReaderSummary, ...]
    accuracies: tuple[Accuracy, ...]
    means: Mapping[str, float]
    discriminations: tuple[Discrimination, ...]
    agreements: tuple[Agreement, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON data."""
        return {"format": 1, **asdict(self)}

    def accuracy(self, reader: str, source: str, class_name: str = ALL) -> Accuracy:
        """Return a row of ``accuracies``."""
        wanted = (reader, source, class_name)
        return next(row for row in self.accuracies if (row.reader, row.source, row.class_name) == wanted)


def analyse(folder: Path, files: Sequence[Path]) -> Analysis:
    """Analyse the answers to a study. Cases of the warm-up are left out.

    Args:
        folder: The folder that ``zoo reader-study make`` wrote.
        files: One file of answers per reader.

    Raises:
        ArtifactError: A file is of a newer format.
        DataError: There is no file; the study or a file of answers cannot be used (`ReaderStudy.read_answers`); or two
            files are of one reader.
    """
    study = ReaderStudy.read(folder)
    if not files:
        raise DataError("There are no answers to analyse; name the file of each reader: --answers FILE.")
    given: dict[str, tuple[Path, Answers]] = {}
    for path in files:
        answers = study.read_answers(path)
        if answers.reader in given:
            raise DataError(
                f"{given[answers.reader][0]} and {path} are both of {answers.reader!r}; name one file per reader. "
                "Two persons need pages of their own: zoo reader-study make --readers 2."
            )
        given[answers.reader] = path, answers
    ordered = [given[reader][1] for reader in study.about.readers if reader in given]
    accuracies: list[Accuracy] = []
    discriminations: list[Discrimination] = []
    for answers in ordered:
        rows, told_apart = _with_holm(_accuracies(study, answers), _discriminations(study, answers))
        accuracies += rows
        discriminations += told_apart
    columns = _columns(study)
    shares = {(row.reader, row.source): row.share for row in accuracies if row.class_name == ALL}
    return Analysis(
        study=study.about.study,
        kind=study.about.kind,
        sources=study.about.sources,
        classes=study.about.classes,
        cases=study.about.cases,
        columns=columns,
        readers=tuple(_summary(study, answers) for answers in ordered),
        accuracies=tuple(accuracies),
        means={
            source: float(np.mean([shares[answers.reader, source] for answers in ordered])) for source in columns
        },
        discriminations=tuple(discriminations),
        agreements=tuple(_agreements(study, ordered)) if len(ordered) > 1 else (),
        missing=tuple(reader for reader in study.about.readers if reader not in given),
        notes=tuple(_notes(study, ordered)),
    )  # fmt: skip


def exact_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper and Pearson 1934)."""
    interval = stats.binomtest(correct, n).proportion_ci(_CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def chance_test(correct: int, chances: Sequence[float]) -> float:
    """Return the two-sided exact p of a number of correct answers if every answer were a guess.

    It is the probability of all numbers that are at most as likely as the observed one, as in the binomial test; with
    the same chance for every case it is that test.

    Args:
        correct: Number of correct answers.
        chances: Of each case, the probability that a guess is right.
    """
    likelihood = np.ones(1)
    for chance in chances:
        likelihood = np.convolve(likelihood, [1 - chance, chance])
    # Numbers as likely as the observed one but for rounding count, as in scipy.stats.binomtest.
    return float(min(1.0, likelihood[likelihood <= likelihood[correct] * (1 + 1e-7)].sum()))


def roc_auc(positive: Sequence[float], negative: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the area under the ROC curve with its 95 % interval.

    The interval is DeLong's (DeLong et al. 1988), computed on the logit of the area, so that it stays within 0 and 1.

    Args:
        positive, negative: Scores of the two kinds; higher ones speak for positive. At least one each.

    Returns:
        Area, low, high; the bounds are ``None`` where the area is 0 or 1, and for fewer than two scores of a kind.
    """
    difference = np.subtract.outer(np.asarray(positive, float), np.asarray(negative, float))
    wins = (difference > 0) + 0.5 * (difference == 0)
    area = float(wins.mean())
    if min(wins.shape) < 2 or area in (0.0, 1.0):
        return area, None, None
    variance = wins.mean(axis=1).var(ddof=1) / wins.shape[0] + wins.mean(axis=0).var(ddof=1) / wins.shape[1]
    reach = stats.norm.ppf((1 + _CONFIDENCE) / 2) * variance**0.5 / (area * (1 - area))
    low, high = (1 / (1 + np.exp(-(np.log(area / (1 - area)) + sign * reach))) for sign in (-1, 1))
    return area, float(low), float(high)


def fleiss_kappa(counts: np.ndarray) -> tuple[float, float]:
    """Return the mean agreement of pairs of readers, and Fleiss' kappa (Fleiss 1971).

    Args:
        counts: ``[cases, categories]``, how many readers chose each category; every row has the same sum, at least 2.

    Returns:
        Agreement in [0, 1], and kappa, which is nan if all answers are of one category.
    """
    readers = counts[0].sum()
    agreement = float(((counts**2).sum(axis=1) - readers).mean() / (readers * (readers - 1)))
    by_chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return agreement, (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def _columns(study: ReaderStudy) -> tuple[str, ...]:
    return (REAL, *study.about.sources) if study.about.kind == "single" else study.about.sources


def _groups(names: Sequence[str]) -> tuple[str, ...]:
    """Return what has rows of its own: each name, and before them all together, where that is something else."""
    return tuple(names) if len(names) == 1 else (ALL, *names)


def _class_groups(study: ReaderStudy) -> tuple[str, ...]:
    return _groups(study.about.classes if len(study.about.classes) > 1 else ())


def _test_answers(study: ReaderStudy, answers: Answers) -> list[tuple[KeyCase, Answer]]:
    """Return the cases of the test with a reader's answers, in the order of the key."""
    by_case = {answer.case: answer for answer in answers.answers}
    return [(case, by_case[case.case]) for case in study.test_cases]


def _accuracies(study: ReaderStudy, answers: Answers) -> list[Accuracy]:
    rows = []
    for class_name in _class_groups(study):
        for source in _groups(_columns(study)):
            chosen = [
                (case, answer)
                for case, answer in _test_answers(study, answers)
                if class_name in (ALL, case.class_name) and source in (ALL, case.source)
            ]
            if not chosen:
                continue
            correct, n = sum(case.is_correct(answer.choice) for case, answer in chosen), len(chosen)
            chances = [case.chance for case, _ in chosen]
            # Whoever always says "fake" is right as often as there are fakes: a mixture has no chance of its own.
            mixture = study.about.kind == "single" and source == ALL
            rows.append(
                Accuracy(
                    answers.reader, source, class_name, correct, n, correct / n, *exact_interval(correct, n),
                    chance=float(np.mean(chances)), p=None if mixture else chance_test(correct, chances),
                )
            )  # fmt: skip
    return rows


def _discriminations(study: ReaderStudy, answers: Answers) -> list[Discrimination]:
    if study.about.kind == "lesion":
        return []
    cases = _test_answers(study, answers)
    rated = all(answer.rating is not None for _, answer in cases)
    rows = []
    for source in _groups(study.about.sources):
        chosen = [(case, answer) for case, answer in cases if source == ALL or case.source in (source, REAL)]
        positive = [answer for case, answer in chosen if case.truth in _POSITIVE]
        negative = [answer for case, answer in chosen if case.truth not in _POSITIVE]
        if not positive or not negative:
            continue
        found = sum(answer.choice in _POSITIVE for answer in positive)
        rejected = sum(answer.choice not in _POSITIVE for answer in negative)
        table = [[found, len(positive) - found], [len(negative) - rejected, rejected]]
        area, low, high = roc_auc(list(map(_score, positive)), list(map(_score, negative))) if rated else (None,) * 3
        rows.append(
            Discrimination(
                answers.reader, source, found, len(positive), rejected, len(negative),
                p=float(stats.fisher_exact(table).pvalue), auc=area, low=low, high=high,
            )
        )  # fmt: skip
    return rows


def _score(answer: Answer) -> int:
    """Return choice and rating as one grade: from 5 (certainly positive) to -5 (certainly negative)."""
    assert answer.rating is not None
    return answer.rating if answer.choice in _POSITIVE else -answer.rating


def _with_holm(
    accuracies: Sequence[Accuracy], discriminations: Sequence[Discrimination]
) -> tuple[list[Accuracy], list[Discrimination]]:
    """Return the rows of one reader with p values corrected for all their tests."""
    tests = [*(row.p for row in accuracies if row.p is not None), *(row.p for row in discriminations)]
    corrected = iter(holm(tests))
    return (
        [row if row.p is None else replace(row, holm=next(corrected)) for row in accuracies],
        [replace(row, holm=next(corrected)) for row in discriminations],
    )


def _agreements(study: ReaderStudy, readers: Sequence[Answers]) -> list[Agreement]:
    given: dict[str, list[str]] = {case.case: [] for case in study.test_cases}
    for answers in readers:
        for case, answer in _test_answers(study, answers):
            given[case.case].append(_category(case, answer))
    categories = sorted({category for some in given.values() for category in some})
    rows = []
    for class_name in _class_groups(study):
        names = [case.case for case in study.test_cases if class_name in (ALL, case.class_name)]
        if names:
            counts = np.array([[given[name].count(category) for category in categories] for name in names])
            rows.append(_agreement(class_name, len(readers), counts, names))
    return rows


def _category(case: KeyCase, answer: Answer) -> str:
    """Return the choice; in a study of lesions whether the lesion was found, since places are seldom equal."""
    if isinstance(case.truth, LesionTruth):
        return "found" if case.is_correct(answer.choice) else "not found"
    return str(answer.choice)


def _agreement(class_name: str, readers: int, counts: np.ndarray, names: Sequence[str]) -> Agreement:
    agreement, kappa = fleiss_kappa(counts)
    interval = bootstrap_interval(lambda drawn: fleiss_kappa(counts[drawn])[1], names)
    if np.isnan(kappa):
        return Agreement(class_name, readers, len(names), agreement, None, None, None)
    return Agreement(class_name, readers, len(names), agreement, kappa, *(interval or (None, None)))


def _summary(study: ReaderStudy, answers: Answers) -> ReaderSummary:
    tested = [answer for _, answer in _test_answers(study, answers)]
    seconds = [answer.seconds for answer in tested]
    quartile, median, upper = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    return ReaderSummary(
        answers.reader, answers.background.role, answers.background.years, len(tested),
        sum(answer.rating is not None for answer in tested),
        quartile, median, upper, minutes=sum(seconds) / 60, sha256=answers.sha256,
    )  # fmt: skip


def _notes(study: ReaderStudy, readers: Sequence[Answers]) -> list[str]:
    """Return what must be known to read the figures."""
    about = study.about
    notes = {
        "single": [
            "A reader sees one case at a time, which is real or generated. 'Real called real' is the share of real "
            "cases that the reader took for real; 'fake called fake' is the share of generated cases that the reader "
            "took for generated. By a guess each is 50 %.",
            "A reader who calls nearly everything fake is right on fakes and wrong on real images. Differences from "
            "50 % for one source therefore show a preference as well as skill. Whether a reader tells the two apart is "
            "tested under 'Telling apart', with Fisher's exact test and the area under the ROC curve.",
        ],
        "pair": ["A reader sees a real and a generated image side by side and says which one is real. By a guess 50 % "
                 "are correct."],
        "lesion": ["A reader clicks the one lesion of an image that is synthetic. " + _chance_of_lesions(study)],
    }[about.kind]  # fmt: skip
    notes.append(
        "Intervals of shares are exact 95 % intervals (Clopper-Pearson). p is two-sided and exact, against guessing. "
        "'p (Holm)' is corrected for all tests of the same reader."
    )
    notes.append(
        "Intervals and tests take the cases as independent. Cases cut from the images of one subject are not, and then "
        "the true intervals are wider."
    )
    if len(readers) > 1:
        notes.append(
            "The mean over readers is a description. The readers judged the same cases and are too few to stand for "
            "others, so it has no interval and no test."
        )
    rated = [all(answer.rating is not None for _, answer in _test_answers(study, one)) for one in readers]
    if about.kind != "lesion" and not all(rated):
        without = ", ".join(one.reader for one, every in zip(readers, rated, strict=True) if not every)
        notes.append(f"No ROC curve of {without}: not every case has a rating.")
    notes.append("The answers of the warm-up are left out.")
    return notes


def _chance_of_lesions(study: ReaderStudy) -> str:
    truths = [case.truth for case in study.test_cases if isinstance(case.truth, LesionTruth)]
    sentences = []
    if any(truth.chance_of == "lesions" for truth in truths):
        sentences.append("A guess is a lesion picked at random: it is right in 1 of as many cases as the image has "
                         "lesions.")  # fmt: skip
    if any(truth.chance_of == "pixels" for truth in truths):
        sentences.append("A guess is a place picked at random: it is right as often as the lesion's share of the "
                         "pixels that could hold one.")  # fmt: skip
    return " ".join([*sentences, "An answer of 'none' is counted as wrong."])
