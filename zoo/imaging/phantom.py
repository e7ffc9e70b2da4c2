"""The phantom: synthetic brains whose tissues, lesions, age and atrophy are known.

Each is a deformed MNI152 brain (the templates that nilearn carries) with simulated contrasts. The images are of the
brain alone, as after skull stripping: the templates have no skull.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from zoo.errors import DataError
from zoo.files import replacing

SPACINGS_MM = (1.0, 2.0, 4.0)
GROUPS = ("MS", "HC")
LABELS = {1: "CSF", 2: "cortical grey matter", 3: "white matter", 4: "deep grey matter"}
CSF, CORTEX, WHITE, DEEP = LABELS
DEFAULT_SUBJECTS = 12

_MEANS = {
    "T1w": {CSF: 150.0, CORTEX: 520.0, WHITE: 800.0, DEEP: 640.0},
    "T2w": {CSF: 900.0, CORTEX: 560.0, WHITE: 400.0, DEEP: 460.0},
    "FLAIR": {CSF: 110.0, CORTEX: 560.0, WHITE: 430.0, DEEP: 500.0},
}
"""Mean intensity of each tissue, scanner units."""

_LESION_MEANS = {"T1w": (430.0, 640.0), "T2w": (680.0, 900.0), "FLAIR": (720.0, 900.0)}
"""Range of a lesion's mean intensity; a lesion takes one place in all three ranges, from mild to severe."""

_DETAIL = {"T1w": 0.8, "T2w": -0.5, "FLAIR": -0.2}
"""Share of the template's own detail (what tissue means do not explain) in each contrast."""

_COARSE_MM = 4.0
_NOISE = 14.0
_BIAS = 0.10


@dataclass(frozen=True)
class PhantomSubject:
    """A synthetic subject; arrays are ``[i, j, k]`` in RAS.

    Attributes:
        images: Scanner-like units by contrast, int16.
        tissue: uint8 labels (`LABELS`); lesions count as white matter, which they were.
        lesion_mask: bool; empty for healthy subjects.
        lesion_free: The T1w without lesions, int16; outside the mask bit for bit the T1w.
        affine: Voxel to world, mm.
        age: Years.
        group: ``"MS"`` or ``"HC"``.
        atrophy: Share of brain volume lost, in [0, 1).
        smallest_jacobian: Of the deformation; above 0, so that anatomy is never folded.
    """

    images: Mapping[str, np.ndarray]
    tissue: np.ndarray
    lesion_mask: np.ndarray
    lesion_free: np.ndarray
    affine: np.ndarray
    age: float
    group: str
    atrophy: float
    smallest_jacobian: float


@dataclass(frozen=True)
class _Template:
    t1w: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    brain: np.ndarray
    deep: np.ndarray
    ventricle_distance_mm: np.ndarray
    affine: np.ndarray


@functools.lru_cache(maxsize=2)
def _template(spacing_mm: float) -> _Template:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    images = [
        nibabel.as_closest_canonical(load(resolution=int(spacing_mm)))
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    ]
    t1w, grey, white = (np.asarray(image.dataobj, np.float32) for image in images)
    t1w, grey, white = t1w / t1w.max(), grey / grey.max(), white / white.max()
    brain = ndimage.binary_fill_holes((t1w > 0.05) | (grey + white > 0.2))
    depth = ndimage.distance_transform_edt(brain) * spacing_mm
    # World coordinates bound the deep nuclei and the ventricles; both lie well below the brain's surface.
    i, j, k = np.meshgrid(*(np.arange(size) for size in brain.shape), indexing="ij")
    x, y, z = np.moveaxis(apply_affine(images[0].affine, np.stack([i, j, k], -1)), -1, 0)
    central = (np.abs(x) < 40) & (y > -38) & (y < 25) & (z > -16) & (z < 20) & (depth > 18)
    fluid = (1 - grey - white > 0.5) & (np.abs(x) < 40) & (y > -60) & (y < 45) & (z > -15) & (z < 35) & (depth > 18)
    distance = ndimage.distance_transform_edt(~fluid) * spacing_mm
    return _Template(t1w, grey, white, brain.astype(np.float32), central & (grey > 0.3), distance, images[0].affine)


def make_subject(
    index: int, seed: int = 0, spacing_mm: float = 2.0, group: str | None = None, age: float | None = None
) -> PhantomSubject:
    """Make one subject; the same numbers give the same subject, however many others there are.

    Args:
        index: Number of the subject, from 0.
        seed: Of the cohort.
        spacing_mm: 1, 2 or 4.
        group: ``"MS"`` or ``"HC"``; by turns when not given.
        age: Years, 20 to 75; drawn when not given.

    Raises:
        DataError: A value out of range.
    """
    _check(1, spacing_mm)
    # Each trait has a generator of its own: another age or group keeps the anatomy and the noise.
    anatomy, traits, lesions, scanner = (np.random.default_rng([seed, index, purpose]) for purpose in range(4))
    drawn_age, drawn_atrophy = traits.uniform(20, 75), traits.uniform(0.02, 0.10)
    age = drawn_age if age is None else age
    group = GROUPS[index % 2] if group is None else group
    if group not in GROUPS or not 20 <= age <= 75:
        raise DataError(f"A phantom's group is one of {', '.join(GROUPS)} and its age 20 to 75, got {group} and {age}.")
    atrophy = drawn_atrophy if group == "MS" else 0.0

    template = _template(spacing_mm)
    places, smallest_jacobian = _deformation(template, anatomy, age, atrophy, spacing_mm)
    t1w, grey, white, brain = (
        ndimage.map_coordinates(volume, places, order=1)
        for volume in (template.t1w, template.grey, template.white, template.brain)
    )
    deep = ndimage.map_coordinates(template.deep.astype(np.float32), places, order=1) > 0.5
    distance = ndimage.map_coordinates(template.ventricle_distance_mm, places, order=1, mode="nearest")
    inside = brain > 0.5
    shares = _tissue_shares(grey, white, deep, (age - 20) / 55 + 4 * atrophy)
    tissue = np.where(inside, 1 + np.argmax(shares, axis=0), 0).astype(np.uint8)

    labels = np.zeros(inside.shape, np.int32)
    if group == "MS":
        labels = _lesions(lesions, tissue == WHITE, shares[WHITE - 1], distance, spacing_mm)
    images: dict[str, np.ndarray] = {}
    lesion_free = np.zeros(inside.shape, np.int16)
    severity = lesions.uniform(0, 1, labels.max() + 1)
    detail = _detail(t1w, shares, inside)
    texture = _smooth_field(scanner, inside.shape, 2.0 / spacing_mm)
    for contrast, means in _MEANS.items():
        healthy = sum(share * mean for share, mean in zip(shares, means.values(), strict=True))
        healthy = healthy + _DETAIL[contrast] * detail + 8 * texture
        low, high = _LESION_MEANS[contrast]
        wanted = (high + (low - high) * severity if contrast == "T1w" else low + (high - low) * severity)[labels]
        sick = healthy + _lesion_weight(labels) * (wanted + 8 * texture - healthy)
        scan = _Scan(scanner, inside, spacing_mm)
        images[contrast] = scan.take(sick)
        if contrast == "T1w":
            lesion_free = np.where(labels > 0, scan.take(healthy), images[contrast])
    return PhantomSubject(
        images, tissue, labels > 0, lesion_free, template.affine, float(age), group, float(atrophy), smallest_jacobian
    )


def _deformation(
    template: _Template, rng: np.random.Generator, age: float, atrophy: float, spacing_mm: float
) -> tuple[np.ndarray, float]:
    """Return where in the template each voxel comes from, ``[3, i, j, k]``, and the smallest Jacobian.

    A smooth velocity field, integrated by scaling and squaring, so that it can be undone and never folds.
    """
    coarse = _template(_COARSE_MM)
    shape = coarse.brain.shape
    velocity = np.stack([2.4 * _smooth_field(rng, shape, 5.0) + 1.4 * _smooth_field(rng, shape, 2.5) for _ in range(3)])
    # Sampling nearer to the ventricles widens them.
    widening = 0.3 + 2.2 * (age - 20) / 55 + 25 * atrophy
    distance = ndimage.gaussian_filter(coarse.ventricle_distance_mm, 1.0)
    reach = np.exp(-distance / 14)
    velocity -= widening * reach * np.stack(np.gradient(distance, _COARSE_MM))
    # A smaller brain is one sampled from farther out.
    centre = np.argwhere(coarse.brain > 0.5).mean(axis=0)[:, None, None, None]
    identity = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float64) for size in shape), indexing="ij"))
    velocity += -np.log(1 - atrophy) / 3 * (identity - centre) * _COARSE_MM

    displacement = velocity / _COARSE_MM / 2**6
    for _ in range(6):
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(part, identity + displacement, order=1, mode="nearest") for part in displacement]
        )
    gradients = np.stack([np.stack(np.gradient(part)) for part in identity + displacement])
    jacobian = np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1)))

    to_coarse = np.linalg.inv(coarse.affine) @ template.affine
    fine_shape = template.brain.shape
    displaced_mm = [
        ndimage.affine_transform(
            part * _COARSE_MM, to_coarse[:3, :3], to_coarse[:3, 3], fine_shape, order=1, mode="nearest"
        )
        for part in displacement
    ]
    places = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in fine_shape), indexing="ij"))
    return places + np.stack(displaced_mm) / spacing_mm, float(jacobian[coarse.brain > 0.5].min())


def _tissue_shares(grey: np.ndarray, white: np.ndarray, deep: np.ndarray, thinning: float) -> np.ndarray:
    """Return the share of CSF, cortex, white and deep grey matter in each voxel, ``[4, i, j, k]``, summing to 1."""
    fluid = np.clip(1 - grey - white, 0, 1)
    # The average brain is blurred; squaring brings back the borders of one brain.
    squared = np.stack([fluid, grey, white]) ** 2
    fluid, grey, white = squared / np.maximum(squared.sum(axis=0), 1e-6)
    # Cortex thins where it meets CSF.
    lost = np.where(deep, 0, np.clip(0.45 * thinning * 4 * grey * fluid, 0, grey))
    fluid, grey = fluid + lost, grey - lost
    nothing = np.zeros_like(grey)
    return np.stack([fluid, np.where(deep, nothing, grey), white, np.where(deep, grey, nothing)])


def _detail(t1w: np.ndarray, shares: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return what the template's T1w shows beyond its tissue means, in units of our T1w."""
    columns = shares[:, inside].T
    means, *_ = np.linalg.lstsq(columns, t1w[inside], rcond=None)
    scale = (_MEANS["T1w"][WHITE] - _MEANS["T1w"][CSF]) / max(float(means[WHITE - 1] - means[CSF - 1]), 1e-3)
    detail = np.zeros(inside.shape, np.float32)
    detail[inside] = np.clip(scale * (t1w[inside] - columns @ means), -150, 150)
    return detail


def _lesions(
    rng: np.random.Generator, white: np.ndarray, share: np.ndarray, ventricle_mm: np.ndarray, spacing_mm: float
) -> np.ndarray:
    """Return the number of the lesion in each voxel, 0 where there is none, int32 ``[i, j, k]``.

    Sizes are log-normal (median 100 mm³); most lesions lie near the ventricles, where they run together.
    """
    labels = np.zeros(white.shape, np.int32)
    eligible = np.argwhere(white & (share > 0.6) & (ventricle_mm > 0.5 * spacing_mm))
    near = ventricle_mm[tuple(eligible.T)]
    chance = np.exp(-near / 6) + 0.04
    count = int(np.clip(np.exp(rng.normal(np.log(30), 0.6)), 8, 80))
    seeds = eligible[rng.choice(len(eligible), count, replace=False, p=chance / chance.sum())]
    volumes = np.clip(np.exp(rng.normal(np.log(100), 1.2, count)), 10, 6000)
    for number, (seed, volume) in enumerate(zip(seeds, volumes, strict=True), start=1):
        voxels = max(round(volume / spacing_mm**3), 1)
        reach = int(np.ceil(1.8 * (3 * volume / (4 * np.pi)) ** (1 / 3) / spacing_mm)) + 1
        box = tuple(
            slice(max(c - reach, 0), min(c + reach + 1, size)) for c, size in zip(seed, white.shape, strict=True)
        )
        offset = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij"), -1) - seed
        # An ellipsoid with axes of its own and an uneven edge; the nearest voxels of white matter are the lesion.
        axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        radius = np.linalg.norm((offset @ axes) / np.exp(rng.normal(0, 0.25, 3)), axis=-1)
        uneven = radius * (1 + 0.3 * _smooth_field(rng, radius.shape, 2.5 / spacing_mm))
        uneven[~white[box]] = np.inf
        uneven[tuple(np.minimum(seed, reach))] = -1
        nearest = np.sort(uneven, axis=None)[min(voxels, int(np.isfinite(uneven).sum())) - 1]
        pieces, _ = ndimage.label(uneven <= nearest)
        labels[box][pieces == pieces[tuple(np.minimum(seed, reach))]] = number
    return labels


def _lesion_weight(labels: np.ndarray) -> np.ndarray:
    """Return how much of each voxel is lesion: all of the core, part of the rim, none outside."""
    mask = labels > 0
    blurred = ndimage.uniform_filter(mask.astype(np.float32), 3)
    return np.where(mask, np.clip(0.45 + 0.7 * blurred, 0, 1), 0)


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Return smooth noise of mean 0 and standard deviation 1; ``sigma`` in voxels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="wrap")
    return field / max(float(field.std()), 1e-6)


class _Scan:
    """One acquisition: a bias field and noise that do not depend on what is scanned."""

    def __init__(self, rng: np.random.Generator, inside: np.ndarray, spacing_mm: float) -> None:
        self.inside = inside
        coarse = _smooth_field(rng, (9, 9, 9), 1.6)
        zoom = np.array(inside.shape) / 9
        self.bias = np.exp(_BIAS * ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest"))
        self.noise = rng.normal(0, _NOISE, (2, *inside.shape)).astype(np.float32)

    def take(self, signal: np.ndarray) -> np.ndarray:
        """Return the image as int16: the signal with bias and Rician noise, nothing outside the brain."""
        measured = np.hypot(np.maximum(signal, 0) * self.bias + self.noise[0], self.noise[1])
        return np.where(self.inside, np.clip(np.rint(measured), 1, 32767), 0).astype(np.int16)


def write_phantom(
    folder: Path,
    subjects: int = 8,
    seed: int = 0,
    spacing_mm: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort as a BIDS folder with its truth in derivatives; every second subject has MS.

    Args:
        folder: Where; made whole or not at all.
        subjects: How many.
        seed: Another seed, other subjects.
        spacing_mm: 1, 2 or 4.
        progress: Called with (subjects done, subjects in all).

    Returns:
        ``folder``.

    Raises:
        DataError: A value out of range, or the folder holds something already.
    """
    _check(subjects, spacing_mm)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; name another folder, or remove it first.")
    with replacing(folder) as temporary:
        temporary.mkdir()
        about = {"seed": seed, "spacing_mm": spacing_mm, "subjects": subjects}
        _describe(temporary, "mri-zoo phantom", "raw", about)
        for name in ("tissue", "lesions", "truth"):
            _describe(temporary / "derivatives" / name, f"mri-zoo phantom: {name}", "derivative", about)
        table = "\n".join(f"{label}\t{name}" for label, name in LABELS.items())
        (temporary / "derivatives/tissue/dseg.tsv").write_text(f"index\tname\n{table}\n", encoding="utf-8")
        rows = ["participant_id\tage\tgroup\tatrophy\tlesion_volume_mm3"]
        for index in range(subjects):
            subject = make_subject(index, seed, spacing_mm)
            name = f"sub-{index + 1:03d}"
            _write_subject(temporary, name, subject)
            volume = subject.lesion_mask.sum() * spacing_mm**3
            rows.append(f"{name}\t{subject.age:.1f}\t{subject.group}\t{subject.atrophy:.4f}\t{volume:.0f}")
            if progress:
                progress(index + 1, subjects)
        (temporary / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        columns = {
            "age": {"Description": "Age", "Units": "year"},
            "group": {"Description": "Diagnosis", "Levels": {"MS": "multiple sclerosis", "HC": "healthy"}},
            "atrophy": {"Description": "Share of brain volume lost to the disease"},
            "lesion_volume_mm3": {"Description": "Volume of all lesions", "Units": "mm3"},
        }
        _write_json(temporary / "participants.json", columns)
    return folder


def open_phantom(folder: Path, spacing_mm: float, progress: Callable[[int, int], None] | None = None) -> Path:
    """Make the cohort that is used when no data is named: twelve subjects, seed 0."""
    return write_phantom(folder, DEFAULT_SUBJECTS, 0, spacing_mm, progress)


def _check(subjects: int, spacing_mm: float) -> None:
    if subjects < 1:
        raise DataError(f"A phantom cohort has at least one subject, got {subjects}.")
    if spacing_mm not in SPACINGS_MM:
        raise DataError(f"The phantom's spacing is 1, 2 or 4 mm, got {spacing_mm:g}.")


def _describe(folder: Path, name: str, kind: str, about: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = {"Name": "mri-zoo phantom", "Parameters": dict(about)}
    _write_json(
        folder / "dataset_description.json",
        {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind, "GeneratedBy": [made], "Synthetic": True},
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_subject(root: Path, name: str, subject: PhantomSubject) -> None:
    for contrast, image in subject.images.items():
        stem = root / name / "anat" / f"{name}_{contrast}"
        _write_image(stem.with_name(f"{stem.name}.nii.gz"), image, subject.affine)
        _write_json(stem.with_name(f"{stem.name}.json"), {"Synthetic": True, "SkullStripped": True})
    derivatives = root / "derivatives"
    _write_image(derivatives / "tissue" / name / "anat" / f"{name}_dseg.nii.gz", subject.tissue, subject.affine)
    if subject.lesion_mask.any():
        mask = derivatives / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
        _write_image(mask, subject.lesion_mask.astype(np.uint8), subject.affine)
        twin = derivatives / "truth" / name / "anat" / f"{name}_desc-lesionfree_T1w.nii.gz"
        _write_image(twin, subject.lesion_free, subject.affine)


def _write_image(path: Path, image: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI whose bytes depend on the image alone: no time stamp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nibabel.Nifti1Image(image, affine)
    content.header.set_xyzt_units("mm")
    with path.open("wb") as plain, gzip.GzipFile("", "wb", compresslevel=1, fileobj=plain, mtime=0) as packed:
        packed.write(content.to_bytes())
