"""The phantom: synthetic brains whose tissues, lesions, age and atrophy are known.

Each is a deformed MNI152 brain (the templates that nilearn carries) with simulated contrasts. The images show
only the brain, as after skull stripping: the templates have no skull.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from zoo.errors import DataError
from zoo.imaging.synthetic import describe, new_cohort, smooth_field, write_image, write_json

SPACINGS_MM = (1.0, 2.0, 4.0)
GROUPS = ("MS", "HC")
LABELS = {1: "CSF", 2: "cortical grey matter", 3: "white matter", 4: "deep grey matter"}
CSF, CORTEX, WHITE, DEEP = LABELS
VERSION = 2
"""Version of the images of a seed; a cached cohort of another version is not used."""

DEFAULT_SUBJECTS = 12

_MEANS = {
    "T1w": {CSF: 150.0, CORTEX: 520.0, WHITE: 800.0, DEEP: 640.0},
    "T2w": {CSF: 900.0, CORTEX: 560.0, WHITE: 400.0, DEEP: 460.0},
    "FLAIR": {CSF: 110.0, CORTEX: 560.0, WHITE: 430.0, DEEP: 500.0},
}
"""Mean intensity of each tissue, scanner units."""

_LESION_MEANS = {"T1w": (660.0, 420.0), "T2w": (660.0, 900.0), "FLAIR": (700.0, 900.0)}
"""Intensity of a mild and of a severe lesion; severity is the same in all three contrasts."""

_DETAIL = {"T1w": 0.8, "T2w": -0.5, "FLAIR": -0.2}
"""Share of the template's own detail (what tissue means do not explain) in each contrast."""

_NUCLEI = (
    ((12, 14, 4), (8, 12, 12)),  # head of the caudate
    ((15, -4, 18), (7, 14, 8)),  # body of the caudate
    ((26, 3, 1), (8, 18, 12)),  # putamen
    ((19, -4, 0), (7, 10, 8)),  # pallidum
    ((12, -19, 7), (13, 15, 11)),  # thalamus
)
"""Ellipsoids that hold the deep nuclei of both sides: centre (|x|, y, z) and half axes, mm in MNI space."""

_BRAIN_STEM = ((0, -28, -28), (15, 16, 26))

_COARSE_MM = 4.0
_SHRINKING = 0.86  # of atrophy; wider ventricles and thinner cortex cause the rest
_NOISE = 14.0
_BIAS = 0.10


@dataclass(frozen=True)
class PhantomSubject:
    """A synthetic subject; arrays are ``[i, j, k]`` in RAS.

    Attributes:
        images: Scanner-like units by contrast, int16.
        tissue: uint8 labels (`LABELS`); lesions count as white matter.
        lesion_mask: bool; empty for healthy subjects.
        lesion_free: The T1w without lesions, int16; identical to the T1w outside the mask.
        affine: Voxel to world, mm.
        age: Years.
        group: ``"MS"`` or ``"HC"``.
        atrophy: Share of grey and white matter lost to the disease, in [0, 1); fluid takes its place.
        smallest_jacobian: Of the deformation; above 0, which means that anatomy is not folded.
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
    cavity: np.ndarray
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
    i, j, k = np.meshgrid(*(np.arange(size) for size in brain.shape), indexing="ij")
    x, y, z = np.moveaxis(apply_affine(images[0].affine, np.stack([i, j, k], -1)), -1, 0)

    def ellipsoid(centre: tuple[int, int, int], axes: tuple[int, int, int]) -> np.ndarray:
        parts = zip((np.abs(x), y, z), centre, axes, strict=True)
        return sum(((place - middle) / axis) ** 2 for place, middle, axis in parts) < 1

    deep = np.logical_or.reduce([ellipsoid(*nucleus) for nucleus in _NUCLEI])
    # The templates are undecided in the brain stem, which is tracts for the most part.
    stem = ellipsoid(*_BRAIN_STEM)
    grey, white = np.where(stem, 0, grey), np.where(stem, grey + white, white)
    # Of the fluid in the middle of the brain the largest piece is the lateral and third ventricles.
    depth = ndimage.distance_transform_edt(brain) * spacing_mm
    middle = (np.abs(x) < 40) & (y > -60) & (y < 33) & (z > -5) & (z < 35) & (depth > 18)
    pieces, _ = ndimage.label((grey + white < 0.5) & middle)
    ventricles = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    distance = ndimage.distance_transform_edt(~ventricles) - ndimage.distance_transform_edt(ventricles)
    return _Template(t1w, grey, white, _cavity(brain, spacing_mm), deep, distance * spacing_mm, images[0].affine)


def _cavity(brain: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Return the brain with the cisterns between its parts, float32: gaps of 16 mm and what axial slices enclose."""
    reach = round(8 / spacing_mm)
    near = ndimage.distance_transform_edt(~np.pad(brain, reach)) <= reach
    closed = ndimage.distance_transform_edt(near)[(slice(reach, -reach),) * 3] > reach
    slices = np.moveaxis(closed | brain, 2, 0)
    return np.stack([ndimage.binary_fill_holes(part) for part in slices], 2).astype(np.float32)


def make_subject(
    index: int, seed: int = 0, spacing_mm: float = 2.0, group: str | None = None, age: float | None = None
) -> PhantomSubject:
    """Make one subject; the same numbers give the same subject in a cohort of any size.

    Args:
        index: Number of the subject, from 0.
        seed: Of the cohort.
        spacing_mm: 1, 2 or 4.
        group: ``"MS"`` or ``"HC"``; alternates by index if not given.
        age: Years, 20 to 75; drawn at random if not given.

    Raises:
        DataError: A value out of range.
    """
    _check_spacing(spacing_mm)
    if index < 0 or seed < 0:
        raise DataError(f"A phantom's index and seed are 0 or more, got {index} and {seed}.")
    # Each trait has its own random generator: another age or group keeps the anatomy and the noise.
    anatomy, traits, lesions, scanner = (np.random.default_rng([seed, index, purpose]) for purpose in range(4))
    drawn_age, drawn_atrophy = traits.uniform(20, 75), traits.uniform(0.02, 0.10)
    age = drawn_age if age is None else age
    group = GROUPS[index % 2] if group is None else group
    if group not in GROUPS or not 20 <= age <= 75:
        raise DataError(f"A phantom's group is one of {', '.join(GROUPS)} and its age 20 to 75, got {group} and {age}.")
    atrophy = drawn_atrophy if group == "MS" else 0.0

    # The deformed anatomy.
    template = _template(spacing_mm)
    places, cavity_places, smallest_jacobian = _deformation(template, anatomy, age, atrophy, spacing_mm)
    t1w, grey, white, deep = (
        ndimage.map_coordinates(volume.astype(np.float32), places, order=1)
        for volume in (template.t1w, template.grey, template.white, template.deep)
    )
    ventricle_mm = ndimage.map_coordinates(template.ventricle_distance_mm, places, order=1, mode="nearest")
    inside = ndimage.map_coordinates(template.cavity, cavity_places, order=1) > 0.5
    shares = _tissue_shares(grey, white, deep > 0.5, (age - 20) / 55 + 2 * atrophy)
    tissue = np.where(inside, 1 + np.argmax(shares, axis=0), 0).astype(np.uint8)
    lesion_mask = np.zeros(inside.shape, bool)
    severity = np.zeros(inside.shape, np.float32)
    if group == "MS":
        eligible = (tissue == WHITE) & (shares[WHITE - 1] > 0.6)
        lesion_mask, severity = _lesions(lesions, eligible, tissue == WHITE, ventricle_mm, spacing_mm)

    # The simulated images.
    images: dict[str, np.ndarray] = {}
    lesion_free = np.zeros(inside.shape, np.int16)
    weight = _lesion_weight(lesion_mask, spacing_mm)
    detail = _detail(t1w, shares, inside)
    texture = 8 * smooth_field(scanner, inside.shape, 2.0 / spacing_mm)
    for contrast, means in _MEANS.items():
        healthy = sum(share * mean for share, mean in zip(shares, means.values(), strict=True))
        healthy = healthy + _DETAIL[contrast] * detail + texture
        mild, severe = _LESION_MEANS[contrast]
        sick = healthy + weight * (mild + (severe - mild) * severity + texture - healthy)
        scan = _Scan(scanner, inside, spacing_mm)
        images[contrast] = scan.take(sick)
        if contrast == "T1w":
            lesion_free = np.where(lesion_mask, scan.take(healthy), images[contrast])
    return PhantomSubject(
        images, tissue, lesion_mask, lesion_free, template.affine, float(age), group, float(atrophy), smallest_jacobian
    )


def _deformation(
    template: _Template, rng: np.random.Generator, age: float, atrophy: float, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the places in the template of the tissue and of the skull's cavity, and the smallest Jacobian.

    The places are voxels of the template, ``[3, i, j, k]``. The deformation integrates a smooth velocity field by
    scaling and squaring, which makes it invertible without folds; it is computed at one spacing for all.

    Source: Arsigny et al. 2006, "A Log-Euclidean framework for statistics on diffeomorphisms", section 3.
    """
    coarse = _template(_COARSE_MM)
    shape = coarse.cavity.shape
    velocity = np.stack([2.4 * smooth_field(rng, shape, 5.0) + 1.4 * smooth_field(rng, shape, 2.5) for _ in range(3)])
    # Sampling nearer to the middle of the ventricles widens them.
    widening = 0.2 + 2.4 * (age - 20) / 55 + 12 * atrophy
    distance = ndimage.gaussian_filter(coarse.ventricle_distance_mm, 1.0)
    reach = np.exp(-np.abs(distance) / 14)
    velocity -= widening * reach * np.stack(np.gradient(distance, _COARSE_MM))
    # A smaller brain is one sampled from farther out.
    growth = (1 - _SHRINKING * atrophy) ** (-1 / 3)
    centre = np.argwhere(coarse.cavity > 0.5).mean(axis=0)
    identity = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float64) for size in shape), indexing="ij"))
    velocity += np.log(growth) * (identity - centre[:, None, None, None]) * _COARSE_MM

    displacement = velocity / _COARSE_MM / 2**6
    for _ in range(6):
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(part, identity + displacement, order=1, mode="nearest") for part in displacement]
        )
    gradients = np.stack([np.stack(np.gradient(part)) for part in identity + displacement])
    jacobian = np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1)))

    to_coarse = np.linalg.inv(coarse.affine) @ template.affine
    fine_shape = template.cavity.shape
    displaced_mm = [
        ndimage.affine_transform(
            part * _COARSE_MM, to_coarse[:3, :3], to_coarse[:3, 3], fine_shape, order=1, mode="nearest"
        )
        for part in displacement
    ]
    places = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in fine_shape), indexing="ij"))
    places += np.stack(displaced_mm) / spacing_mm
    # The brain shrinks, the skull does not.
    fixed = apply_affine(np.linalg.inv(to_coarse), centre)[:, None, None, None]
    return places, fixed + (places - fixed) / growth, float(jacobian[coarse.cavity > 0.5].min())


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
    """Return the detail of the template's T1w beyond its tissue means, in units of our T1w."""
    seen = inside & (t1w > 0.05)  # the template is empty in the outer fluid
    columns = shares[:, seen].T
    means, *_ = np.linalg.lstsq(columns, t1w[seen], rcond=None)
    scale = (_MEANS["T1w"][WHITE] - _MEANS["T1w"][CSF]) / max(float(means[WHITE - 1] - means[CSF - 1]), 1e-3)
    detail = np.zeros(inside.shape, np.float32)
    detail[seen] = np.clip(scale * (t1w[seen] - columns @ means), -150, 150)
    return detail


def _lesions(
    rng: np.random.Generator, eligible: np.ndarray, white: np.ndarray, ventricle_mm: np.ndarray, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lesions, bool, and their severity in [0, 1], float32; both ``[i, j, k]``.

    5 to 60 lesions start in ``eligible`` voxels, most of them at the ventricles, where they run together. Volumes are
    log-normal (median 100 mm³, twice that at the ventricles) before the borders of white matter cut them.
    """
    count = int(np.clip(np.exp(rng.normal(np.log(25), 0.6)), 5, 60))
    volumes = np.clip(np.exp(rng.normal(np.log(100), 1.2, count)), 10, 4000)
    severities = rng.uniform(0, 1, count)
    candidates = np.argwhere(eligible)
    near = np.exp(-np.maximum(ventricle_mm[eligible], 0) / 3)
    chance = 0.65 * near / near.sum() + 0.35 / len(near)
    chosen = rng.choice(len(candidates), count, replace=False, p=chance)
    seeds, volumes = candidates[chosen], volumes * np.where(ventricle_mm[eligible][chosen] < 5, 2, 1)

    mask = np.zeros(white.shape, bool)
    severity = np.zeros(white.shape, np.float32)
    for seed, volume, severe in zip(seeds, volumes, severities, strict=True):
        reach = int(np.ceil(3 * (3 * volume / (4 * np.pi)) ** (1 / 3) / spacing_mm)) + 1
        box = tuple(
            slice(max(c - reach, 0), min(c + reach + 1, size)) for c, size in zip(seed, white.shape, strict=True)
        )
        offset = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij"), -1) - seed
        # An ellipsoid with random axes and an uneven edge, cut at the border of white matter.
        axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        radius = np.linalg.norm((offset @ axes) / np.exp(rng.normal(0, 0.25, 3)), axis=-1)
        uneven = radius * np.exp(0.25 * smooth_field(rng, radius.shape, 2.0 / spacing_mm))
        farthest = np.sort(uneven, axis=None)[max(round(volume / spacing_mm**3), 1) - 1]
        pieces, _ = ndimage.label((uneven <= farthest) & white[box])
        lesion = pieces == pieces[tuple(np.minimum(seed, reach))]
        mask[box] |= lesion
        severity[box][lesion] = severe
    patchy = severity + 0.15 * smooth_field(rng, mask.shape, 2.0 / spacing_mm)
    return mask, np.clip(patchy, 0, 1)


def _lesion_weight(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Return how much of each voxel is lesion: all of the core, part of the rim, none outside."""
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), 1.0 / spacing_mm)
    return np.where(mask, np.clip(0.3 + 0.9 * blurred, 0, 1), 0)


class _Scan:
    """One acquisition: a bias field and noise that do not depend on the anatomy."""

    def __init__(self, rng: np.random.Generator, inside: np.ndarray, spacing_mm: float) -> None:
        self.inside = inside
        coarse = smooth_field(rng, (9, 9, 9), 1.6)
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
        folder: Destination; complete, or not created.
        subjects: Number of subjects.
        seed: Another seed gives other subjects.
        spacing_mm: 1, 2 or 4.
        progress: Called with (subjects done, subjects in all).

    Returns:
        ``folder``.

    Raises:
        DataError: A value is out of range, or the folder exists.
    """
    _check_spacing(spacing_mm)
    if subjects < 1:
        raise DataError(f"A phantom cohort has at least one subject, got {subjects}.")
    with new_cohort(folder) as temporary:
        about = {"seed": seed, "spacing_mm": spacing_mm, "subjects": subjects}
        describe(temporary, "mri-zoo phantom", "raw", "mri-zoo phantom", about)
        for name in ("tissue", "lesions", "truth"):
            part = temporary / "derivatives" / name
            describe(part, f"mri-zoo phantom: {name}", "derivative", "mri-zoo phantom", about)
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
        write_json(temporary / "participants.json", columns)
    return folder


def open_phantom(
    folder: Path,
    spacing_mm: float,
    progress: Callable[[int, int], None] | None = None,
    *,
    subjects: int | None = None,
    seed: int = 0,
) -> Path:
    """Make the cohort as a dataset; for commands without ``--data`` twelve subjects."""
    return write_phantom(folder, subjects or DEFAULT_SUBJECTS, seed, spacing_mm, progress)


def _check_spacing(spacing_mm: float) -> None:
    if spacing_mm not in SPACINGS_MM:
        raise DataError(f"The phantom's spacing is 1, 2 or 4 mm, got {spacing_mm:g}.")


def _write_subject(root: Path, name: str, subject: PhantomSubject) -> None:
    for contrast, image in subject.images.items():
        stem = root / name / "anat" / f"{name}_{contrast}"
        write_image(stem.with_name(f"{stem.name}.nii.gz"), image, subject.affine)
        write_json(stem.with_name(f"{stem.name}.json"), {"Synthetic": True, "SkullStripped": True})
    derivatives = root / "derivatives"
    write_image(derivatives / "tissue" / name / "anat" / f"{name}_dseg.nii.gz", subject.tissue, subject.affine)
    if subject.lesion_mask.any():
        mask = derivatives / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
        write_image(mask, subject.lesion_mask.astype(np.uint8), subject.affine)
        twin = derivatives / "truth" / name / "anat" / f"{name}_desc-lesionfree_T1w.nii.gz"
        write_image(twin, subject.lesion_free, subject.affine)
        write_json(twin.with_name(twin.name.replace(".nii.gz", ".json")), {"Synthetic": True, "SkullStripped": True})
