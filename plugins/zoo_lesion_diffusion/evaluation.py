"""How well healthy tissue is restored under lesion masks and circles, compared with classic fillers."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.config import validate
from zoo.descriptors import Score, resolve
from zoo.errors import DataError
from zoo.evaluation.scores import MODEL, Evaluation, Measure
from zoo.evaluation.unseen import unlaid
from zoo.imaging.cache import PackedScan, lenders
from zoo.imaging.cohort import Cohort
from zoo.imaging.transfer import patient_of
from zoo.metrics.filling import SIZE_BINS_MM3
from zoo.metrics.lpips import load_lpips
from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime
from zoo.system.machine import without_folders
from zoo.tasks.fill.patient import sample_seeds
from zoo_lesion_diffusion.cases import Case, cases_of, place_masks
from zoo_lesion_diffusion.config import InpaintingOptions
from zoo_lesion_diffusion.measures import Fill, Perceptual, measure, score

Filler = Callable[[Case, PackedScan, int], Fill]
"""Fills the hole of a case: ``(case, scan, seed) -> fill``."""

_CONDITIONS = ("lesions", *(f"lesions {label}" for label in SIZE_BINS_MM3), "circles", "twin")
"""In the order of the table."""


def inpainting(
    artifact: Artifact, cohort: Cohort, options: InpaintingOptions, progress: Callable[[int, int], None]
) -> Evaluation:
    """Fill holes in healthy tissue whose content is known, and patients whose lesion-free twin is known.

    Conditions: ``lesions``, real lesion masks placed on healthy white matter; ``circles``, slabs with one disc per
    slice around a common centre inside the head, the same for every model on this grid; ``twin``, a patient's own
    lesions against the twin without them (phantom only). SSIM, PSNR and MSE are measured inside the mask, outside it
    and over the whole image, slice by slice on [-1, 1]; slices are averaged within a subject, then subjects. LPIPS is
    measured over the whole slice. Known voxels are put back before measuring.

    The conditions ``lesions <20 mm3`` and so on are the lesions of one size in the same filled images; the size is that
    of the whole lesion, before it is restricted to the slab and to white matter. Half-faded slices at the rim of the
    field of view hold no truth: both conditions leave them out (`sharp_slices`), and their number is reported.
    ``seam`` and ``stripes`` are the scores of the filled volume divided by those of the truth, so 1 is ideal;
    ``grey_leak`` is the share of filled white matter that looks like something else. In ``twin``, ``volume_error``
    (mean over fluid, grey and white matter) and ``thickness_error`` tell how much the filled T1w biases an analysis,
    and ``unfilled`` how much the lesions do.

    ``ssim_in`` is the thesis' figure, ``ssim_filled`` that of filled voxels alone; see `inpainting_metrics`. Every
    metric of the model is also compared with each baseline's within subjects (`zoo.evaluation.scores.Comparison`). With
    several ``samples``, ``coverage_1sd`` and ``coverage_2sd`` tell how reliable their standard deviation is.

    Args:
        artifact: A model with the task ``fill``.
        cohort: Subjects that it has not seen.
        options: Masks, seed, solver.
        progress: Called with (subjects done, subjects in all).

    Raises:
        DataError: There is no mask to measure under.

    Source: Uhr 2024, section 3.5 and table 3.3. Departures: discs in millimetres, smaller than the thesis' largest;
    ``ssim_filled``; the mean is over subjects, not over slices, so its interval is about new subjects.
    """
    bank, packed = place_masks(artifact, cohort, options)
    own_bank = bank is not None and bank.root == cohort.root
    contrasts = artifact.config.data.contrasts
    perceptual, why_no_lpips = _perceptual(options)
    fillers: dict[str, Filler] = {
        MODEL: _filler(artifact, options),
        "biharmonic": _filler(Artifact.open("biharmonic-filling"), InpaintingOptions()),
        "biharmonic 2D + 3D": _filler(Artifact.open("biharmonic-2d3d-filling"), InpaintingOptions()),
        "neighbours": _filler(Artifact.open("neighbour-filling"), InpaintingOptions()),
    }
    values: dict[Measure, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    pictures: dict[str, tuple[bytes, str]] = {}  # by condition, of the first subject
    faded = 0
    for number, (scan, lesions) in enumerate(zip(packed.scans, packed.lesions, strict=True)):
        sources = lenders(scan.subject, bank.scans if bank else (), own_bank=own_bank)
        for case in cases_of(scan, lesions, sources, contrasts, options, number):
            faded += case.faded_slices
            if not case.mask.any():
                continue
            fills = {name: filler(case, scan, options.seed + number) for name, filler in fillers.items()}
            for what, value in measure(case, fills, scan, contrasts, perceptual):
                values[what][scan.subject].append(value)
            if number == 0 and case.condition not in pictures:
                pictures[case.condition] = _picture(case, fills)
        progress(number + 1, len(packed.scans))
    if not values:
        raise DataError(
            f"None of the {len(packed.scans)} subjects has white matter (a dseg or a label-WM_mask) to cut holes in."
        )
    about = _about(artifact, cohort, bank, options, faded, why_no_lpips)
    return Evaluation(_scores(values, options.samples, why_no_lpips), about, _rows(values), list(pictures.values()))


def _filler(artifact: Artifact, options: InpaintingOptions) -> Filler:
    """Return a filler that runs a model's task ``fill``."""
    task = artifact.method.task("fill")
    run, kind = resolve(task.run), resolve(task.options)
    asked = options.model_dump(include={"steps", "solver", "start"}, exclude_none=True)
    checked = validate(kind, asked, what=f"fill of {artifact.method.name}")
    parts = artifact.parts(Runtime.choose(options.backend, options.precision))

    def fill(case: Case, scan: PackedScan, seed: int) -> Fill:
        white_matter = torch.from_numpy(np.moveaxis(scan.white_matter, 0, 2)) if scan.white_matter.any() else None
        image, mask = torch.from_numpy(case.image), torch.from_numpy(case.mask)
        drawn = [
            run(
                parts, artifact.config, image, mask, checked.model_copy(update={"seed": one}), white_matter=white_matter
            )
            for one in sample_seeds(seed, options.samples)
        ]
        samples = torch.stack(drawn)
        return Fill(samples.mean(dim=0).numpy(), samples.std(dim=0).numpy() if len(samples) > 1 else None)

    return fill


def _perceptual(options: InpaintingOptions) -> tuple[Perceptual | None, str]:
    """Return LPIPS, or ``None`` and the reason why it is not measured."""
    try:
        return load_lpips(Path(options.lpips_weights) if options.lpips_weights else None), ""
    except DataError as error:
        # Weights that the user names must work; the default ones may be absent.
        if options.lpips_weights:
            raise
        return None, without_folders(str(error))  # it is kept with the scores


def _scores(
    values: Mapping[Measure, Mapping[str, list[float]]], samples: int, why_no_lpips: str
) -> dict[Measure, Score]:
    """Return the scores in the order of the table, from each subject's values."""
    scores: dict[Measure, Score] = {}
    for what in _in_order(values):
        means = [float(np.mean(several)) for several in values[what].values()]
        scores[what] = score(what.metric, means, samples)
    for what in values:
        lpips = what._replace(metric="lpips")
        if what.metric == "ssim_full" and lpips not in scores:
            note = why_no_lpips or "the slices are smaller than the 64 pixels that AlexNet needs"
            scores[lpips] = Score(value=None, unit="", better="lower", n=0, note=note)
    return scores


def _rows(values: Mapping[Measure, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    """Return one row per subject, condition and filler."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for what in _in_order(values):
        for subject, several in values[what].items():
            start = {"subject": subject, "masks": what.condition, "filled by": what.filler}
            row = rows.setdefault((subject, what.condition, what.filler), start)
            row[what.metric] = float(np.mean(several))
    return list(rows.values())


def _in_order(values: Mapping[Measure, Any]) -> list[Measure]:
    return sorted(values, key=lambda what: _CONDITIONS.index(what.condition))


def _about(
    artifact: Artifact,
    cohort: Cohort,
    bank: Cohort | None,
    options: InpaintingOptions,
    faded: int,
    why_no_lpips: str,
) -> dict[str, Any]:
    """Return what a reader needs to repeat the evaluation."""
    return {
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
        "lpips": "AlexNet, linear weights 0.1" if not why_no_lpips else "not measured",
    }


def _about_sampling(artifact: Artifact, options: InpaintingOptions) -> dict[str, Any]:
    """Return how the model was sampled; empty for a method without training."""
    sampling = getattr(artifact.config, "sampling", None)
    asked = options.model_dump(include={"steps", "solver", "start"}, exclude_none=True)
    return {**sampling.model_dump(mode="json"), **asked} if sampling else {}


def _about_masks(artifact: Artifact, bank: Cohort | None) -> str:
    """Return which masks were used, and whether training has used them, too."""
    if bank is None:
        return "none"
    patients = sorted({patient_of(scan) for scan in bank.scans if "lesion-mask" in scan.maps})
    known = "masks_laid" in artifact.manifest
    laid = len(bank.scans) - len(unlaid(artifact, bank).scans)
    training = (
        (f"{laid} laid in training, too" if laid else "none laid in training") if known else "training's not recorded"
    )
    return f"{bank.root.name} ({len(patients)} patients: {training})"


def _picture(case: Case, fills: Mapping[str, Fill]) -> tuple[bytes, str]:
    """Draw truth, hole and every fill on the slice with the largest hole; returns a PNG and its caption."""
    from zoo.report.figures import sheet, upright

    index = int(case.mask.sum(axis=(0, 1)).argmax())
    volumes = {
        "truth": case.truth[0],
        "hole": np.where(case.mask, -1, case.image[0]),
        **{name: np.where(case.mask, fill.mean, case.image)[0] for name, fill in fills.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        planes = upright(np.stack([volume[..., index] for volume in volumes.values()]))
        sheet(planes, path, titles=list(volumes), columns=len(volumes))
        return path.read_bytes(), f"{case.condition}: {', '.join(volumes)}"
