"""Walking projected images along directions, and measuring what moves.

A method's task only makes images of codes; the walk and the measurements are the host's, so they are the same for every
method and on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.metrics.bpf import TISSUE
from zoo.metrics.features import Extractor
from zoo.metrics.statistics import Interval, paired_tests
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.tasks.edit.alpha_range import AlphaRange, alphas_within, find_alpha_range
from zoo.tasks.edit.directions import Attribute, Direction, usable_attributes, walk
from zoo.tasks.edit.entanglement import EntanglementRow, measure_entanglement
from zoo.tasks.edit.protocol import EditOptions, latent_task
from zoo.tasks.edit.real_images import RealImages, discriminator_of
from zoo.tasks.edit.slices import QUANTITIES, measure_slices, slice_of
from zoo.tasks.projections import Projections, check_same_model

SIGNIFICANT = 0.001
"""Threshold of the paired tests (Güllmar et al., section 2.5)."""

VENTRICLES = 0.55
"""Slice position at which the lateral ventricles are looked for, unless another is named."""

Keep = Callable[[int, np.ndarray, Sequence[float]], None]
"""Takes the number of a projection, its edited versions ``[A, C, *spatial]``, and their alphas ``[A]``."""

_AUTO_COUNT = 5
_STEPS_PER_SPREAD = 4


@dataclass(frozen=True)
class EditSettings:
    """What is edited and how it is measured.

    Attributes:
        alphas: Distances to walk; ``None`` finds the range. 0 is always among them.
        names: Directions; none for all of the file.
        ventricles: Slice position of the slice that stands for a subject in fractions and profiles.
        folds: Of the regressors that measure entanglement.
        levels: Two values to tell apart, for columns with more.
        seed: Of the folds and the random directions.
        tissue: Estimator of tissue, a name in `zoo.metrics.bpf.TISSUE`.
        random: How many random directions are walked as far as each direction, for comparison.
        options: Of the method's editing options.
    """

    alphas: Sequence[float] | None = None
    names: Sequence[str] = ()
    ventricles: float = VENTRICLES
    folds: int = 5
    levels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seed: int = 0
    tissue: str = "levels"
    random: int = 0
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RandomChange:
    """Mean changes along random directions of the same length.

    Attributes:
        n: Number of random directions.
        low, high: The middle 95 % of their mean changes.
        p: Share of them, with the direction itself, that change the mean as much.
    """

    n: int
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class CurvePoint:
    """One quantity of one group at one alpha.

    Attributes:
        quantity: Name in `QUANTITIES`.
        group: Label of the group.
        n: Subjects.
        alpha: Distance walked.
        mean: Over subjects.
        change: From alpha 0, within subjects; ``None`` at alpha 0.
        p: Of Student's paired test against alpha 0, uncorrected; ``None`` at alpha 0 or where it is not defined.
        holm: The same, corrected for the alphas of the curve.
        random: Changes along random directions; ``None`` at alpha 0 or where none were walked.
    """

    quantity: str
    group: str
    n: int
    alpha: float
    mean: float
    change: Interval | None
    p: float | None
    holm: float | None
    random: RandomChange | None


@dataclass(frozen=True)
class Edited:
    """What an edit along one direction did.

    Attributes:
        name: Of the direction.
        alphas: Distances ``[A]``, 0 among them.
        range: What ``--alpha-range auto`` found, or ``None``.
        entanglement: How much each attribute moves.
        curves: Each quantity by group and alpha.
        groups: Images that stand for subjects, by group.
        slices: Versions ``[A, i, j]`` of these images.
        series: Values behind the curves by quantity and group, ``[subjects, A]``.
    """

    name: str
    alphas: tuple[float, ...]
    range: AlphaRange | None
    entanglement: tuple[EntanglementRow, ...]
    curves: tuple[CurvePoint, ...]
    groups: Mapping[str, Sequence[int]]
    slices: Mapping[int, np.ndarray]
    series: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def baseline(self) -> int:
        """Index of alpha 0."""
        return self.alphas.index(0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON data."""
        return {
            "direction": self.name,
            "alphas": list(self.alphas),
            "range": asdict(self.range) if self.range else None,
            "entanglement": [asdict(row) for row in self.entanglement],
            "curves": [asdict(point) for point in self.curves],
        }


class EditSession:
    """Projected images of one model, ready to be edited along directions.

    Args:
        artifact: The model that the images were projected with.
        projections: Codes, noise maps and the real images.
        settings: What is edited and how it is measured.
        extractor: Features by which entanglement and the distance to real images are measured.
        runtime: What runs the networks.

    Attributes:
        real: The projected images themselves.
        options: The method's editing options, validated.
        notes: What was left out, in sentences; `along` adds to it.
        spacing_mm: Voxel size of the edited images, ``None`` where it is not known.

    Raises:
        UnknownNameError: The method cannot edit.
        DataError: The projections are another model's, or of fewer subjects than folds.
    """

    def __init__(
        self,
        artifact: Artifact,
        projections: Projections,
        settings: EditSettings,
        extractor: Extractor,
        runtime: Runtime,
    ) -> None:
        task = latent_task(artifact.method)
        self.options: EditOptions = validate(
            resolve(task.options), settings.options, what=f"zoo edit with {artifact.method.name}"
        )
        check_same_model(artifact, projections.method, projections.model_sha256, "projections")
        self.artifact, self.projections, self.settings, self.runtime = artifact, projections, settings, runtime
        self.attributes, self.notes = usable_attributes(projections.rows, settings.levels, settings.folds)
        subjects = len(set(projections.subjects))
        if subjects < settings.folds:
            raise DataError(
                f"Entanglement is measured with at least as many subjects ({subjects}) as folds ({settings.folds}); "
                "project more or set --folds."
            )
        self._task, self._parts = resolve(task.run), artifact.parts(runtime)
        self._tissue = TISSUE[settings.tissue]
        self.real = RealImages.of(artifact, projections, extractor, settings.ventricles)
        self._random = random_directions(projections.codes, settings.random, settings.seed)
        self.spacing_mm: tuple[float, float, float] | None = None
        self._random_values: dict[tuple[float, ...], list[dict[int, dict[str, np.ndarray]]]] = {}

    def along(self, name: str, direction: Direction, keep: Keep | None = None) -> Edited:
        """Edit all images along one direction and measure what moves.

        Args:
            name: Of the direction.
            direction: Its vector.
            keep: Gets the versions of each image as they are made.

        Raises:
            DataError: No alpha stays in range, or images hold NaN or infinite values.
        """
        alphas, found = self._alphas(name, direction)
        features, slices = [], {}
        for number in range(len(self.projections)):
            versions = self.images([number] * len(alphas), direction, alphas)  # [A, C, *spatial]
            features.append(self.real.measure(versions).numpy())
            if number in self.real.of_subjects:
                slices[number] = np.stack([slice_of(image) for image in versions])
            if keep:
                keep(number, versions, alphas)
        groups = groups_of(direction, self.attributes, self.real.of_subjects)
        values = {number: measure_slices(versions, self._tissue) for number, versions in slices.items()}
        series = _series(values, groups)
        return Edited(
            name=name,
            alphas=tuple(alphas),
            range=found,
            entanglement=tuple(self._entanglement(np.stack(features), alphas)),
            curves=tuple(self._curves(values, series, groups, tuple(alphas))),
            groups=groups,
            slices=slices,
            series=series,
        )

    def images(self, rows: Sequence[int], direction: Direction, alphas: Sequence[float]) -> np.ndarray:
        """Return an image ``[n, C, *spatial]`` of each projection in ``rows``, edited by its alpha.

        Raises:
            DataError: An image holds NaN or infinite values.
        """
        codes = torch.stack([
            walk(self.projections.codes[row], direction.vector, alpha) for row, alpha in zip(rows, alphas, strict=True)
        ])  # fmt: skip
        device, made = self.runtime.device, []
        for some in torch.arange(len(rows)).split(self.options.batch_size):
            noise = [planes[torch.tensor(rows)[some]].to(device) for planes in self.projections.noise]
            try:
                batch = self._task(self._parts, self.artifact.config, codes[some].to(device), noise, self.options)
            except DataError as error:
                reach = f"{min(alphas):g} to {max(alphas):g}"
                raise DataError(f"Editing by alpha {reach} failed: {error} Choose smaller alphas.") from None
            made.append(batch.images)
            self.spacing_mm = batch.spacing_mm
        return torch.cat(made).numpy()

    def _alphas(self, name: str, direction: Direction) -> tuple[list[float], AlphaRange | None]:
        """Return the alphas to walk, and the range they come from where they are found."""
        if self.settings.alphas is not None:
            return sorted({0.0, *self.settings.alphas}), None
        criteria = self.real.criteria(self._tissue, discriminator_of(self.artifact, self.real, self.runtime.device))
        step = float(f"{direction.about['spread'] / _STEPS_PER_SPREAD:.1g}")
        if not step > 0:
            raise DataError(f"The codes do not spread along {name!r}; name alphas yourself: --alpha -10,0,10.")
        rows = self.real.of_subjects
        found = find_alpha_range(lambda alpha: self.images(rows, direction, [alpha] * len(rows)), criteria, step)
        return alphas_within(found, _AUTO_COUNT), found

    def _entanglement(self, edited: np.ndarray, alphas: Sequence[float]) -> list[EntanglementRow]:
        """Measure how much each attribute moves, from features ``[N, A, F]``."""
        if len(alphas) < 2:
            return []
        return measure_entanglement(
            self.real.features.numpy(), edited, alphas, self.attributes, self.real.subjects,
            folds=self.settings.folds, seed=self.settings.seed,
        )  # fmt: skip

    def _along_random(self, alphas: tuple[float, ...]) -> list[dict[int, dict[str, np.ndarray]]]:
        """Return each quantity ``[A]`` by image along each random direction; walked once for the same alphas."""
        if alphas not in self._random_values:
            rows = self.real.of_subjects
            repeated = [row for row in rows for _ in alphas]
            measured = []
            for direction in self._random:
                images = self.images(repeated, direction, alphas * len(rows))
                slices = np.stack([slice_of(image) for image in images])
                versions = zip(rows, np.split(slices, len(rows)), strict=True)
                measured.append({row: measure_slices(some, self._tissue) for row, some in versions})
            self._random_values[alphas] = measured
        return self._random_values[alphas]

    def _curves(
        self,
        values: Mapping[int, Mapping[str, np.ndarray]],
        series: Mapping[str, Mapping[str, np.ndarray]],
        groups: Mapping[str, Sequence[int]],
        alphas: tuple[float, ...],
    ) -> list[CurvePoint]:
        """Test the change of each quantity along alpha, against alpha 0 and against random directions.

        Args:
            values: Each quantity along alpha ``[A]``, by image.
            series: The same by quantity and group, ``[subjects, A]``.
            groups: Images by the name of their group.
            alphas: ``[A]``.
        """
        baseline, along_random = alphas.index(0.0), self._along_random(alphas)
        points = []
        for quantity in QUANTITIES:
            for label, members in groups.items():
                kept = _defined(values, members, quantity)
                if len(kept) < len(members):
                    self.notes.append(f"{quantity} of {len(members) - len(kept)} subjects of {label!r} is not defined")
                if not kept:
                    continue
                own = series[quantity][label]
                random = np.array([_mean(some, kept, quantity) for some in along_random])
                for column, (alpha, test) in enumerate(zip(alphas, paired_tests(own, baseline), strict=True)):
                    beside = None
                    if test and len(random):
                        beside = among_random(test.change.mean, random[:, column] - random[:, baseline])
                    points.append(
                        CurvePoint(
                            quantity=quantity,
                            group=label,
                            n=len(kept),
                            alpha=alpha,
                            mean=float(own[:, column].mean()),
                            change=test.change if test else None,
                            p=test.p if test else None,
                            holm=test.holm if test else None,
                            random=beside,
                        )
                    )
        return points


def _defined(values: Mapping[int, Mapping[str, np.ndarray]], members: Sequence[int], quantity: str) -> list[int]:
    """Return the images for which a quantity is defined at every alpha."""
    return [row for row in members if np.isfinite(values[row][quantity]).all()]


def _series(
    values: Mapping[int, Mapping[str, np.ndarray]], groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the values ``[subjects, A]`` of each quantity and group, of the subjects where all are defined."""
    return {
        quantity: {
            label: np.stack([values[row][quantity] for row in kept])
            for label, members in groups.items()
            if (kept := _defined(values, members, quantity))
        }
        for quantity in QUANTITIES
    }


def _mean(values: Mapping[int, Mapping[str, np.ndarray]], rows: Sequence[int], quantity: str) -> np.ndarray:
    """Return the mean of a quantity over some images, ``[A]``."""
    return np.stack([values[row][quantity] for row in rows]).mean(axis=0)


def groups_of(direction: Direction, attributes: Sequence[Attribute], rows: Sequence[int]) -> dict[str, list[int]]:
    """Return the images that stand for subjects, by the group of the direction's attribute; else all in one."""
    for attribute in attributes:
        if attribute.name == direction.about["attribute"] and attribute.kind == "groups":
            values = dict(zip(attribute.rows.tolist(), attribute.values.tolist(), strict=True))
            parted = {
                f"{attribute.name} {level}": [row for row in rows if values.get(row) == number]
                for number, level in enumerate(attribute.levels)
            }
            return {label: members for label, members in parted.items() if members}
    return {"all": list(rows)}


def random_directions(codes: Tensor, count: int, seed: int) -> list[Direction]:
    """Return unit vectors ``[*code]``, each a random mixture of how the codes ``[N, *code]`` differ from their mean."""
    away = (codes - codes.mean(0)).flatten(1)
    weights = torch.randn(count, len(codes), generator=torch.Generator().manual_seed(seed))
    vectors = torch.nn.functional.normalize(weights @ away, dim=1)
    return [Direction(vector.view(codes.shape[1:]), {}) for vector in vectors]


def among_random(change: float, random: np.ndarray) -> RandomChange:
    """Return how a mean change compares with those along random directions ``[R]``."""
    # A change that is not defined along a random direction counts as a large one.
    as_large = np.count_nonzero(~(np.abs(random) < abs(change)))
    known = random[np.isfinite(random)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (float("nan"),) * 2
    return RandomChange(len(random), float(low), float(high), float((1 + as_large) / (1 + len(random))))
