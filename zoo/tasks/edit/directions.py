"""Directions in a space of latent codes along which an attribute changes: fit, orthogonalise, walk, store.

Everything here is a function of codes and of the attributes of their images; no network is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor

from zoo.config import Config
from zoo.errors import ArtifactError, DataError, did_you_mean
from zoo.imaging.cohort import as_number
from zoo.metrics.statistics import bootstrap_interval
from zoo.system.files import refuse_newer, replacing

FORMAT = 1
"""Version of the file; a higher one is refused."""

DIRECTIONS_FILE = "directions.safetensors"
POSITION = "position"
"""Name of the slice position among the attributes; 0 is the lowest slice of the head, 1 the highest."""

_MISSING = {"", "n/a", "nan", "na"}
_BOOTSTRAPS = 1000

RIDGE = 1.0
"""Penalty of regressions on features, which are standardised."""


class FitOptions(Config):
    """How directions are fitted."""

    folds: int = Field(10, ge=2, description="Parts of the cross-validation; a subject is in one of them")
    seed: int = Field(0, ge=0, description="Decides which subjects share a fold, and the bootstrap")
    svm_c: float = Field(1.0, gt=0, description="C of the support vector machine, times the codes' dimensions")
    ridge: float = Field(0.1, gt=0, description="Penalty of the ridge regression, over the codes' dimensions")


@dataclass(frozen=True)
class Generated:
    """Generated images, and the real ones that their labels are learnt from.

    Attributes:
        codes: ``[M, *code]`` of generated images.
        features: ``[M, F]`` of the generated images.
        real: ``[N, F]`` of the projected images.
    """

    codes: Tensor
    features: np.ndarray
    real: np.ndarray


@dataclass(frozen=True)
class Attribute:
    """One attribute of some of the images.

    Attributes:
        name: Column of participants.tsv, or `POSITION`.
        kind: Two groups, or a number.
        rows: Indices of the images for which it is known.
        values: One per entry of ``rows``; 0 and 1 for the two groups.
        levels: Names of the groups 0 and 1; empty for numbers.
    """

    name: str
    kind: Literal["groups", "continuous"]
    rows: np.ndarray
    values: np.ndarray
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Direction:
    """A unit vector in the space of codes.

    Attributes:
        vector: float32, the shape of a code; its norm is 1.
        about: What it was fitted on and how well it predicts, as plain JSON data.
    """

    vector: Tensor
    about: Mapping[str, Any]


# --- Attributes of the images. ---


def read_attribute(rows: Sequence[Mapping[str, Any]], name: str, levels: Sequence[str] = ()) -> Attribute:
    """Return one attribute of projected images.

    Columns of numbers with more than two values are continuous; columns with two values are groups, in alphabetical
    order or that of ``levels``. Images without a value ("n/a") are left out.

    Args:
        rows: Of `zoo.tasks.projections.Projections`.
        name: Column of participants.tsv, or `POSITION`.
        levels: Two values of the column to compare, e.g. ``("HC", "MS")``; other values are left out.

    Raises:
        DataError: There is no such column, it has one value only, or it has more than two that are not numbers.
    """
    known = {POSITION, *(column for row in rows for column in row["covariates"])}
    if name not in known:
        raise DataError(
            f"The projections know no column {name!r}.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}."
        )
    texts = [_as_written(row["position"] if name == POSITION else row["covariates"].get(name, "")) for row in rows]
    held = [index for index, text in enumerate(texts) if text.lower() not in _MISSING]
    if levels:
        return _groups(name, texts, held, tuple(levels))
    different = sorted({texts[index] for index in held})
    if len(different) < 2:
        only = f"has one value only ({different[0]!r})" if different else "has no values"
        raise DataError(f"Column {name!r} {only} among the {len(rows)} projected images; no direction can be found.")
    numbers = [as_number(text) for text in different]
    if len(different) == 2:
        return _groups(name, texts, held, tuple(different))
    bad = [text for text, number in zip(different, numbers, strict=True) if number is None]
    if bad and len(bad) < len(different) / 2:
        raise DataError(
            f"Column {name!r} holds numbers except for {', '.join(repr(text) for text in bad[:6])}"
            f"{' …' if len(bad) > 6 else ''}; correct these cells in the table, or write n/a."
        )
    if bad:
        shown = ", ".join(different[:6]) + (" …" if len(different) > 6 else "")
        raise DataError(f"Column {name!r} has {len(different)} values ({shown}); name two of them: --levels HC,MS.")
    return Attribute(name, "continuous", np.array(held), np.array([float(texts[index]) for index in held]))


def _as_written(cell: Any) -> str:
    """Return a cell as text; whole numbers without the ``.0`` of older projections."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _same_level(level: str, present: set[str]) -> str:
    """Return a level as it is written in the column: ``01`` and ``1.0`` are ``1``."""
    wanted = as_number(level)
    if level in present or wanted is None:
        return level
    return next((text for text in sorted(present) if as_number(text) == wanted), level)


def _groups(name: str, texts: Sequence[str], held: Sequence[int], levels: tuple[str, ...]) -> Attribute:
    if len(levels) != 2 or levels[0] == levels[1]:
        raise DataError(f"Groups are two different values, got {', '.join(levels)!r}; write --levels HC,MS.")
    present = {texts[index] for index in held}
    written = {level: _same_level(level, present) for level in levels}
    for level in levels:
        if written[level] not in present:
            raise DataError(
                f"Column {name!r} has no value {level!r}.{did_you_mean(level, present)} "
                f"It has: {', '.join(sorted(present))}."
            )
    number = {written[level]: float(place) for place, level in enumerate(levels)}
    chosen = [index for index in held if texts[index] in number]
    values = np.array([number[texts[index]] for index in chosen])
    return Attribute(name, "groups", np.array(chosen), values, levels)


def usable_attributes(
    rows: Sequence[Mapping[str, Any]], levels: Mapping[str, Sequence[str]], folds: int = 2
) -> tuple[list[Attribute], list[str]]:
    """Return every attribute that can be read and cross-validated, and one sentence per other attribute that says why.

    Args:
        rows: Of `zoo.tasks.projections.Projections`.
        levels: Two values to compare, for the columns that have more.
        folds: Parts of the cross-validation; an attribute needs at least as many subjects, in each group.
    """
    found, refused = [], []
    for name in dict.fromkeys([POSITION, *(column for row in rows for column in row["covariates"])]):
        try:
            attribute = read_attribute(rows, name, levels.get(name, ()))
            subject_folds(attribute, [rows[row]["subject"] for row in attribute.rows], folds, seed=0)
        except DataError as error:
            refused.append(f"Column {name!r} is left out: {error}")
        else:
            found.append(attribute)
    return found, refused


def subject_folds(
    attribute: Attribute, subjects: Sequence[str], folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide the rows of an attribute for cross-validation; the rows of a subject stay together.

    Args:
        attribute: Groups are spread evenly over the folds.
        subjects: One per entry of ``attribute.rows``.
        folds: Number of parts.
        seed: Decides the folds.

    Returns:
        For each fold the positions in ``attribute.rows`` to fit on and those to predict.

    Raises:
        DataError: There are fewer subjects than folds, in total or in one of the groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    owners = np.array(subjects)
    parts = [(f"of {attribute.name} {level!r}", attribute.values == number) for number, level in
             enumerate(attribute.levels)] or [(f"with {attribute.name}", np.ones(len(owners), bool))]  # fmt: skip
    for what, chosen in parts:
        count = len(set(owners[chosen]))
        if count < folds:
            raise DataError(
                f"There are {count} subjects {what}, fewer than {folds} folds; project more subjects"
                + (f" or set --folds {count}." if count >= 2 else ".")
            )
    rows = np.zeros((len(owners), 1))
    if attribute.kind == "groups":
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        return list(splitter.split(rows, attribute.values.astype(int), owners))
    # Folds of whole subjects in random order; scikit-learn would balance their numbers of rows instead.
    names = np.unique(owners)
    place = {name: index % folds for index, name in enumerate(np.random.default_rng(seed).permutation(names))}
    fold = np.array([place[name] for name in owners])
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(folds)]


# --- Fitting. ---


def fit_linear(
    codes: np.ndarray, values: np.ndarray, kind: Literal["groups", "continuous"], options: FitOptions
) -> tuple[np.ndarray, float]:
    """Return weights and offset of a linear model in the codes' own units, float64 ``[D]`` and a number.

    Codes are standardised for the fit, and the weights mapped back. Groups are separated by a linear support vector
    machine with equal weight for both groups; numbers are predicted by ridge regression.

    Args:
        codes: float64 ``[N, D]``.
        values: ``[N]``; 0 and 1 for groups.
        kind: Of the values.
        options: Regularisation.

    Source: Güllmar et al., section 2.4 (support vector machine; the scaling of codes and C are not stated there, nor
    how the direction of age was found).
    """
    from sklearn.linear_model import Ridge
    from sklearn.svm import SVC

    mean, spread = codes.mean(axis=0), codes.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    standard, dimensions = (codes - mean) / scale, codes.shape[1]
    if kind == "groups":
        machine = SVC(kernel="linear", C=options.svm_c / dimensions, class_weight="balanced")
        machine.fit(standard, values.astype(int))
        weights, offset = machine.coef_[0] / scale, float(machine.intercept_[0])
    else:
        regression = Ridge(alpha=options.ridge * dimensions).fit(standard, values)
        weights, offset = regression.coef_ / scale, float(regression.intercept_)
    return weights, offset - float(mean @ weights)


def fit_direction(
    codes: Tensor,
    attribute: Attribute,
    subjects: Sequence[str],
    options: FitOptions,
    generated: Generated | None = None,
    unseen: tuple[Tensor, Attribute, Sequence[str]] | None = None,
) -> Direction:
    """Fit the direction along which an attribute changes, and measure on unseen subjects what it predicts.

    With ``generated``, a ridge regression from features to the attribute is fitted on the real images, it labels the
    generated ones, and the direction is fitted on their codes: a cohort of tens of subjects leaves too few codes for
    their many dimensions, while a regressor on few features can learn from it.

    Args:
        codes: ``[N, *code]``, all images.
        attribute: For some of them.
        subjects: One per image of ``codes``.
        options: Folds and regularisation.
        generated: Images to label and fit on.
        unseen: Codes, attribute and subjects of further images, predicted by the fit on all the first ones.

    Returns:
        The direction fitted on all images that have the attribute; ``about`` holds the cross-validated figures, and
        the absolute cosine between the directions of each pair of folds.

    Raises:
        DataError: Too few subjects, or codes that do not differ along any direction.

    Source: Güllmar et al., section 2.4, for fits on codes; Shen et al. 2020, "Interpreting the Latent Space of GANs
    for Semantic Face Editing", section 3, for labelled samples (there by a classifier, and with a support vector
    machine; here labels are numbers, so no threshold discards any of them).
    """
    flat = codes.double().flatten(1).numpy()[attribute.rows]
    owners = [subjects[index] for index in attribute.rows]
    made = generated.codes.double().flatten(1).numpy() if generated else flat
    middle = 0.5 if generated and attribute.kind == "groups" else 0.0  # the sign decides between groups

    def fit(rows: np.ndarray) -> tuple[np.ndarray, float]:
        values = attribute.values[rows]
        if generated is None:
            return fit_linear(flat[rows], values, attribute.kind, options)
        weights, offset = ridge_on_features(generated.real[attribute.rows][rows], values)
        weights, offset = fit_linear(made, generated.features @ weights + offset, "continuous", options)
        return weights, offset - middle

    predicted = np.empty(len(flat))
    normals = []
    for fitted, held in subject_folds(attribute, owners, options.folds, options.seed):
        weights, offset = fit(fitted)
        predicted[held] = flat[held] @ weights + offset
        normals.append(_unit(weights, attribute.name))
    weights, offset = fit(np.arange(len(flat)))
    found = scores(attribute, predicted, owners, options.seed)
    if unseen:
        found += _scores_of_unseen(weights, offset, *unseen, options.seed)
    normal = _unit(weights, attribute.name)
    stacked = np.stack(normals)
    cosines = np.abs(stacked @ stacked.T)[np.triu_indices(len(stacked), 1)]
    model = "linear support vector machine" if attribute.kind == "groups" else "ridge regression"
    about = {
        "attribute": attribute.name,
        "kind": attribute.kind,
        "levels": list(attribute.levels),
        "subjects": len(set(owners)),
        "fitted_on": sorted(set(owners)),
        "images": len(owners),
        "model": f"ridge regression on {len(made)} labelled samples" if generated else model,
        "options": options.model_dump(mode="json"),
        "scores": found,
        "stability": {
            "mean": float(cosines.mean()),
            "low": float(np.quantile(cosines, 0.025)),
            "high": float(np.quantile(cosines, 0.975)),
        },
        "spread": float((flat @ normal).std()),
        "without": [],
    }
    return Direction(torch.from_numpy(normal).float().reshape(codes.shape[1:]), about)


def ridge_on_features(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights ``[F]`` and offset of a ridge regression on standardised features, in the features' own units.

    Args:
        features: ``[N, F]``.
        values: ``[N]``.
    """
    from sklearn.linear_model import Ridge

    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 1e-9, spread, np.inf)  # a constant feature gets no weight
    weights = Ridge(alpha=RIDGE).fit((features - mean) / scale, values).coef_ / scale
    return weights, float(values.mean() - mean @ weights)


def _scores_of_unseen(
    weights: np.ndarray, offset: float, codes: Tensor, attribute: Attribute, subjects: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    flat = codes.double().flatten(1).numpy()[attribute.rows]
    owners = [subjects[index] for index in attribute.rows]
    found = scores(attribute, flat @ weights + offset, owners, seed)
    return [{**score, "over": f"other {score['over']}"} for score in found]


def _unit(weights: np.ndarray, name: str) -> np.ndarray:
    norm = np.linalg.norm(weights)
    if not norm > 0 or not np.isfinite(norm):
        raise DataError(f"The codes do not differ with {name!r}; no direction can be found.")
    return weights / norm


def scores(attribute: Attribute, predicted: np.ndarray, owners: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Return how well predictions of unseen subjects fit, each with a bootstrap interval over subjects.

    Groups: balanced accuracy, which is 0.5 by chance. Numbers: R² (0 for predicting the mean) and Spearman's
    correlation (0 by chance). Over images, and over subjects (mean prediction of a subject's images) where all
    images of a subject have the same value.

    Args:
        attribute: The truth.
        predicted: ``[N]``, positive for the second group.
        owners: Subject of each prediction.
        seed: Of the bootstrap.
    """
    names = np.array(owners)
    levels = [("images", attribute.values, predicted, names)]
    subjects = np.unique(names)
    if all(len(set(attribute.values[names == name])) == 1 for name in subjects):
        truth = np.array([attribute.values[names == name][0] for name in subjects])
        levels.append(("subjects", truth, np.array([predicted[names == name].mean() for name in subjects]), subjects))
    measures = {"balanced accuracy": (_balanced_accuracy, 0.5)}
    if attribute.kind == "continuous":
        measures = {"R²": (_r2, 0.0), "Spearman": (_spearman, 0.0)}
    found = []
    for over, truth, guess, who in levels:
        for name, (measure, chance) in measures.items():
            interval = bootstrap_interval(
                lambda drawn, m=measure, t=truth, g=guess: m(t[drawn], g[drawn]),  # type: ignore[misc]
                list(who),
                draws=_BOOTSTRAPS,
                seed=seed,
            )
            found.append(
                {
                    "measure": name,
                    "over": over,
                    "value": measure(truth, guess),
                    "low": interval[0] if interval else None,
                    "high": interval[1] if interval else None,
                    "chance": chance,
                    "n": len(truth),
                }
            )
    return found


def _balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    found = [((predicted > 0) == level)[truth == level].mean() for level in (0, 1) if (truth == level).any()]
    return float(np.mean(found)) if len(found) == 2 else float("nan")


def _r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    spread = float(np.square(truth - truth.mean()).sum())
    return 1 - float(np.square(truth - predicted).sum()) / spread if spread else float("nan")


def _spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return float("nan")
    return float(stats.spearmanr(truth, predicted).statistic)


# --- Orthogonalising and walking. ---


def orthogonalise(direction: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return the direction without what it shares with others, as a unit vector of the same shape.

    Args:
        direction: Any shape.
        others: Of the same shape; they need not be mutually orthogonal.

    Raises:
        DataError: Nothing of the direction is left.

    Source: Güllmar et al., section 2.4 (after Shen et al. 2020), for one other. Departure: several are made
    orthonormal first (QR), since removing one after the other would leave a residue.
    """
    vector = direction.double().flatten()
    basis = torch.linalg.qr(torch.stack([other.double().flatten() for other in others], dim=1)).Q
    for _ in range(2):  # the second pass removes what rounding left
        vector = vector - basis @ (basis.T @ vector)
    norm = float(vector.norm())
    if norm < 1e-6:
        raise DataError("The direction lies in the span of the others; nothing of it is left after orthogonalising.")
    return (vector / norm).float().reshape(direction.shape)


def conditional(name: str, others: Sequence[str], fitted: Mapping[str, Direction], codes: Tensor) -> Direction:
    """Return a fitted direction made orthogonal to others.

    Args:
        name, others: Keys of ``fitted``.
        fitted: Plain directions.
        codes: ``[N, *code]``, to measure their spread along the new direction.

    Raises:
        DataError: Nothing of the direction is left.
    """
    plain = fitted[name]
    vector = orthogonalise(plain.vector, [fitted[other].vector for other in others])
    flat = codes.double().flatten(1)
    shared = {other: float((plain.vector * fitted[other].vector).sum()) for other in others}
    about = {
        **plain.about,
        "without": list(others),
        "cosines": shared,
        "kept": float((vector * plain.vector).sum()),
        "spread": float((flat @ vector.double().flatten()).std(correction=0)),
    }
    # The scores are those of the plain direction; a conditional one predicts less, by an amount that is not measured.
    about.pop("scores")
    about.pop("stability")
    return Direction(vector, about)


def walk(codes: Tensor, direction: Tensor, alpha: float) -> Tensor:
    """Return ``codes + alpha · direction``.

    Args:
        codes: ``[N, *code]``.
        direction: ``[*code]``, of norm 1, so alpha is a distance.
        alpha: Distance; a negative one walks the other way.

    Source: Güllmar et al., equation 4.
    """
    return codes + alpha * direction


# --- The file. ---


@dataclass(frozen=True)
class Directions:
    """Directions of one model, as they are stored.

    Attributes:
        items: By name.
        method: Name of the method.
        model_sha256: Hash of the model file.
    """

    items: Mapping[str, Direction]
    method: str
    model_sha256: str

    def write(self, path: Path) -> None:
        """Write one safe file, whole or not at all.

        Raises:
            ArtifactError: The disk is full or the folder cannot be written.
        """
        about = {
            "format": FORMAT,
            "method": self.method,
            "model_sha256": self.model_sha256,
            "directions": {name: dict(item.about) for name, item in self.items.items()},
        }
        with replacing(path) as temporary:
            tensors = {name: item.vector.contiguous() for name, item in self.items.items()}
            save_file(tensors, temporary, metadata={"zoo": json.dumps(about)})
            temporary.chmod(0o644)  # safetensors makes files that only their owner reads

    @classmethod
    def read(cls, path: Path) -> Directions:
        """Read the file that `write` wrote, or the folder it is in.

        Raises:
            ArtifactError: There is none, or it is damaged, not the zoo's, or newer than this version knows.
        """
        file = path / DIRECTIONS_FILE if path.is_dir() else path
        if not file.is_file():
            raise ArtifactError(f"There is no {file}; zoo edit directions RUN PROJECTIONS --by COLUMN makes it.")
        try:
            with safe_open(file, framework="pt") as stored:
                about = json.loads((stored.metadata() or {})["zoo"])
                refuse_newer(file, int(about["format"]), FORMAT)
                items = {name: Direction(stored.get_tensor(name), found) for name, found in about["directions"].items()}
                return cls(items, about["method"], about["model_sha256"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file} does not hold directions of the zoo ({error}).") from None

    def choose(self, names: Sequence[str]) -> dict[str, Direction]:
        """Return the named directions, all where none is named.

        Raises:
            DataError: There is no such direction.
        """
        for name in names:
            if name not in self.items:
                raise DataError(
                    f"There is no direction {name!r}.{did_you_mean(name, self.items)} Known: {', '.join(self.items)}."
                )
        return {name: self.items[name] for name in names or self.items}
