"""Editing projected images: from codes and directions to images, figures and the table of what else moves.

A method's task only makes images of codes; the walk, the measurements and the files are the host's, so they are the
same for every method and on every backend.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import DataError
from zoo.metrics.bpf import TISSUE, parenchymal_fraction
from zoo.metrics.distances import nearest_distances
from zoo.metrics.features import Extractor
from zoo.metrics.profiles import profiles_through_ventricle, ventricle_share
from zoo.metrics.statistics import Interval, paired_tests, with_interval
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.report.html import Section, write_report
from zoo.system.files import replacing, write_text
from zoo.tasks.edit.alpha_range import BPF, TOLERATED, AlphaRange, Criterion, alphas_within, find_alpha_range
from zoo.tasks.edit.directions import Direction, Directions, usable_attributes, walk
from zoo.tasks.edit.entanglement import Leak, measure_leakage
from zoo.tasks.edit.figures import edit_curves, edit_profiles, edit_sheet
from zoo.tasks.projections import Projections, check_same_model

SIGNIFICANT = 0.001
"""Threshold of the paired tests (Güllmar et al., section 2.5)."""

VENTRICLES = 0.55
"""Slice position at which the lateral ventricles are looked for, unless another is named."""

Draw = Callable[[Sequence[int], Direction, Sequence[float]], np.ndarray]
"""Projections, a direction and an alpha each, to images ``[n, C, *spatial]``."""

Chance = Callable[[tuple[float, ...]], list[dict[int, dict[str, np.ndarray]]]]
"""Alphas to what is measured along each random direction: each quantity ``[A]`` by image."""

Tissue = Callable[[np.ndarray], np.ndarray]
"""An image from 0 to 1 to the class of each voxel, one of `TISSUE`."""

_QUANTITIES: Mapping[str, tuple[Callable[[np.ndarray], float], str]] = {
    "BPF": (parenchymal_fraction, "bpf.png"),
    "ventricles, share of the head": (ventricle_share, "ventricles.png"),
}
"""What is measured of a slice's tissue, and the file of its curve."""

_SHOWN = 6
_AUTO_COUNT = 5
_STEPS_A_SPREAD = 4
_SCORED_AT_ONCE = 64
_NOTE = (
    "Exploratory: what lies along a direction is correlated with its attribute, not caused by it. p: Student's paired "
    "test against alpha 0, uncorrected; Holm: corrected for the alphas of a row. Random: mean changes along random "
    "directions of the same length (--random), the least an attribute's direction must exceed; their p is the share "
    "of them that change the mean as much. Synthetic images of nobody; research use only, not for diagnosis."
)
_HOW = {
    "levels": "Fraction and ventricles: tissue of each image by itself, inside the brain's filled outline, by "
    "brightness beside white matter after a smooth field is divided out. Brightness alone changes neither figure.",
    "k-means": "Fraction and ventricles: tissue of each image by itself by k-means with four clusters, as in Güllmar "
    "et al.; on T1-weighted slices it takes cortex for fluid.",
}


# --- Applying. ---


@dataclass(frozen=True)
class EditSettings:
    """What is edited and how it is measured.

    Attributes:
        alphas: Distances to walk; ``None`` finds the range. 0 is always among them.
        names: Directions; none for all of the file.
        ventricles: Slice position of the slice that stands for a subject in fractions and profiles.
        folds: Of the regressors of the leakage table.
        levels: Two values to tell apart, for columns with more.
        seed: Of the folds and the random directions.
        tissue: Estimator of tissue, a name in `zoo.metrics.bpf.TISSUE`.
        random: How many random directions are walked beside each, as far as it.
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
class Edited:
    """What an edit along one direction did.

    Attributes:
        name: Of the direction.
        alphas: Distances.
        range: What ``--alpha-range auto`` found, or ``None``.
        leaks: How much each attribute moves.
        curves: A row a quantity, group and alpha: mean, interval, p.
        folder: Where its images are.
    """

    name: str
    alphas: tuple[float, ...]
    range: AlphaRange | None
    leaks: tuple[Leak, ...]
    curves: tuple[Mapping[str, Any], ...]
    folder: Path


@dataclass(frozen=True)
class EditReport:
    """What editing wrote.

    Attributes:
        edits: One a direction.
        page: The HTML page with all figures.
        notes: What was left out, in sentences.
    """

    edits: tuple[Edited, ...]
    page: Path
    notes: tuple[str, ...]


def edit_files(
    artifact: Artifact,
    projections: Projections,
    directions: Directions,
    folder: Path,
    settings: EditSettings,
    extractor: Extractor,
    *,
    backend: str = "torch",
    precision: str = "fp32",
    device: str = "cpu",
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> EditReport:
    """Walk projected images along directions; write images, differences, sheets, curves and the leakage table.

    Args:
        artifact: The model that the images were projected with.
        projections: Codes, noise maps, and the real images.
        directions: Of the same model.
        folder: Gets ``edit.html``, ``edit.json``, and for each direction a folder with its pictures and for each
            image and contrast ``….nii.gz`` and ``…_difference.nii.gz``, alpha along the fourth axis.
        settings: What is edited and how it is measured.
        extractor: Features that the leakage table and the distance to real images go by.
        backend, precision, device: What runs the networks, in which arithmetic, and where.
        command: Its words, recorded without folders.
        progress: Called with (images made, images in all) for each direction.

    Raises:
        UnknownNameError: The method cannot edit.
        DataError: Projections or directions are another model's, a name is unknown, or no alpha stays in range.
        ArtifactError: The disk is full or the folder cannot be written.
    """
    task = artifact.method.task("edit")
    options = validate(resolve(task.options), settings.options, what=f"zoo edit with {artifact.method.name}")
    check_same_model(artifact, projections.method, projections.model_sha256, "projections")
    check_same_model(artifact, directions.method, directions.model_sha256, "directions")
    chosen = directions.choose(settings.names)
    attributes, notes = usable_attributes(projections.rows, settings.levels, settings.folds)
    fitted_on = {name for item in chosen.values() for name in item.about.get("fitted_on", ())}
    both = sorted(fitted_on & set(projections.subjects))
    if both:
        notes.append(f"Directions were fitted on {len(both)} of the subjects that are edited, such as {both[0]}.")
    if len(set(projections.subjects)) < settings.folds:
        raise DataError(
            f"The leakage table needs at least as many subjects ({len(set(projections.subjects))}) as folds "
            f"({settings.folds}); project more or set --folds."
        )

    run, parts = resolve(task.run), artifact.parts(backend, device, precision)

    def draw(rows: Sequence[int], direction: Direction, alphas: Sequence[float]) -> np.ndarray:
        """Make an image ``[n, C, *spatial]`` of each projection, edited by its alpha."""
        made = []
        codes = torch.stack([
            walk(projections.w[row], direction.vector, alpha) for row, alpha in zip(rows, alphas, strict=True)
        ])  # fmt: skip
        for some in torch.arange(len(rows)).split(options.batch_size):
            noise = [planes[torch.tensor(rows)[some]].to(device) for planes in projections.noise]
            made.append(run(parts, artifact.config, codes[some].to(device), noise, options).images)
        images = torch.cat(made).numpy()
        if not np.isfinite(images).all():
            raise DataError(
                f"Images edited by alpha {min(alphas):g} to {max(alphas):g} hold NaN or infinite values; choose "
                "smaller alphas."
            )
        return images

    real = _Real.of(artifact, projections, extractor, settings.ventricles)
    random = _random_directions(projections.w, settings.random, settings.seed)

    @functools.cache
    def chance(alphas: tuple[float, ...]) -> list[dict[int, dict[str, np.ndarray]]]:
        """Measure the slices that stand for subjects along each random direction."""
        rows = [row for row in real.of_subjects for _ in alphas]
        walked = (draw(rows, direction, alphas * len(real.of_subjects)) for direction in random)
        planes = (np.stack([_plane(image) for image in images]) for images in walked)
        return [
            {
                row: _measure(versions, TISSUE[settings.tissue])
                for row, versions in zip(real.of_subjects, np.split(some, len(real.of_subjects)), strict=True)
            }
            for some in planes
        ]

    edits = []
    for name, direction in chosen.items():
        found = None
        if settings.alphas is None:
            criteria = real.criteria(TISSUE[settings.tissue], _critic(artifact, real, device))
            step = float(f"{direction.about['spread'] / _STEPS_A_SPREAD:.1g}")
            if not step > 0:
                raise DataError(f"The codes do not spread along {name!r}; name alphas yourself: --alpha -10,0,10.")
            found = find_alpha_range(_edit_all(draw, real.of_subjects, direction), criteria, step)
        alphas = alphas_within(found, _AUTO_COUNT) if found else sorted({0.0, *(settings.alphas or ())})
        edits.append(
            _apply(
                artifact, projections, (name, direction), folder / _safe(name), alphas, found, attributes, settings,
                real, draw, chance, notes, sidecar=_sidecar(artifact, name, options, backend, precision, command),
                progress=progress,
            )
        )  # fmt: skip
    page = folder / "edit.html"
    notes = list(dict.fromkeys(notes))
    _write_page(artifact, page, edits, real, settings, notes)
    return EditReport(tuple(edits), page, tuple(notes))


def _edit_all(draw: Draw, rows: Sequence[int], direction: Direction) -> Callable[[float], np.ndarray]:
    """Return the images of some projections as a function of alpha."""
    return lambda alpha: draw(rows, direction, [alpha] * len(rows))


@dataclass(frozen=True)
class _Real:
    """The projected images themselves, and what edited ones are compared with.

    Attributes:
        images: ``[N, C, *spatial]``.
        features: ``[N, F]``, each in units of its spread.
        measure: Images to features in the same units.
        subjects: One an image.
        of_subjects: Index of the image that stands for each subject.
        extractor: What the features are.
    """

    images: np.ndarray
    features: Tensor
    measure: Callable[[np.ndarray], Tensor]
    subjects: tuple[str, ...]
    of_subjects: tuple[int, ...]
    extractor: str

    @classmethod
    def of(cls, artifact: Artifact, projections: Projections, extractor: Extractor, position: float) -> _Real:
        images = artifact.contrasts_of(projections.image).numpy()
        features = extractor.in_batches(torch.from_numpy(images))
        # A feature that hardly varies among few real images must not outweigh all the others.
        scale = features.std(0, correction=0).clamp(min=0.01)
        nearest: dict[str, int] = {}
        for index, row in enumerate(projections.rows):
            known = nearest.setdefault(row["subject"], index)
            if abs(row["position"] - position) < abs(projections.rows[known]["position"] - position):
                nearest[row["subject"]] = index
        return cls(
            images,
            features / scale,
            lambda some: extractor.in_batches(torch.from_numpy(some)) / scale,
            tuple(projections.subjects),
            tuple(nearest.values()),
            extractor.name,
        )

    def criteria(self, tissue: Tissue, critic: Callable[[np.ndarray], np.ndarray] | None) -> list[Criterion]:
        """Return what ends the search for a range, with limits from the real images."""
        names = np.array(self.subjects)
        own = torch.from_numpy(names[:, None] == names[None])
        distances = nearest_distances(self.features, self.features, not_of=own)
        rows = list(self.of_subjects)

        def fraction(images: np.ndarray) -> np.ndarray:
            return np.array([parenchymal_fraction(tissue(_signal(_plane(image)))) for image in images])

        low, high = (float(limit) for limit in np.quantile(fraction(self.images[rows]), [0.025, 0.975]))
        found = [
            Criterion(
                "feature distance to the nearest real image of another subject",
                None,
                float(distances.quantile(0.95)),
                lambda images: nearest_distances(self.measure(images), self.features, not_of=own[rows]).numpy(),
            ),
            Criterion(BPF, low, high, fraction),
        ]
        if critic:
            limit = float(np.quantile(critic(self.images), 0.05))
            found.append(Criterion("discriminator score", limit, None, critic))
        return found


def _critic(artifact: Artifact, real: _Real, device: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the discriminator of the model's checkpoint, or of the newest; ``None`` where no checkpoint is there."""
    folder = artifact.folder / "checkpoints"
    kept = sorted(path for path in folder.glob("[0-9]*") if (path / "state.safetensors").is_file())
    if not artifact.method.critic or not kept:
        return None
    own = folder / f"{artifact.manifest.get('images_seen', -1):09d}"
    score = resolve(artifact.method.critic)(artifact.config, own if own in kept else kept[-1], device)
    companions = torch.from_numpy(real.images)

    def measure(images: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(images).split(_SCORED_AT_ONCE)
        return torch.cat([score(batch, companions) for batch in batches]).double().numpy()

    return measure


def _apply(
    artifact: Artifact,
    projections: Projections,
    direction: tuple[str, Direction],
    folder: Path,
    alphas: Sequence[float],
    found: AlphaRange | None,
    attributes: Sequence[Any],
    settings: EditSettings,
    real: _Real,
    draw: Draw,
    chance: Chance,
    notes: list[str],
    *,
    sidecar: Mapping[str, Any],
    progress: Progress | None,
) -> Edited:
    """Edit all images along one direction, image by image, and measure."""
    name, vector = direction
    baseline = list(alphas).index(0.0)
    features, planes = [], {}
    spacing = getattr(artifact.config, "spacing_mm", None)
    for number, row in enumerate(projections.rows):
        images = draw([number] * len(alphas), vector, alphas)  # [A, C, *spatial]
        features.append(real.measure(images).numpy())
        _write_images(folder, number, row, images, baseline, artifact, spacing, {**sidecar, "Alphas": list(alphas)})
        if number in real.of_subjects:
            planes[number] = np.stack([_plane(image) for image in images])
        if progress:
            progress(number + 1, len(projections.rows))
    leaks = measure_leakage(
        real.features.numpy(), np.stack(features), alphas, attributes, real.subjects, folds=settings.folds,
        seed=settings.seed,
    ) if len(alphas) > 1 else []  # fmt: skip
    groups = _groups(vector, attributes, real.of_subjects)
    tissue = TISSUE[settings.tissue]
    values = {row: _measure(versions, tissue) for row, versions in planes.items()}
    curves = _compare(folder, values, chance(tuple(alphas)), alphas, baseline, groups, notes)
    _draw(folder, planes, tissue, alphas, baseline, groups, projections, notes)
    return Edited(name, tuple(alphas), found, tuple(leaks), tuple(curves), folder)


def _groups(direction: Direction, attributes: Sequence[Any], rows: Sequence[int]) -> dict[str, list[int]]:
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


def _measure(versions: np.ndarray, tissue: Tissue) -> dict[str, np.ndarray]:
    """Return each quantity of versions ``[A, I, J]`` of a slice, ``[A]``."""
    classes = [tissue(_signal(version)) for version in versions]
    return {name: np.array([measured(some) for some in classes]) for name, (measured, _) in _QUANTITIES.items()}


def _random_directions(codes: Tensor, count: int, seed: int) -> list[Direction]:
    """Return unit vectors ``[*code]``, each a random mixture of how the codes ``[N, *code]`` differ from their mean."""
    away = (codes - codes.mean(0)).flatten(1)
    weights = torch.randn(count, len(codes), generator=torch.Generator().manual_seed(seed))
    vectors = torch.nn.functional.normalize(weights @ away, dim=1)
    return [Direction(vector.view(codes.shape[1:]), {}) for vector in vectors]


def _compare(
    folder: Path,
    values: Mapping[int, Mapping[str, np.ndarray]],
    chance: Sequence[Mapping[int, Mapping[str, np.ndarray]]],
    alphas: Sequence[float],
    baseline: int,
    groups: Mapping[str, Sequence[int]],
    notes: list[str],
) -> list[dict[str, Any]]:
    """Test the change of each quantity along alpha, against alpha 0 and against random directions; draw the curves.

    Args:
        folder: Of the pictures.
        values: Each quantity along alpha ``[A]``, by image.
        chance: The same along each random direction.
        alphas: ``[A]``.
        baseline: Which alpha is 0.
        groups: Images by the name of their group.
        notes: Gets what is not defined.
    """
    table = []
    for quantity, (_, picture) in _QUANTITIES.items():
        series, stars = {}, {}
        for label, members in groups.items():
            kept = [row for row in members if np.isfinite(values[row][quantity]).all()]
            if len(kept) < len(members):
                notes.append(f"{quantity} of {len(members) - len(kept)} subjects of {label!r} is not defined")
            if not kept:
                continue
            series[label] = np.stack([values[row][quantity] for row in kept])
            tests = paired_tests(series[label], baseline)
            stars[label] = [bool(test and test.p is not None and test.p < SIGNIFICANT) for test in tests]
            random = np.array([np.stack([some[row][quantity] for row in kept]).mean(axis=0) for some in chance])
            for column, (alpha, test) in enumerate(zip(alphas, tests, strict=True)):
                mean = float(series[label][:, column].mean())
                table.append(
                    {
                        "quantity": quantity,
                        "group": label,
                        "n": len(kept),
                        "alpha": alpha,
                        "mean": mean,
                        "change": asdict(test.change) if test else None,
                        "p": test.p if test else None,
                        "holm": test.holm if test else None,
                        "random": _beside_chance(test.change.mean, random[:, column] - random[:, baseline])
                        if test and len(random) else None,
                    }
                )  # fmt: skip
        if series:
            edit_curves(folder / picture, alphas, series, stars, quantity)
    return table


def _beside_chance(change: float, random: np.ndarray) -> dict[str, float]:
    """Return how a mean change compares with those along random directions ``[R]``, as plain JSON data."""
    # What is not defined along a random direction counts as a large change.
    as_large = np.count_nonzero(~(np.abs(random) < abs(change)))
    known = random[np.isfinite(random)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (float("nan"),) * 2
    return {"n": len(random), "low": float(low), "high": float(high), "p": float((1 + as_large) / (1 + len(random)))}


def _draw(
    folder: Path,
    planes: Mapping[int, np.ndarray],
    tissue: Tissue,
    alphas: Sequence[float],
    baseline: int,
    groups: Mapping[str, Sequence[int]],
    projections: Projections,
    notes: list[str],
) -> None:
    """Draw the sheet of some subjects of each group, and profiles of one of each."""
    each = max(_SHOWN // len(groups), 1)
    shown = [row for members in groups.values() for row in members[:: max(len(members) // each, 1)][:each]]
    labels = [f"{projections.rows[row]['scan']}\n{_about(projections.rows[row])}" for row in shown]
    upright = np.stack([planes[row].transpose(0, 2, 1)[:, ::-1] for row in shown])
    edit_sheet(folder / "sheet.png", upright, alphas, labels, baseline)
    for number, (label, members) in enumerate(groups.items()):
        versions = planes[members[0]]
        try:
            profiles = profiles_through_ventricle(versions, tissue(_signal(versions[baseline])))
        except DataError as error:
            notes.append(f"{projections.rows[members[0]]['scan']}: {error}")
            continue
        title = f"{projections.rows[members[0]]['scan']} ({label})"
        edit_profiles(folder / f"profile-{number}.png", versions[baseline], profiles, alphas, title)


def _about(row: Mapping[str, Any]) -> str:
    return f"position {row['position']:.2f}"


def _write_images(
    folder: Path,
    number: int,
    row: Mapping[str, Any],
    images: np.ndarray,
    baseline: int,
    artifact: Artifact,
    spacing_mm: tuple[float, float, float] | None,
    sidecar: Mapping[str, Any],
) -> None:
    """Write versions ``[A, C, *spatial]`` and their differences, each contrast one file with alpha as fourth axis."""
    affine = np.diag([*(spacing_mm or (1.0, 1.0, 1.0)), 1.0])
    stem = f"edit-{number:04d}_{_safe(row['scan'])}_slice-{row['slice']:03d}"
    about = {**sidecar, "SpacingKnown": spacing_mm is not None, "Scan": row["scan"], "Slice": row["slice"]}
    for channel, contrast in enumerate(artifact.config.data.contrasts):
        versions = images[:, channel].astype(np.float32)
        for ending, values in (("", (versions + 1) / 2), ("_difference", (versions - versions[baseline]) / 2)):
            whole = values if values.ndim == 4 else values[..., None]
            with replacing(folder / f"{stem}_{contrast}{ending}.nii.gz") as temporary:
                nibabel.save(nibabel.Nifti1Image(np.moveaxis(whole, 0, 3), affine), temporary)
        write_text(folder / f"{stem}_{contrast}.json", json.dumps(about, indent=2) + "\n")


def _sidecar(
    artifact: Artifact, name: str, options: Any, backend: str, precision: str, command: Sequence[str]
) -> dict[str, Any]:
    return {
        "Synthetic": True,
        "Description": "Edited image; of nobody. The fourth axis is alpha. Research use only, not for diagnosis.",
        "Method": artifact.method.name,
        "ModelSHA256": artifact.sha256,
        "Direction": name,
        "Options": options.model_dump(mode="json"),
        "Backend": backend,
        "Precision": precision,
        "Units": "arbitrary, 0 to 1; differences to alpha 0 of the same",
        "Command": shlex.join(Path(word).name if "/" in word else word for word in command),
    }


# --- The page. ---


def leakage_rows(edits: Sequence[Edited]) -> list[dict[str, Any]]:
    """Return a row a direction and attribute."""
    return [
        {
            "direction": edit.name,
            "attribute": f"{leak.attribute} ({leak.unit})" if leak.unit else leak.attribute,
            "per alpha": _interval(leak.per_alpha),
            "in sd": _interval(leak.standardised),
            "n": leak.per_alpha.n,
            "regressor": "; ".join(
                f"{score['measure']} {with_interval(score['value'], score['low'], score['high'])}"
                for score in leak.skill
                if score["over"] == leak.skill[-1]["over"]
            ),
        }
        for edit in edits
        for leak in edit.leaks
    ]


def curve_rows(edits: Sequence[Edited]) -> list[dict[str, Any]]:
    """Return a row a direction, quantity, group and alpha."""
    rows = []
    for edit in edits:
        for row in edit.curves:
            change = row["change"]
            rows.append(
                {
                    "direction": edit.name,
                    "quantity": row["quantity"],
                    "group": row["group"],
                    "n": row["n"],
                    "alpha": f"{row['alpha']:g}",
                    "mean": f"{row['mean']:.4f}",
                    "change": _interval(Interval(**change)) if change else "",
                    "p": "" if row["p"] is None else f"{row['p']:.2g}",
                    "Holm": "" if row["holm"] is None else f"{row['holm']:.2g}",
                    "random": _random(row["random"]),
                }
            )
    return rows


def range_sentences(edits: Sequence[Edited]) -> list[str]:
    """Return a sentence a direction whose range was looked for: where it ends, and which criterion ended it."""
    return [
        f"{edit.name}: alpha {edit.range.low:g} (ended by {edit.range.low_ended_by}) to {edit.range.high:g} (ended by "
        f"{edit.range.high_ended_by}), in steps of {edit.range.step:g}; outside already at alpha 0: "
        + ", ".join(
            f"{share:.0%} by {name}" + (", which therefore could not end it" if share > 1 - TOLERATED else "")
            for name, share in edit.range.outside.items()
        )
        for edit in edits
        if edit.range
    ]


def _write_page(
    artifact: Artifact,
    page: Path,
    edits: Sequence[Edited],
    real: _Real,
    settings: EditSettings,
    notes: Sequence[str],
) -> None:
    content = {
        "model_sha256": artifact.sha256,
        "method": artifact.method.name,
        "features": real.extractor,
        "tissue": settings.tissue,
        "random": settings.random,
        "note": _NOTE,
        "notes": list(notes),
        "subjects": len(set(real.subjects)),
        "images": len(real.subjects),
        "edits": [
            {
                "direction": edit.name,
                "alphas": list(edit.alphas),
                "range": asdict(edit.range) if edit.range else None,
                "leakage": [asdict(leak) for leak in edit.leaks],
                "curves": [dict(row) for row in edit.curves],
            }
            for edit in edits
        ],
    }
    write_text(page.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    leakage = (
        "How much each attribute, predicted from the edited image, moves a unit of alpha: by ridge regression on "
        f"{real.extractor}, trained on the real images of other subjects. Means over subjects with 95 % intervals "
        "of the spread between subjects. Read a row only where its regressor predicts real images of unseen subjects."
    )
    sections = [
        Section(heading="What this is", text="\n".join([_NOTE, *range_sentences(edits), *notes])),
        Section(heading="Leakage", text=leakage, table=leakage_rows(edits)),
        Section(heading="Along alpha", text=_HOW[settings.tissue], table=curve_rows(edits)),
    ]
    for edit in edits:
        pictures = [(path.read_bytes(), path.stem) for path in sorted(edit.folder.glob("*.png"))]
        sections.append(Section(heading=edit.name, figures=pictures))
    write_report(page, f"{artifact.method.name}: edits", sections)


# --- Small things. ---


def _plane(image: np.ndarray) -> np.ndarray:
    """Return the first contrast of ``[C, i, j(, k)]``, of a volume its middle slice."""
    return image[0] if image.ndim == 3 else image[0, :, :, image.shape[3] // 2]


def _signal(plane: np.ndarray) -> np.ndarray:
    """Return intensities in [-1, 1] from 0 on, which is no signal."""
    return (plane + 1) / 2


def _random(found: Mapping[str, float] | None) -> str:
    if not found:
        return ""
    return f"{found['low']:.2g} to {found['high']:.2g}; p {found['p']:.2g} (n = {found['n']})"


def _safe(name: str) -> str:
    """Return a name that is a file's anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed"


def _interval(interval: Interval) -> str:
    return with_interval(interval.mean, interval.low, interval.high)
