"""Projecting a cohort: choose images, project them in resumable batches, write one safe file and a report."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import ArtifactError, ConfigError, DataError, did_you_mean
from zoo.evaluation.unseen import has_seen, unseen
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import Cohort, as_number
from zoo.metrics.bpf import find_head
from zoo.metrics.image import psnr, ssim_map
from zoo.metrics.perceptual import NamedDistance, load_distance
from zoo.metrics.statistics import Interval, mean_interval
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.randomness import seed_for
from zoo.system.files import replacing, write_text
from zoo.tasks.project.protocol import Placed, Projected
from zoo.tasks.projections import PROJECTIONS_FILE, Projections
from zoo.tasks.provenance import without_folders

SLICES = 6
"""Slices per scan where none are chosen, as in Güllmar et al."""
_PARTS = ".parts"
_SHOWN = 8
_METRICS = ("ssim", "psnr", "mse", "ssim_head", "psnr_head")
_RING = 2
"""Pixels around a lesion that are its surroundings."""
_LEAST_PIXELS = 4
_LEAST_CONTRAST = 0.05
"""Of a range of 2; a ratio to a smaller contrast says nothing."""


@dataclass(frozen=True)
class Targets:
    """The images to project.

    Attributes:
        images: float32 ``[N, C, *size]`` in [-1, 1].
        lesions: bool ``[N, *size]``.
        rows: What each image is, as in `Projections`, without ``losses``; ``trained_on`` marks training subjects.
    """

    images: np.ndarray
    lesions: np.ndarray
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ProjectReport:
    """What projecting wrote, and how close the reconstructions are.

    Attributes:
        projections: The file.
        sheet: PNG of targets, reconstructions and differences.
        rows: One per image.
        summary: By metric, over subjects.
        distance: The loss that was minimised.
    """

    projections: Path
    sheet: Path
    rows: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Interval]
    distance: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON data."""
        return {
            "projections": self.projections.name,
            "sheet": self.sheet.name,
            "distance": self.distance,
            "images": len(self.rows),
            "summary": {name: asdict(interval) for name, interval in self.summary.items()},
            "trained_on": sum(row["trained_on"] for row in self.rows),
            "rows": [dict(row) for row in self.rows],
        }


def choose_scans(
    artifact: Artifact, cohort: Cohort, *, subjects: Sequence[str] = (), all_subjects: bool = False
) -> Cohort:
    """Return the scans to project: of unseen subjects, of the named subjects, or of all subjects.

    Raises:
        DataError: No subject is left, or a named subject does not exist.
    """
    usable = cohort.with_all(artifact.config.data.inputs)
    if subjects:
        names = [name if name.startswith("sub-") else f"sub-{name}" for name in subjects]
        for name in names:
            if name not in usable.subjects:
                raise DataError(
                    f"There is no subject {name!r} with {', '.join(artifact.config.data.contrasts)} in {cohort.root}."
                    f"{did_you_mean(name, usable.subjects)}"
                )
        return usable.subset(names)
    return usable if all_subjects else unseen(artifact, usable)


def find_targets(
    artifact: Artifact,
    cohort: Cohort,
    *,
    positions: Sequence[float] = (),
    every: int | None = None,
    progress: Progress | None = None,
) -> Targets:
    """Return images of a cohort, prepared as for training.

    Args:
        artifact: The trained model.
        cohort: Scans with its contrasts.
        positions: The slices of each scan nearest to these; 0 is the lowest slice of the head, 1 the highest.
        every: Every n-th slice of each scan instead. With neither, `SLICES` spread evenly over the learnt ones.
        progress: Called with (scans read, scans in all).

    Raises:
        ConfigError: Both are given.
        DataError: The model has not learnt a slice at such a position.
    """
    if positions and every:
        raise ConfigError("--positions and --every both choose slices; give one of them.")
    config = artifact.config
    packed = pack_cohort(cohort, config.data, targets=False, progress=progress)
    examples: Placed = resolve(artifact.method.real)(config, packed)
    chosen: list[int] = []
    for number, scan in enumerate(packed.scans):
        places = [(index, place[2]) for index, place in enumerate(examples.places) if place[0] == number]
        chosen += _choose(places, scan.id, positions, every)
    rng = np.random.default_rng(0)  # unused: projected images are not augmented
    images = np.stack([examples.example(index, rng)["image"] for index in chosen]).astype(np.float32)
    lesions = np.stack([examples.lesions(index) for index in chosen])
    return Targets(images, lesions, _rows(artifact, packed, [examples.places[index] for index in chosen]))


def _choose(places: Sequence[tuple[int, float]], scan: str, positions: Sequence[float], every: int | None) -> list[int]:
    if not places:
        raise DataError(f"{scan} has no slice at a position that the model has learnt.")
    if every:
        return [index for index, _ in places[::every]]
    if not positions:
        spread = np.linspace(0, len(places) - 1, min(SLICES, len(places))).round().astype(int)
        return [places[number][0] for number in spread]
    low, high = places[0][1], places[-1][1]
    step = (high - low) / max(len(places) - 1, 1)
    for position in positions:
        if not low - step <= position <= high + step:
            raise DataError(
                f"Position {position:g} of {scan} is not one that the model has learnt: {low:.2f} to {high:.2f}."
            )
    nearest = [min(places, key=lambda place: abs(place[1] - position))[0] for position in positions]
    return list(dict.fromkeys(nearest))


def _rows(
    artifact: Artifact, packed: PackedCohort, places: Sequence[tuple[int, int, float]]
) -> tuple[dict[str, Any], ...]:
    known = {scan.subject for scan in packed.scans if has_seen(artifact, scan)}
    return tuple(
        {
            "subject": packed.scans[number].subject,
            "scan": packed.scans[number].id,
            "slice": int(index),
            "position": float(position),
            "covariates": {name: _cell(text) for name, text in packed.scans[number].covariates.items()},
            "trained_on": packed.scans[number].subject in known,
        }
        for number, index, position in places
    )


def _cell(text: str) -> int | float | str:
    """Return a cell of a table as a number where it is one; whole numbers stay as they were written."""
    number = as_number(text)
    return text if number is None else int(text) if text.isdecimal() else number


def project_files(
    artifact: Artifact,
    targets: Targets,
    folder: Path,
    *,
    options: Mapping[str, object],
    weights: Path | None = None,
    device: str = "cpu",
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> ProjectReport:
    """Project images and write codes, report and sheet.

    Finished batches are kept in the folder until all are done: the same call resumes with the others, and gives the
    same numbers as an uninterrupted one. Gradients need torch, so there is no other backend.

    Args:
        artifact: The trained model.
        targets: Of `find_targets`.
        folder: Gets ``projections.safetensors``, ``projections.json`` and ``projections.png``.
        options: Of the method's projection options.
        weights: Of the loss's network.
        device: Where torch runs.
        command: Words of the command, recorded without folders.
        progress: Called with (iterations done, iterations in all), summed over images.

    Raises:
        UnknownNameError: The method cannot project.
        DataError: Weights are missing, or a loss is not finite.
        ArtifactError: The folder holds other projections or cannot be written.
    """
    task = artifact.method.task("project")
    checked = validate(resolve(task.options), options, what=f"zoo project with {artifact.method.name}")
    distance = load_distance(checked.loss, weights, device)
    batches = _Batches(artifact, targets, folder / _PARTS, checked, distance, device)
    about = {
        **checked.model_dump(mode="json"),
        "distance": distance.name,
        "weights_sha256": distance.weights_sha256,
        "command": without_folders(command),
        "fingerprint": batches.fingerprint(),
    }
    file = folder / PROJECTIONS_FILE
    if file.exists():
        whole = Projections.read(file)
        if whole.options.get("fingerprint") != about["fingerprint"]:
            raise ArtifactError(
                f"{folder} holds projections of other images or with other settings; choose another --out."
            )
    else:
        whole = _join(batches.project(progress), about)
        whole.write(file)
    report = ProjectReport(file, folder / "projections.png", whole.rows, summary(whole.rows), distance.name)
    _draw(report.sheet, whole)
    described = {**report.to_json(), "method": artifact.method.name, "model_sha256": artifact.sha256, "options": about}
    write_text(folder / "projections.json", json.dumps(described, indent=2) + "\n")
    shutil.rmtree(batches.folder, ignore_errors=True)
    return report


@dataclass(frozen=True)
class _Batches:
    """Images that are projected together, and kept in a folder once they are done.

    Attributes:
        artifact: The model.
        targets: All images.
        folder: Gets one file per finished batch, named by all that decides it.
        options: Of the method.
        distance: The loss.
        device: Where torch runs.
    """

    artifact: Artifact
    targets: Targets
    folder: Path
    options: Any
    distance: NamedDistance
    device: str

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the results."""
        return hashlib.sha256("".join(self._key(batch) for batch in self._batches()).encode()).hexdigest()

    def project(self, progress: Progress | None) -> list[Projections]:
        """Return the projections of each batch; finished ones are read from the folder."""
        run, model = resolve(self.artifact.method.task("project").run), self.artifact.build(self.device)
        steps = self.options.iterations
        total = len(self.targets.rows) * steps
        done: list[Projections] = []
        for batch in self._batches():
            file = self.folder / f"{self._key(batch)}.safetensors"
            if not file.is_file():
                images = torch.from_numpy(self.targets.images[list(batch)])
                projected: Projected = run(
                    model,
                    self.artifact.config,
                    images.to(self.device),
                    [_seed(self.options.seed, image) for image in images.numpy()],
                    self.distance.measure,
                    self.options,
                    _reporter(progress, batch, steps, total),
                )
                self._whole(batch, images, projected).write(file)
            done.append(Projections.read(file))
            if progress:
                progress(batch.stop * steps, total)
        return done

    def _batches(self) -> list[range]:
        numbers, size = range(len(self.targets.rows)), self.options.batch_size
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]

    def _key(self, batch: range) -> str:
        """Return a hash of everything that decides a batch's result."""
        distance = self.distance
        settings = [
            self.artifact.sha256, self.options.model_dump(mode="json"), distance.name, distance.weights_sha256
        ]  # fmt: skip
        chosen = [self.targets.rows[number] for number in batch]
        rows = [{**row, "covariates": _as_floats(row["covariates"])} for row in chosen]
        digest = hashlib.sha256(json.dumps([settings, rows], sort_keys=True).encode())
        for number in batch:
            digest.update(self.targets.images[number].tobytes())
            digest.update(self.targets.lesions[number].tobytes())
        return digest.hexdigest()

    def _whole(self, batch: range, images: torch.Tensor, projected: Projected) -> Projections:
        """Return what was found for a batch, with how close its reconstructions are."""
        artifact, targets = self.artifact, self.targets
        lesions = targets.lesions[list(batch)]
        measured = measure(images, projected.reconstruction, lesions, artifact.config.data.contrasts)
        rows = tuple(
            {**targets.rows[number], **about, "losses": {**losses, **about["losses"]}}
            for number, losses, about in zip(batch, projected.losses, measured, strict=True)
        )
        return Projections(
            projected.codes, projected.noise, images, projected.reconstruction, rows, artifact.method.name,
            str(artifact.sha256),
        )  # fmt: skip


def _as_floats(covariates: Mapping[str, int | float | str]) -> dict[str, float | str]:
    """Return numbers by their value alone: version 0.1.0 kept 4224 as 4224.0, and its projections are resumable."""
    return {name: float(value) if isinstance(value, int) else value for name, value in covariates.items()}


def _seed(seed: int, image: np.ndarray) -> int:
    """Return the seed of one image, from its voxels; neighbours in the batch do not matter."""
    return seed_for(seed, int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8]))


def _reporter(progress: Progress | None, batch: range, iterations: int, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(batch.start * iterations + len(batch) * done, total)


def _join(parts: Sequence[Projections], options: Mapping[str, Any]) -> Projections:
    return Projections(
        codes=torch.cat([part.codes for part in parts]),
        noise=tuple(torch.cat(planes) for planes in zip(*(part.noise for part in parts), strict=True)),
        image=torch.cat([part.image for part in parts]),
        reconstruction=torch.cat([part.reconstruction for part in parts]),
        rows=tuple(row for part in parts for row in part.rows),
        method=parts[0].method,
        model_sha256=parts[0].model_sha256,
        options=options,
    )


# --- How close the reconstructions are. ---


def measure(
    images: torch.Tensor, reconstruction: torch.Tensor, lesions: np.ndarray, contrasts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each image ``losses`` (SSIM, PSNR in dB, mean square, range 2) and ``lesions``.

    ``ssim``, ``psnr`` and ``mse`` cover all pixels; ``ssim_head`` and ``psnr_head`` those in the filled outline of the
    target's first channel, where there is one: nearly half of a slice is background, which is easy.

    Lesion contrast is the mean inside the lesions minus that of the foreground within 2 pixels around them. ``lesions``
    has it per contrast for the target and the reconstruction, and ``survives``, the ratio of the second to the first,
    ``None`` where the target's is below 0.05 of a range of 2; it is empty where lesions have fewer than 4 pixels.

    Args:
        images, reconstruction: ``[N, C, *size]``; a reconstruction is clamped to [-1, 1].
        lesions: bool ``[N, *size]``.
        contrasts: Names; the channels are these, each repeated equally often.
    """
    made = reconstruction.clamp(-1, 1)
    similarity = ssim_map(made, images)
    error = (made.double() - images.double()).square()
    heads = torch.from_numpy(np.stack([find_head((image[0].numpy() + 1) / 2) for image in images]))[:, None]
    found = []
    for n in range(len(images)):
        mse, inside = error[n].mean(), heads[n].expand_as(error[n])
        losses = {"ssim": float(similarity[n].mean()), "psnr": float(psnr(mse)), "mse": float(mse)}
        if inside.any():
            losses |= {
                "ssim_head": float(similarity[n][inside].mean()),
                "psnr_head": float(psnr(error[n][inside].mean())),
            }
        lesion_contrast = _lesion_contrast(images[n].numpy(), made[n].numpy(), lesions[n], contrasts)
        found.append({"losses": losses, "lesions": lesion_contrast})
    return found


def _lesion_contrast(
    target: np.ndarray, made: np.ndarray, lesions: np.ndarray, contrasts: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    ring = ndimage.binary_dilation(lesions, iterations=_RING) & ~lesions & (target[0] > -0.9)
    if lesions.sum() < _LEAST_PIXELS or not ring.any():
        return {}
    found: dict[str, dict[str, float | None]] = {}
    copies = len(target) // len(contrasts)
    for number, contrast in enumerate(contrasts):
        before, after = (
            float(channel[lesions].mean() - channel[ring].mean())
            for channel in (image[number * copies : (number + 1) * copies].mean(0) for image in (target, made))
        )
        survives = after / before if abs(before) >= _LEAST_CONTRAST else None
        found[contrast] = {"target": before, "reconstruction": after, "survives": survives}
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """Return mean and 95 % interval over subjects of each metric; images of a subject are averaged first."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        own = {name: row["losses"][name] for name in _METRICS if name in row["losses"]}
        own |= {f"lesion contrast left, {contrast}": about["survives"] for contrast, about in row["lesions"].items()}
        for name, value in own.items():
            if value is not None:
                values.setdefault(name, {}).setdefault(row["subject"], []).append(value)
    return {
        name: mean_interval([float(np.mean(several)) for several in subjects.values()])
        for name, subjects in values.items()
    }


def _draw(path: Path, whole: Projections) -> None:
    """Draw some targets, reconstructions and differences."""
    from zoo.report.figures import compare, upright

    some = np.unique(np.linspace(0, len(whole) - 1, min(_SHOWN, len(whole))).round().astype(int))
    first, second = (
        upright(tensor[some, 0].numpy(), tensor.dim() - 2) for tensor in (whole.image, whole.reconstruction)
    )
    titles = [
        f"{row['scan']}\nposition {row['position']:.2f}\n{_similarity(row['losses'])}"
        + ("\nused in training" if row["trained_on"] else "")
        for row in (whole.rows[number] for number in some)
    ]
    with replacing(path) as temporary:
        compare(temporary, first, second, titles)


def _similarity(losses: Mapping[str, float]) -> str:
    whole = f"SSIM {losses['ssim']:.3f}"
    return f"{whole}\nhead {losses['ssim_head']:.3f}" if "ssim_head" in losses else whole
