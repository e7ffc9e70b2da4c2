"""How well healthy tissue is restored under lesion masks and circles, beside classic fillers."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage, stats
from torch import Tensor

from zoo.config import validate
from zoo.descriptors import Score, resolve
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation
from zoo.evaluation.unseen import unlaid
from zoo.imaging.cache import PackedCohort, PackedScan, lenders, pack_cohort
from zoo.imaging.cohort import Cohort, Scan, read_cohort
from zoo.imaging.geometry import Grid, to_grid
from zoo.imaging.masks import LaidLesions
from zoo.imaging.transfer import patient_of
from zoo.imaging.volume import read_volume
from zoo.metrics.filling import (
    GREY,
    SIZE_BINS_MM3,
    grey_matter_leak,
    lesion_volumes,
    lesions_by_size,
    mean_cortical_thickness,
    seam_score,
    stripe_score,
    tissue_classes,
    tissue_volumes,
)
from zoo.metrics.image import inpainting_metrics
from zoo.metrics.lpips import load_lpips
from zoo.metrics.statistics import mean_interval
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.system.machine import without_folders
from zoo.tasks.fill.patient import sample_seeds
from zoo_lesion_diffusion.baselines import sharp_slices
from zoo_lesion_diffusion.config import InpaintingOptions

Filler = Callable[[np.ndarray, np.ndarray, PackedScan, int], tuple[np.ndarray, np.ndarray | None]]
"""``(image [C, i, j, k], mask [i, j, k], scan, seed) -> mean of the samples, their standard deviation``.

Intensities in [-1, 1]; no deviation of a single sample."""

_UNITS: dict[str, tuple[str, Literal["higher", "lower", "nearer 1"]]] = {
    "ssim": ("", "higher"),
    "psnr": ("dB", "higher"),
    "mse": ("", "lower"),
    "lpips": ("", "lower"),
    "seam": ("", "nearer 1"),
    "stripes": ("", "nearer 1"),
    "grey": ("", "lower"),
    "coverage": ("", "higher"),
    "volume": ("%", "lower"),
    "thickness": ("%", "lower"),
}
"""Unit and direction, by the first word of the metric."""

_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "ssim": (-1, 1),
    "grey": (0, 1),
    "coverage": (0, 1),
    "psnr": (None, None),
}
"""Lowest and highest possible value, by the first word of the metric; all others are 0 or more."""

_NOTES = {
    "ssim_in": "lifted by what is pasted back round the mask, the more the smaller the lesion",
    "ssim_filled": "windows of filled voxels alone",
    "seam": "1 is ideal: as in the truth",
    "stripes": "1 is ideal: as in the truth",
    "grey_leak": "a classifier by intensity finds some in healthy white matter, too",
}
_CONDITIONS = ("lesions", *(f"lesions {label}" for label in SIZE_BINS_MM3), "circles", "twin")
"""In the order of the table."""

_SLAB = 16
"""Slices of a slab of circles, as the thesis' pseudo-3D networks see them."""

_HEAD = -0.9
"""Voxels above this are head, on the scale of [-1, 1]."""


def inpainting(
    artifact: Artifact, cohort: Cohort, options: InpaintingOptions, progress: Callable[[int, int], None]
) -> Evaluation:
    """Fill holes in healthy tissue whose content is known, and patients whose lesion-free twin is known.

    Conditions: ``lesions``, real lesion masks laid on healthy white matter; ``circles``, slabs of one disc a
    slice round a common centre inside the head, the same for every model on this grid; ``twin``, a patient's own
    lesions against the twin without them (phantom only). SSIM, PSNR and MSE inside, outside and over the image, a
    slice at a time on [-1, 1]; slices are averaged within a subject, then subjects. LPIPS over the whole slice. Known
    voxels are put back before measuring.

    The conditions ``lesions <20 mm3`` and so on are the lesions of one size in the same filled images; it is the size
    of the whole lesion, before it is cut to the slab and to white matter. Slices at the rim of the field of view that
    are half faded hold no truth: `sharp_slices` leaves them out of both conditions, and their number is told.
    ``seam`` and ``stripes`` are the scores of the filled volume by those of the truth, so that 1 is ideal;
    ``grey_leak`` is the share of filled white matter that looks like something else. In ``twin`` the ``volume_error``
    (mean over fluid, grey and white matter) and the ``thickness_error`` tell how far the filled T1w leads an analysis
    astray, and ``unfilled`` how far the lesions do.

    ``ssim_in`` is the thesis' figure, ``ssim_filled`` that of filled voxels alone; see `inpainting_metrics`. Every
    figure of the model is also compared with each baseline's within subjects (`zoo.evaluation.scores.Comparison`). With
    several ``samples``, ``coverage_1sd`` and ``coverage_2sd`` tell how far their standard deviation can be believed.

    Args:
        artifact: A model with the task ``fill``.
        cohort: Subjects it has not seen.
        options: Masks, seed, solver.
        progress: Called with (subjects done, subjects in all).

    Raises:
        DataError: There is no mask to measure under.

    Source: Uhr 2024, section 3.5 and table 3.3. Departures: discs in millimetres, smaller than the thesis' largest;
    ``ssim_filled``; the mean is over subjects, not over slices, so that its interval is about new subjects.
    """
    bank, packed = _lay_masks(artifact, cohort, options)
    own_bank = bank is not None and bank.root == cohort.root
    perceptual, why_not = _perceptual(options)
    fillers: dict[str, Filler] = {
        MODEL: _model(artifact, options),
        "biharmonic": _model(Artifact.open("biharmonic-filling"), InpaintingOptions()),
        "biharmonic 2D + 3D": _model(Artifact.open("biharmonic-2d3d-filling"), InpaintingOptions()),
        "neighbours": _model(Artifact.open("neighbour-filling"), InpaintingOptions()),
    }
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    pictures: list[tuple[bytes, str]] = []
    faded = 0
    for number, (scan, lesions) in enumerate(zip(packed.scans, packed.lesions, strict=True)):
        lent = lenders(scan.subject, bank.scans if bank else (), own_bank=own_bank)
        for case in _cases(scan, lesions, lent, artifact, options, number):
            condition, image, truth, mask = case.condition, case.image, case.truth, case.mask
            faded += case.faded_slices
            if not mask.any():
                continue
            shown: dict[str, np.ndarray] = {}
            sizes = lesions_by_size(mask, case.volume_mm3) if case.volume_mm3 is not None else {}
            for who, filler in fillers.items():
                mean, spread = filler(image, mask, scan, options.seed + number)
                filled = np.where(mask, mean, image)
                if spread is not None and who == MODEL:
                    for metric, covered in _coverage(mean, spread, truth, mask).items():
                        values[condition, who, metric][scan.subject].append(covered)
                for size, name, value in _measure(filled, truth, mask, sizes, perceptual):
                    values[f"lesions {size}" if size else condition, who, name][scan.subject].append(value)
                shown[who] = filled
            contrasts = artifact.config.data.contrasts
            for who, metric, value in _inspect(shown, condition, image, truth, mask, scan, contrasts):
                if not np.isnan(value):  # a hole of one slice has no stripes
                    values[condition, who, metric][scan.subject].append(value)
            if number == 0 and condition not in {caption.split(":")[0] for _, caption in pictures}:
                pictures.append((_picture(image, truth, mask, shown), f"{condition}: {', '.join(_panels(shown))}"))
        progress(number + 1, len(packed.scans))
    if not values:
        raise DataError(
            f"None of the {len(packed.scans)} subjects has white matter (a dseg or a label-WM_mask) to cut holes in."
        )
    return _summarise(values, faded, why_not, artifact, options, cohort, bank, pictures)


def _lay_masks(artifact: Artifact, cohort: Cohort, options: InpaintingOptions) -> tuple[Cohort | None, PackedCohort]:
    """Return the scans that lend their lesion masks, never images, and the cohort with these laid on it.

    Masks that training has laid on its subjects are left out, unless no other falls on a subject.
    """
    where = options.lesion_masks or artifact.config.data.lesion_masks
    found = read_cohort(Path(where) if where else cohort.root).named(options.lesion_mask_subjects)
    own = found.root == cohort.root
    fresh = unlaid(artifact, found)
    for bank in (fresh, found) if len(fresh.scans) < len(found.scans) else (found,):
        packed = pack_cohort(cohort, artifact.config.data, mask_bank=bank, own_bank=own)
        if any(packed.lesions):
            return bank, packed
    return None, packed


def _about_sampling(artifact: Artifact, options: InpaintingOptions) -> dict[str, Any]:
    """Return how the model was sampled; empty for a method without training."""
    sampling = getattr(artifact.config, "sampling", None)
    asked = options.model_dump(include={"steps", "solver", "start"}, exclude_none=True)
    return {**sampling.model_dump(mode="json"), **asked} if sampling else {}


def _about_masks(artifact: Artifact, bank: Cohort | None) -> str:
    """Return which masks were laid, and whether training has laid them, too."""
    if bank is None:
        return "none"
    patients = sorted({patient_of(scan) for scan in bank.scans if "lesion-mask" in scan.maps})
    known = "masks_laid" in artifact.manifest
    laid = len(bank.scans) - len(unlaid(artifact, bank).scans)
    training = (
        (f"{laid} laid in training, too" if laid else "none laid in training") if known else "training's not recorded"
    )
    return f"{bank.root.name} ({len(patients)} patients: {training})"


def _perceptual(options: InpaintingOptions) -> tuple[Callable[[Tensor, Tensor], Tensor] | None, str]:
    try:
        return load_lpips(Path(options.lpips_weights) if options.lpips_weights else None), ""
    except DataError as error:
        # Weights named by the user must work; weights that nobody named may be absent.
        if options.lpips_weights:
            raise
        return None, without_folders(str(error))  # it is kept with the figures


@dataclass(frozen=True)
class _Case:
    """What is filled and what should come of it.

    Attributes:
        condition: As in the keys of scores.
        image, truth: ``[C, i, j, k]`` in [-1, 1].
        mask: bool ``[i, j, k]``.
        volume_mm3: Of the whole lesion at each voxel, ``[i, j, k]``; ``None`` where lesions are not sorted by size.
        faded_slices: Slices that were left out of the mask, as they hold no truth.
    """

    condition: str
    image: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    volume_mm3: np.ndarray | None = None
    faded_slices: int = 0


def _cases(
    scan: PackedScan,
    lesions: tuple[LaidLesions, ...],
    lent: Sequence[Scan],
    artifact: Artifact,
    options: InpaintingOptions,
    number: int,
) -> Iterator[_Case]:
    """Yield the cases of a scan; ``lent`` are the scans whose lesions were laid on it."""
    rng = np.random.default_rng([options.seed, number])
    image = np.ascontiguousarray(np.transpose(scan.images, (1, 2, 3, 0)).astype(np.float32))
    sick = np.moveaxis(scan.lesion_mask, 0, 2)
    sharp = sharp_slices(image[0])
    usable = [index for index, laid in enumerate(lesions) if len(laid.voxels)]
    for index in rng.permutation(usable)[: options.masks_per_subject]:
        mask = np.moveaxis(lesions[index].as_mask(scan.shape), 0, 2) & ~sick
        faded = int((mask.any(axis=(0, 1)) & ~sharp).sum())
        volume_mm3 = _whole_lesions(lent[index].maps["lesion-mask"], scan.grid)
        yield _Case("lesions", image, image, mask & sharp, volume_mm3, faded)
    yield _Case("circles", image, image, _circles(scan, sharp, options, number) & ~sick)
    if scan.lesion_free is not None and sick.any():
        truth = image.copy()
        truth[artifact.config.data.contrasts.index("T1w")] = np.moveaxis(scan.lesion_free, 0, 2)
        yield _Case("twin", image, truth, sick)


def _whole_lesions(path: Path, grid: Grid) -> np.ndarray:
    """Return the volume of the whole lesion at each voxel of a grid, mm³, ``[i, j, k]``."""
    volumes, affine = _lesion_volumes(path)
    return to_grid(volumes, affine, grid, order=0)


@lru_cache(maxsize=64)
def _lesion_volumes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return `lesion_volumes` of a mask file, cut to where lesions are, and its affine."""
    volume = read_volume(path)
    volumes = lesion_volumes(volume.data[0] > 0.5, float(np.prod(voxel_sizes(volume.affine))))
    box = next(iter(ndimage.find_objects((volumes > 0).astype(np.uint8))), (slice(0, 1),) * 3)
    corner = volume.affine.copy()
    corner[:3, 3] = apply_affine(volume.affine, [side.start for side in box])
    return volumes[box].copy(), corner


def _circles(scan: PackedScan, sharp: np.ndarray, options: InpaintingOptions, number: int) -> np.ndarray:
    """Draw one disc on each slice of some slabs, cut to the head, bool ``[i, j, k]``.

    Discs are drawn in millimetres and depend on the seed, the scan and its grid alone.
    """
    rng = np.random.default_rng([options.seed, number, 1])
    slices, rows, columns = scan.shape
    head = np.asarray(scan.images[:, 0]) > _HEAD
    tissue = scan.white_matter.any(axis=(1, 2)) if scan.white_matter.any() else head.any(axis=(1, 2))
    held = np.flatnonzero(tissue & sharp)
    bounds = np.linspace(0, len(held), options.circle_slabs + 2).astype(int)[1:-1]
    spacing = np.array(scan.grid.spacing_mm[:2])
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1) * spacing  # mm
    mask = np.zeros((slices, rows, columns), bool)
    for middle in held[bounds] if len(held) else ():
        centre = np.argwhere(head[middle]).mean(axis=0) * spacing + rng.normal(0, options.circle_centre_sd_mm, 2)
        for index in range(max(middle - _SLAB // 2, 0), min(middle + _SLAB // 2, slices)):
            radius = rng.uniform(*options.circle_radius_mm)
            disc = ((places - centre) ** 2).sum(axis=-1) < radius**2
            mask[index] |= disc & head[index] & sharp[index]
    return np.moveaxis(mask, 0, 2)


def _model(artifact: Artifact, options: InpaintingOptions) -> Filler:
    task = artifact.method.task("fill")
    run, kind = resolve(task.run), resolve(task.options)
    asked = options.model_dump(include={"steps", "solver", "start"}, exclude_none=True)
    checked = validate(kind, asked, what=f"fill of {artifact.method.name}")
    parts = artifact.parts(Runtime.choose(options.backend, options.precision))

    def fill(image: np.ndarray, mask: np.ndarray, scan: PackedScan, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        white_matter = torch.from_numpy(np.moveaxis(scan.white_matter, 0, 2)) if scan.white_matter.any() else None
        tensors = [torch.from_numpy(array) for array in (image, mask)]
        drawn = [
            run(parts, artifact.config, *tensors, checked.model_copy(update={"seed": one}), white_matter=white_matter)
            for one in sample_seeds(seed, options.samples)
        ]
        samples = torch.stack(drawn)
        return samples.mean(dim=0).numpy(), samples.std(dim=0).numpy() if len(samples) > 1 else None

    return fill


def right_coverage(samples: int, reach: float) -> float:
    """Return the share of truths within ``reach`` standard deviations of the mean of few samples, were all one crowd.

    Truth and samples from one normal distribution: the mean errs, too, and so does the deviation of few samples, so
    that the error over it has Student's t distribution (0.56 and 0.83 for four samples, 0.68 and 0.95 for very many).
    """
    return float(2 * stats.t.cdf(reach / (1 + 1 / samples) ** 0.5, samples - 1) - 1)


def _note(metric: str, options: InpaintingOptions) -> str:
    if not metric.startswith("coverage"):
        return _NOTES.get(metric, "")
    reach = 1 if metric == "coverage_1sd" else 2
    right = right_coverage(options.samples, reach)
    return f"share of true voxels within {reach} sd of the mean of {options.samples} samples; {right:.2f} is right"


def _coverage(mean: np.ndarray, spread: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return the shares of filled voxels whose truth lies within one and two standard deviations of the mean."""
    error = np.abs(mean - truth)[:, mask]
    return {f"coverage_{reach}sd": float((error <= reach * spread[:, mask]).mean()) for reach in (1, 2)}


def _measure(
    filled: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    sizes: Mapping[str, np.ndarray],
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
) -> Iterator[tuple[str, str, float]]:
    """Yield size (empty: all), metric and its mean over the slices where there is something to measure."""
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    predicted, known, hole, *parts = (
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(array[..., slices], -1, 0)))
        for array in (filled.astype(np.float32), truth, mask[None], *(lesions[None] for lesions in sizes.values()))
    )
    measured = inpainting_metrics(predicted, known, hole, dict(zip(sizes, parts, strict=True)))
    if perceptual is not None and min(predicted.shape[2:]) >= 64:
        # LPIPS knows one image at a time: channels are compared one by one.
        measured["lpips"] = perceptual(predicted.flatten(0, 1)[:, None], known.flatten(0, 1)[:, None])
    for name, values in measured.items():
        if values.isnan().all():
            continue
        metric, _, place = name.rpartition("_")
        size = place if place in sizes else ""
        inside = metric if metric.endswith("_filled") else f"{metric}_in"
        yield size, inside if size else name, float(values.nanmean())


def _inspect(
    fills: Mapping[str, np.ndarray],
    condition: str,
    image: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    scan: PackedScan,
    contrasts: Sequence[str],
) -> Iterator[tuple[str, str, float]]:
    """Yield filler, metric and value of what is judged by whole volumes; nan where there is nothing to judge."""
    white_matter, tissue = np.moveaxis(scan.white_matter, 0, 2), np.moveaxis(scan.tissue, 0, 2)
    for metric, score in (("seam", seam_score), ("stripes", stripe_score)):
        ideal = np.array([score(channel, mask) for channel in truth])
        for who, filled in fills.items():
            found = np.array([score(channel, mask) for channel in filled])
            yield who, metric, float(np.mean(found / np.where(ideal > 0, ideal, np.nan)))
    if condition == "circles" or "T1w" not in contrasts:
        return
    t1w = contrasts.index("T1w")
    for who, filled in fills.items():
        labels = tissue if tissue.any() else None
        yield who, "grey_leak", grey_matter_leak(filled[t1w], white_matter, mask, labels)
    if condition == "twin" and tissue.any():
        known = _anatomy(truth[t1w], tissue > 0, mask, scan.grid.spacing_mm)
        for who, filled in {**fills, "unfilled": image}.items():
            errors = 100 * np.abs(_anatomy(filled[t1w], tissue > 0, mask, scan.grid.spacing_mm) / known - 1)
            yield who, "volume_error", float(errors[:-1].mean())
            yield who, "thickness_error", float(errors[-1])


def _anatomy(
    t1w: np.ndarray, brain: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Return the volumes of fluid, grey and white matter in ml, and the cortical thickness in mm."""
    classes = tissue_classes(t1w, brain, brain & ~mask)
    volumes = tissue_volumes(classes, float(np.prod(spacing_mm)))
    thickness = mean_cortical_thickness(classes == GREY, spacing_mm)
    return np.array([*volumes.values(), thickness])


def _summarise(
    values: dict[tuple[str, str, str], dict[str, list[float]]],
    faded: int,
    why_not: str,
    artifact: Artifact,
    options: InpaintingOptions,
    cohort: Cohort,
    bank: Cohort | None,
    pictures: list[tuple[bytes, str]],
) -> Evaluation:
    scores: dict[str, Score] = {}
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for (condition, who, metric), by_subject in sorted(values.items(), key=lambda item: _CONDITIONS.index(item[0][0])):
        means = {subject: float(np.mean(several)) for subject, several in by_subject.items()}
        lower, upper = _BOUNDS.get(metric.split("_")[0], (0, None))
        interval = mean_interval(list(means.values()), lower=lower, upper=upper)
        unit, better = _UNITS[metric.split("_")[0]]
        bounds = None if interval.low is None or interval.high is None else (interval.low, interval.high)
        scores[f"{condition}/{who}/{metric}"] = Score(
            value=interval.mean, unit=unit, better=better, n=interval.n, ci=bounds, note=_note(metric, options)
        )
        for subject, mean in means.items():
            row = rows.setdefault((subject, condition, who), {"subject": subject, "masks": condition, "filled by": who})
            row[metric] = mean
    for condition, who, metric in values:
        if metric == "ssim_full" and f"{condition}/{who}/lpips" not in scores:
            note = why_not or "the slices are smaller than the 64 pixels that AlexNet needs"
            scores[f"{condition}/{who}/lpips"] = Score(value=None, unit="", better="lower", n=0, note=note)
    about = {
        "data": cohort.root.name,
        "subjects": len(cohort.subjects),
        "lesion masks": _about_masks(artifact, bank),
        "masks a subject": options.masks_per_subject,
        "faded slices left out": faded,
        "circle_radius_mm": list(options.circle_radius_mm),
        "circle_centre_sd_mm": options.circle_centre_sd_mm,
        "seed": options.seed,
        "samples": options.samples,
        "sampling": _about_sampling(artifact, options),
        "spacing_mm": artifact.config.data.spacing_mm,
        "images_seen": artifact.manifest.get("images_seen"),
        "backend": f"{options.backend}, {options.precision}",
        "lpips": "AlexNet, linear weights 0.1" if not why_not else "not measured",
    }
    return Evaluation(scores, about, list(rows.values()), pictures)


def _panels(shown: dict[str, np.ndarray]) -> list[str]:
    return ["truth", "hole", *shown]


def _picture(image: np.ndarray, truth: np.ndarray, mask: np.ndarray, shown: dict[str, np.ndarray]) -> bytes:
    """Draw truth, hole and every filler on the slice with the largest hole."""
    from zoo.report.figures import sheet, upright

    index = int(mask.sum(axis=(0, 1)).argmax())
    hole = np.where(mask, -1, image[0])
    planes = [truth[0], hole, *(filled[0] for filled in shown.values())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        slices = upright(np.stack([plane[..., index] for plane in planes]))
        sheet(slices, path, titles=_panels(shown), columns=len(planes))
        return path.read_bytes()
