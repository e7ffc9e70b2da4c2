"""The DCE phantom: breasts before and after contrast agent, with lesions whose kinetics are known.

A study has a T2w, a T1w before and four times after contrast agent, all in one axial grid. Anatomy is drawn in mm, so
that a seed gives the same breasts and lesions at every spacing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from zoo.errors import DataError
from zoo.imaging.synthetic import describe, new_cohort, smooth_field, write_image, write_json
from zoo.metrics.kinetics import curve_class, late_change
from zoo_multiparametric_gan.tofts import FLIP_ANGLE_DEG, REPETITION_TIME_S, Tissue, spoiled_gradient_echo

SPACINGS_MM = (1, 2, 4)
SLICE_MM = 4.0
FIELD_OF_VIEW_MM = (320, 160, 128)
"""Left-right, back-front, bottom-top."""

TIMES_S = (70.0, 140.0, 210.0, 280.0)
"""Seconds from the injection of contrast agent to each image after it."""

SERIES = ("T1w", *(f"ce-post{number}_T1w" for number in range(1, len(TIMES_S) + 1)))
"""The T1w before contrast agent and those after it, in order."""

CONTRASTS = ("T2w", *SERIES)
BENIGN, MALIGNANT = PATHOLOGIES = ("benign", "malignant")
DEFAULT_SUBJECTS = 24
MOST_LESIONS = 4

Place = tuple[float, float, float]
Box = tuple[slice, slice, slice]

_NAME = "mri-zoo dce-phantom"

_RANGES = {
    BENIGN: {"ktrans_per_min": (0.03, 0.075), "ve": (0.60, 0.80), "vp": (0.002, 0.006)},
    MALIGNANT: {"ktrans_per_min": (0.35, 0.90), "ve": (0.16, 0.24), "vp": (0.02, 0.05)},
    "gland": {"ktrans_per_min": (0.010, 0.035), "ve": (0.06, 0.10), "vp": (0.004, 0.008)},
}
"""Parameters are drawn from these ranges, on a logarithmic scale; each keeps its class of curve all over the range."""

_LESION_T1_S = 1.4
_CORE = Tissue(ktrans_per_min=0.04, ve=0.30, vp=0.004, t1_s=_LESION_T1_S)
"""Inner part of a lesion that enhances at its rim."""

_DIAMETER_MM = {BENIGN: (8.0, 24.0), MALIGNANT: (9.0, 30.0)}

_PROTON_DENSITY = {"skin": 0.60, "fat": 0.95, "gland": 0.85, "muscle": 0.75, "lung": 0.10, "blood": 0.90, "cyst": 1.0}
_T1_S = {"skin": 1.1, "fat": 0.37, "gland": 1.35, "muscle": 1.3, "lung": 1.2, "blood": 1.7, "cyst": 3.0}
_T2W = {"skin": 230.0, "fat": 560.0, "gland": 340.0, "muscle": 130.0, "lung": 30.0, "blood": 60.0, "cyst": 1050.0}
"""Signal in the T2w, scanner units; fat is not suppressed."""

_FIXED = {"skin": (0.02, 0.10, 0.01), "muscle": (0.02, 0.09, 0.008), "blood": (0.001, 0.01, 0.58)}
"""Ktrans (1/min), ve and vp of the tissues that are alike in all subjects; blood is all plasma and cells."""

_T1W_SCALE = 11500.0  # scanner units of a fully relaxed signal
_FAT_SHIFT_MM = {"T1w": 1.2, "T2w": 0.6}  # chemical shift of fat along left-right
_TEXTURE = 0.035
_BIAS = 0.12
_NOISE = 9.0
_SKIN_MM = 2.0
_GRAIN_MM = 4.0  # smooth fields are drawn on this grid


@dataclass(frozen=True)
class Lesion:
    """A lesion and its truth.

    Attributes:
        index: Of its voxels in `Study.lesion_labels`, from 1.
        pathology: ``"benign"`` or ``"malignant"``.
        diameter_mm: Of the sphere that the shape varies.
        centre_mm: Place in world coordinates.
        tissue: The enhancing part. Septa and cores enhance less.
        curve: Signal of that part before and after contrast agent, relative to before, ``[5]``.
    """

    index: int
    pathology: str
    diameter_mm: float
    centre_mm: Place
    tissue: Tissue
    curve: np.ndarray

    @property
    def late_change(self) -> float:
        """See `zoo.metrics.kinetics.late_change`."""
        return float(late_change(self.curve))

    @property
    def curve_class(self) -> str:
        """``"persistent"`` or ``"wash-out"``."""
        return str(curve_class(np.array(self.late_change)))


@dataclass(frozen=True)
class Study:
    """A synthetic DCE study; arrays are ``[i, j, k]`` in RAS.

    Attributes:
        images: Scanner-like units by contrast (`CONTRASTS`), int16.
        signal: The same without texture, bias field and noise, float32.
        lesion_labels: `Lesion.index` of each voxel, 0 outside, uint8.
        lesions: In the order of their indices; at least one.
        breast_mask: Both breasts between skin and chest muscle, lesions included, bool.
        affine: Voxel to world, mm.
        density: Share of gland in the breasts, in (0, 1).
    """

    images: Mapping[str, np.ndarray]
    signal: Mapping[str, np.ndarray]
    lesion_labels: np.ndarray
    lesions: tuple[Lesion, ...]
    breast_mask: np.ndarray
    affine: np.ndarray
    density: float


def make_study(index: int, seed: int = 0, spacing_mm: float = 2.0) -> Study:
    """Make the study of one subject; the same numbers give the same study in a cohort of any size.

    Args:
        index: Number of the subject, from 0. Even ones have a benign first lesion, odd ones a malignant one.
        seed: Of the cohort.
        spacing_mm: In the axial plane: 1, 2 or 4. Slices are 4 mm thick.

    Raises:
        DataError: A value out of range.
    """
    _check_spacing(spacing_mm)
    if index < 0 or seed < 0:
        raise DataError(f"A phantom's index and seed are 0 or more, got {index} and {seed}.")
    anatomy, findings, scanner = (np.random.default_rng([seed, index, purpose]) for purpose in range(3))
    grid = _Grid.of(spacing_mm)
    body = _body(grid, anatomy)
    gland = _drawn("gland", findings, _T1_S["gland"])
    shares = _tissues(grid, body, anatomy)
    signal = sum(share * _pure(name, gland)[:, None, None, None] for name, share in shares.items() if name != "fat")
    fat = shares["fat"]

    # Cysts and lesions take the place of what was there.
    places = _Places(grid, body, shares["gland"], findings)
    labels = np.zeros(grid.shape, np.uint8)
    lesions: list[Lesion] = []
    for _ in range(findings.integers(4)):
        diameter_mm = findings.uniform(4, 10)
        _paint(signal, fat, *_blob(grid, places.take(diameter_mm), diameter_mm, findings), _pure("cyst", gland))
    for number in range(1, 2 + findings.choice(MOST_LESIONS, p=(0.4, 0.3, 0.2, 0.1))):
        pathology = PATHOLOGIES[index % 2 if number == 1 else int(findings.random() < 0.58)]
        diameter_mm = float(np.exp(findings.uniform(*np.log(_DIAMETER_MM[pathology]))))
        centre_mm = places.take(diameter_mm)
        tissue = _drawn(pathology, findings, _LESION_T1_S)
        box, inside = (_blob if pathology == BENIGN else _spiculated)(grid, centre_mm, diameter_mm, findings)
        _paint(signal, fat, box, inside, _interior(grid, box, centre_mm, inside, pathology, tissue, findings))
        outline = inside > 0.5
        # A reader draws no slice that the lesion barely touches.
        areas = outline.sum(axis=(0, 1))
        labels[box][outline & (areas > areas.max() / 5)] = number
        curve = tissue.curve(TIMES_S)
        lesions.append(Lesion(number, pathology, diameter_mm, centre_mm, tissue, curve / curve[0]))

    # The scanner sees fat moved along left-right by its chemical shift.
    moved = {
        kind: ndimage.shift(fat, (shift_mm / spacing_mm, 0, 0), order=1, mode="nearest")
        for kind, shift_mm in _FAT_SHIFT_MM.items()
    }
    clean = {
        name: np.maximum(part + moved[name.split("_")[-1]] * pure, 0).astype(np.float32)
        for name, part, pure in zip(CONTRASTS, signal, _pure("fat", gland), strict=True)
    }
    breast = (body.breast & (body.depth_mm > _SKIN_MM)) | (labels > 0)
    return Study(
        _scanned(clean, grid, scanner), clean, labels, tuple(lesions), breast, grid.affine,
        float(shares["gland"][breast].mean()),
    )  # fmt: skip


# --- Anatomy. ---


@dataclass(frozen=True)
class _Grid:
    """Places of voxels, mm, as arrays that broadcast to ``shape``."""

    shape: tuple[int, int, int]
    spacing_mm: float
    affine: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def of(cls, spacing_mm: float) -> _Grid:
        steps = np.array([spacing_mm, spacing_mm, SLICE_MM])
        wide, deep, tall = (int(size / step) for size, step in zip(FIELD_OF_VIEW_MM, steps, strict=True))
        shape = (wide, deep, tall)
        # The middle is the sternum, y counts from the back of the field of view.
        first = steps / 2 - np.array([FIELD_OF_VIEW_MM[0] / 2, 0, FIELD_OF_VIEW_MM[2] / 2])
        affine = np.diag([*steps, 1.0])
        affine[:3, 3] = first
        x, y, z = (
            start + step * np.arange(size) for start, step, size in zip(first, steps, (wide, deep, tall), strict=True)
        )
        return cls(shape, spacing_mm, affine, x[:, None, None], y[None, :, None], z[None, None, :])

    def field(self, rng: np.random.Generator, sigma_mm: float) -> np.ndarray:
        """Return a smooth field of mean 0 and standard deviation 1, the same at every spacing."""
        coarse = smooth_field(rng, tuple(int(size / _GRAIN_MM) for size in FIELD_OF_VIEW_MM), sigma_mm / _GRAIN_MM)
        along_x, along_y = (_finer(size, _GRAIN_MM / self.spacing_mm) for size in coarse.shape[:2])
        return np.einsum("ia,abk,jb->ijk", along_x, coarse, along_y, optimize=True)

    def share(self, depth_mm: np.ndarray) -> np.ndarray:
        """Return how much of a voxel is inside a border that lies ``depth_mm`` away, positive inside."""
        return np.clip(depth_mm / self.spacing_mm + 0.5, 0, 1)

    def box(self, centre_mm: Place, reach_mm: float) -> Box:
        """Return the part of the grid within ``reach_mm`` of a place."""

        def part(places: np.ndarray, middle: float) -> slice:
            near = np.flatnonzero(np.abs(places.ravel() - middle) <= reach_mm)
            return slice(int(near[0]), int(near[-1]) + 1)

        return part(self.x, centre_mm[0]), part(self.y, centre_mm[1]), part(self.z, centre_mm[2])

    def offsets(self, box: Box, centre_mm: Place) -> np.ndarray:
        """Return the way from ``centre_mm`` to each voxel of a box, mm, ``[i, j, k, 3]``."""
        parts = (self.x[box[0]], self.y[:, box[1]], self.z[:, :, box[2]])
        away = [place - middle for place, middle in zip(parts, centre_mm, strict=True)]
        return np.stack(np.broadcast_arrays(*away), axis=-1)


@functools.lru_cache(maxsize=8)
def _finer(size: int, step: float) -> np.ndarray:
    """Return the matrix of cubic interpolation along one axis; two of them are faster than one in three dimensions."""
    return ndimage.zoom(np.eye(size, dtype=np.float32), (step, 1), order=3, mode="grid-wrap", grid_mode=True)


@dataclass(frozen=True)
class _Body:
    """Distances to borders, mm, and the breasts.

    Attributes:
        depth_mm: Below the surface of the skin; negative in the air.
        before_muscle_mm: In front of the chest muscle; negative behind it.
        muscle_mm: Thickness of the chest muscle, which broadcasts.
        breast: In front of the muscle and within the outline of a breast.
        nipples_mm: Left and right.
        half_widths_mm: Of each breast.
    """

    depth_mm: np.ndarray
    before_muscle_mm: np.ndarray
    muscle_mm: np.ndarray
    breast: np.ndarray
    nipples_mm: tuple[Place, ...]
    half_widths_mm: tuple[float, ...]


def _body(grid: _Grid, rng: np.random.Generator) -> _Body:
    """Draw the chest and two breasts that hang forward, as in a prone patient."""
    across, up = np.abs(grid.x), grid.z
    lean = rng.uniform(-0.06, 0.06)
    chest = 46 - 34 * (across / 160) ** 2.2 + lean * up
    muscle = 11 * _smooth_step((across - 18) / 8) * _smooth_step((125 - across) / 20) * (1 + up / 250) + 1
    before = grid.y - chest - muscle
    padding = rng.uniform(7, 13) * (0.6 + 0.4 * _smooth_step((across - 12) / 25))
    surface = chest + muscle + padding

    # Breasts are alike, not equal.
    half_width, half_height, length = rng.uniform(58, 70), rng.uniform(52, 62), rng.uniform(42, 78)
    roundness, apart, height = rng.uniform(0.5, 0.75), rng.uniform(74, 82), rng.uniform(-8, 4)
    warp_x, warp_z = (3.0 * grid.field(rng, 28.0)[:, :1] for _ in range(2))
    outline = np.zeros(surface.shape, bool)
    nipples, widths = [], []
    for side in (-1, 1):
        wide, tall, long = (size * rng.uniform(0.95, 1.05) for size in (half_width, half_height, length))
        middle = side * apart + rng.uniform(-3, 3), height + rng.uniform(-3, 3)
        nipple = middle[0] + side * rng.uniform(0, 6), middle[1] - rng.uniform(0, 8)
        # The apex lies where the nipple is.
        right, top = (grid.x + warp_x - middle[0]) / wide, (up + warp_z - middle[1]) / tall
        pull = np.clip(1 - right**2 - top**2, 0, 1)
        right, top = right - pull * (nipple[0] - middle[0]) / wide, top - pull * (nipple[1] - middle[1]) / tall
        rise = long * np.clip(1 - right**2 - top**2, 0, 1) ** roundness
        bump = 5.0 * np.exp(-(((grid.x - nipple[0]) / 4.5) ** 2) - ((up - nipple[1]) / 4.5) ** 2)
        surface = np.maximum(surface, chest + muscle + padding + rise) + bump
        outline |= rise > 8
        at = np.argmin(np.abs(grid.x - nipple[0])), 0, np.argmin(np.abs(up - nipple[1]))
        nipples.append((nipple[0], float(surface[at]) - 3, nipple[1]))
        widths.append(wide)
    slope = np.hypot(np.gradient(surface[:, 0], grid.spacing_mm, axis=0), np.gradient(surface[:, 0], SLICE_MM, axis=1))
    depth = (surface - grid.y) / np.sqrt(1 + slope[:, None] ** 2)
    breast = (before > 2) & (depth > 0) & outline
    return _Body(depth, before, muscle, breast, tuple(nipples), tuple(widths))


def _smooth_step(value: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1, and a smooth rise between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _tissues(grid: _Grid, body: _Body, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the share of each tissue in each voxel, float32; nothing is left in the air."""
    inside = grid.share(body.depth_mm)
    skin = inside - grid.share(body.depth_mm - _SKIN_MM)
    before = grid.share(body.before_muscle_mm)
    gland = _gland(grid, body, rng) * (inside - skin) * before
    muscle = (1 - before) * grid.share(body.before_muscle_mm + body.muscle_mm)

    # Behind the muscle: ribs and sternum with fatty marrow, lungs, and on the left the heart.
    behind = (1 - before) * (1 - grid.share(body.before_muscle_mm + body.muscle_mm))
    wall = behind * grid.share(body.before_muscle_mm + body.muscle_mm + 12)
    across = np.abs(grid.x)
    ribs = 4 * np.sin(2 * np.pi * (grid.z + 0.35 * across + rng.uniform(0, 26)) / 26) - 1
    bones = np.where(across < 17, 17 - across, ribs) - 1
    marrow = wall * grid.share(np.minimum(bones, 5 - np.abs(body.before_muscle_mm + body.muscle_mm + 6))) * 0.75
    chamber = ((grid.x + 34) / 46) ** 2 + ((grid.y - 4) / 30) ** 2 + ((grid.z + 18 - rng.uniform(-8, 8)) / 48) ** 2
    heart = (behind - wall) * grid.share((1 - np.sqrt(chamber)) * 30)
    lung = (behind - wall) * (1 - heart)

    # Vessels: the internal mammary ones beside the sternum and some in each breast.
    vessel = np.zeros(grid.shape, np.float32)
    for side in (-1, 1):
        place = np.hypot(grid.x - side * rng.uniform(17, 22), body.before_muscle_mm + body.muscle_mm + 5)
        vessel = np.maximum(vessel, grid.share(1.7 - place))
    for nipple in body.nipples_mm:
        for _ in range(rng.integers(2, 5)):
            _draw_vessel(vessel, grid, nipple, rng)
    vessel = vessel * (inside - skin)
    rest = 1 - vessel
    shares = {
        "skin": skin,
        "gland": gland * rest,
        "muscle": (muscle + wall - marrow) * rest,
        "lung": lung * rest,
        "blood": vessel + heart * rest,
    }
    shares["fat"] = np.clip(inside - sum(shares.values()), 0, 1)
    return {name: share.astype(np.float32) for name, share in shares.items()}


def _gland(grid: _Grid, body: _Body, rng: np.random.Generator) -> np.ndarray:
    """Return the share of fibroglandular tissue: lobes that branch from the nipple, and fibrous strands in the fat."""
    density = np.exp(rng.uniform(np.log(0.07), np.log(0.5)))
    lobes, lobules, strands, clefts, sparse = (grid.field(rng, sigma) for sigma in (11.0, 3.6, 10.0, 6.0, 14.0))
    found = np.zeros(grid.shape, np.float32)
    for nipple, wide in zip(body.nipples_mm, body.half_widths_mm, strict=True):
        own = (np.sign(grid.x) == np.sign(nipple[0])) & body.breast
        parts = (grid.x - nipple[0], np.maximum(nipple[1] - grid.y, 0.5), grid.z - nipple[2])
        across, behind, up = (np.broadcast_to(part, grid.shape)[own] for part in parts)
        # Ducts: noise that depends on the direction as seen from the nipple.
        angles = [np.arctan2(part, behind + 4) for part in (across, up)]
        ducts = ndimage.map_coordinates(
            smooth_field(rng, (64, 64), 1.6), np.stack([(angle / np.pi + 0.5) * 63 for angle in angles]), order=1
        )
        # Fat lies below the skin and before the muscle, except at the nipple.
        fat_mm = 7 * (1 - np.exp(-(across**2 + behind**2 + up**2) / 16**2))
        room = np.minimum(body.depth_mm[own] - fat_mm - _SKIN_MM, body.before_muscle_mm[own] - 6)
        axis = np.hypot(across, up) / wide
        wish = np.minimum(room / 9, 1.2) - 1.6 * axis + 0.7 * lobes[own] + 0.65 * ducts + 0.5 * lobules[own]
        wish = np.where(room > 0, wish, -9)
        border = np.quantile(wish, 1 - density)
        # Lobes end softly, as lobules and fat interlace.
        share = np.clip((wish - border) / 0.55 + 0.4, 0, 1)
        open_mm = np.clip(1.2 + sparse[own], 0, 2.2)
        share *= 1 - 0.7 * np.exp(-((clefts[own] * 6.0 / np.maximum(open_mm, 0.1)) ** 2)) * (open_mm > 0.1)
        share *= 0.92 + 0.08 * np.clip(lobules[own], -1, 1)
        thin_mm = np.hypot(0.5, grid.spacing_mm / 2)
        ligament = 0.35 * np.exp(-((strands[own] * 10.0 / thin_mm) ** 2)) / thin_mm * np.clip(sparse[own], 0, 1)
        found[own] = np.maximum(share, ligament * (body.depth_mm[own] > 3))
    return found


def _draw_vessel(vessel: np.ndarray, grid: _Grid, nipple: Place, rng: np.random.Generator) -> None:
    """Draw a vessel from the outer back of a breast towards its nipple into the shares ``vessel``."""
    side = np.sign(nipple[0])
    start = np.array([nipple[0] + side * rng.uniform(10, 45), 60 + rng.uniform(0, 10), rng.uniform(-40, 40)])
    end = np.array([nipple[0], nipple[1] - rng.uniform(12, 35), nipple[2]]) + rng.uniform(-18, 18, 3)
    bow = rng.uniform(-14, 14, 3)
    radius = rng.uniform(0.8, 1.3)
    for part in np.linspace(0, 1, 60):
        x, y, z = (start + part * (end - start) + bow * np.sin(np.pi * part) + 2 * np.sin(9 * part + bow)).tolist()
        box = grid.box((x, y, z), 4.5)
        away = np.linalg.norm(grid.offsets(box, (x, y, z)), axis=-1)
        # Thinner than a slice: the share of a voxel falls with the voxel's size.
        share = grid.share(radius - away) * min(1.0, 2 * radius / SLICE_MM + 0.3)
        vessel[box] = np.maximum(vessel[box], share)


# --- Lesions. ---


class _Places:
    """Places for lesions in the breasts, most of them in gland, apart from each other, skin and muscle."""

    def __init__(self, grid: _Grid, body: _Body, gland: np.ndarray, rng: np.random.Generator) -> None:
        self.grid, self.body, self.rng = grid, body, rng
        self.gland = gland
        self.taken: list[tuple[Place, float]] = []

    def take(self, diameter_mm: float) -> Place:
        """Return a centre for a lesion of that size, mm."""
        body, radius = self.body, diameter_mm / 2
        free = body.breast & (body.depth_mm > radius + 5) & (body.before_muscle_mm > radius + 5)
        free &= np.abs(self.grid.z) < FIELD_OF_VIEW_MM[2] / 2 - radius - 4
        for centre, other in self.taken:
            near = self.grid.box(centre, radius + other + 8)
            free[near] &= np.linalg.norm(self.grid.offsets(near, centre), axis=-1) > radius + other + 8
        candidates = np.argwhere(free)
        chance = 0.15 + self.gland[free]
        chosen = candidates[np.searchsorted(np.cumsum(chance) / chance.sum(), self.rng.random())]
        x, y, z = (self.grid.affine[:3, :3] @ chosen + self.grid.affine[:3, 3]).tolist()
        self.taken.append(((x, y, z), radius))
        return x, y, z


def _blob(grid: _Grid, centre_mm: Place, diameter_mm: float, rng: np.random.Generator) -> tuple[Box, np.ndarray]:
    """Return a smooth oval lesion with at most shallow lobes: its box, and the share of it in each voxel."""
    box, unit, distance = _around(grid, centre_mm, 0.75 * diameter_mm, rng)
    radius = diameter_mm / 2 * np.exp(rng.uniform(0.02, 0.05) * _waves(unit, 2.5, rng))
    return box, grid.share(radius - distance)


def _spiculated(grid: _Grid, centre_mm: Place, diameter_mm: float, rng: np.random.Generator) -> tuple[Box, np.ndarray]:
    """Return an uneven lesion with spicules: its box, and the share of it in each voxel."""
    box, unit, distance = _around(grid, centre_mm, 1.2 * diameter_mm + 6, rng)
    radius = 0.88 * diameter_mm / 2 * np.exp(rng.uniform(0.14, 0.24) * _waves(unit, 6.0, rng))
    for _ in range(rng.integers(16, 28)):
        direction = rng.normal(size=3) * (1, 1, 0.4)  # most spicules lie in an axial slice, where they are seen
        direction /= np.linalg.norm(direction)
        along = unit @ direction * distance
        thick = np.sqrt(np.maximum(distance**2 - along**2, 0))
        length = diameter_mm / 2 * rng.uniform(1.2, 1.7) + rng.uniform(1, 4)
        spicule = np.where(along > 0, 2.2 * (1 - along / length) + 0.6 - thick, -9)
        spicule = np.where(along < length, spicule, -9)
        radius = np.maximum(radius, distance + spicule)
    return box, grid.share(radius - distance)


def _around(
    grid: _Grid, centre_mm: Place, reach_mm: float, rng: np.random.Generator
) -> tuple[Box, np.ndarray, np.ndarray]:
    """Return the box around a lesion, directions ``[i, j, k, 3]`` and distances of its voxels in stretched space."""
    box = grid.box(centre_mm, reach_mm)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    away = (grid.offsets(box, centre_mm) @ axes) / np.exp(rng.uniform(-0.18, 0.18, 3))
    distance = np.linalg.norm(away, axis=-1)
    return box, away / np.maximum(distance, 1e-3)[..., None], distance


def _waves(unit: np.ndarray, frequency: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of about standard deviation 1 at points ``[..., 3]``, waves of up to ``frequency``."""
    directions = rng.normal(size=(12, 3))
    directions *= (rng.uniform(0.3, 1, 12) * frequency / np.linalg.norm(directions, axis=1))[:, None]
    return np.sqrt(2 / 12) * np.cos(unit @ directions.T + rng.uniform(0, 2 * np.pi, 12)).sum(axis=-1)


def _interior(
    grid: _Grid,
    box: Box,
    centre_mm: Place,
    inside: np.ndarray,
    pathology: str,
    tissue: Tissue,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the signal of a lesion in each voxel of its box and contrast, ``[6, i, j, k]``, scanner units."""
    curve = tissue.curve(TIMES_S)
    proton_density = 0.85 * rng.uniform(0.92, 1.06)
    t2w = rng.uniform(520, 900) if pathology == BENIGN and rng.random() < 0.75 else rng.uniform(270, 430)
    away = grid.offsets(box, centre_mm)
    # Septa of fibroadenomas do not enhance, the core of a cancer that enhances at its rim does so slowly.
    weak = np.zeros(inside.shape)
    slow = np.full(len(curve), curve[0])
    if pathology == BENIGN and rng.random() < 0.6:
        width = 0.22 * max(grid.spacing_mm, 2) / 2
        weak = 0.75 * np.exp(-((_waves(away, 0.55, rng) / width) ** 2))
    elif pathology == MALIGNANT and rng.random() < 0.5:
        depth = ndimage.distance_transform_edt(inside > 0.5, sampling=(grid.spacing_mm, grid.spacing_mm, SLICE_MM))
        weak = 0.9 * np.clip((depth - rng.uniform(2.5, 4.0)) / 2, 0, 1)
        slow = _CORE.curve(TIMES_S)
    t1w = proton_density * _T1W_SCALE * (curve[:, None, None, None] * (1 - weak) + slow[:, None, None, None] * weak)
    return np.concatenate([(t2w * (1 - 0.45 * weak * (pathology == BENIGN)))[None], t1w])


def _paint(signal: np.ndarray, fat: np.ndarray, box: Box, inside: np.ndarray, value: np.ndarray) -> None:
    """Put a lesion's signal, ``[6]`` or ``[6, i, j, k]``, in the place of what was in its box."""
    part = signal[:, *box]
    part += inside * (value.reshape(len(signal), *(value.shape[1:] or (1, 1, 1))) - part)
    fat[box] *= 1 - inside


# --- Signal and scanner. ---


def _drawn(kind: str, rng: np.random.Generator, t1_s: float) -> Tissue:
    low_high = _RANGES[kind].values()
    ktrans_per_min, ve, vp = (float(np.exp(rng.uniform(np.log(low), np.log(high)))) for low, high in low_high)
    return Tissue(ktrans_per_min, ve, vp, t1_s)


def _pure(name: str, gland: Tissue) -> np.ndarray:
    """Return the signal of one tissue alone in each of `CONTRASTS`, scanner units, ``[6]``."""
    if name == "gland":
        curve = gland.curve(TIMES_S)
    elif name in _FIXED:
        curve = Tissue(*_FIXED[name], _T1_S[name]).curve(TIMES_S)
    else:
        curve = np.full(len(SERIES), spoiled_gradient_echo(np.zeros(1), _T1_S[name])[0])
    return np.array([_T2W[name], *(_T1W_SCALE * _PROTON_DENSITY[name] * curve)])


def _scanned(clean: Mapping[str, np.ndarray], grid: _Grid, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return images as a scanner gives them: one texture and bias field for all, Rician noise for each, int16."""
    texture = 1 + _TEXTURE * smooth_field(rng, grid.shape, 0.8)
    # Coils lie around the breasts, so the back of the field of view is darker.
    coils = 0.3 * (grid.y / FIELD_OF_VIEW_MM[1] - 0.5)
    gain = texture * np.exp(_BIAS * grid.field(rng, 45.0) + coils)
    images = {}
    for name, part in clean.items():
        noise = rng.standard_normal((2, *grid.shape), np.float32) * np.float32(_NOISE)
        images[name] = np.clip(np.rint(np.hypot(part * gain + noise[0], noise[1])), 0, 32767).astype(np.int16)
    return images


# --- Files. ---


def write_dce_phantom(
    folder: Path,
    subjects: int = DEFAULT_SUBJECTS,
    seed: int = 0,
    spacing_mm: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort as a BIDS folder, with numbered lesions, their truth and the breasts in derivatives.

    Args:
        folder: Destination; complete, or not created.
        subjects: Number of subjects.
        seed: Another seed gives other subjects.
        spacing_mm: In the axial plane: 1, 2 or 4.
        progress: Called with (subjects done, subjects in all).

    Returns:
        ``folder``.

    Raises:
        DataError: A value is out of range, or the folder exists.
    """
    _check_spacing(spacing_mm)
    if subjects < 1:
        raise DataError(f"A phantom cohort has at least one subject, got {subjects}.")
    about = {"seed": seed, "spacing_mm": spacing_mm, "subjects": subjects}
    rows = ["participant_id\tlesions\tbenign\tmalignant\tdensity"]
    with new_cohort(folder) as temporary:
        describe(temporary, _NAME, "raw", _NAME, about)
        for part in ("lesions", "regions"):
            describe(temporary / "derivatives" / part, f"{_NAME}: {part}", "derivative", _NAME, about)
        # BIDS has no table beside a mask yet.
        (temporary / "derivatives/lesions/.bidsignore").write_text("*_mask.tsv\n", encoding="utf-8")
        for index in range(subjects):
            study = make_study(index, seed, spacing_mm)
            name = f"sub-{index + 1:03d}"
            _write_study(temporary, name, study)
            counts = [sum(lesion.pathology == kind for lesion in study.lesions) for kind in PATHOLOGIES]
            rows.append(f"{name}\t{len(study.lesions)}\t{counts[0]}\t{counts[1]}\t{study.density:.3f}")
            if progress:
                progress(index + 1, subjects)
        (temporary / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        columns = {
            "lesions": {"Description": "Number of lesions"},
            "benign": {"Description": "Number of benign lesions"},
            "malignant": {"Description": "Number of malignant lesions"},
            "density": {"Description": "Share of fibroglandular tissue in both breasts"},
        }
        write_json(temporary / "participants.json", columns)
    return folder


def open_dce_phantom(
    folder: Path,
    spacing_mm: float,
    progress: Callable[[int, int], None] | None = None,
    *,
    subjects: int | None = None,
    seed: int = 0,
) -> Path:
    """Make the cohort of a training without ``--data``; 24 subjects where no number is given."""
    return write_dce_phantom(folder, DEFAULT_SUBJECTS if subjects is None else subjects, seed, spacing_mm, progress)


def _check_spacing(spacing_mm: float) -> None:
    if spacing_mm not in SPACINGS_MM:
        raise DataError(f"The spacing of the DCE phantom is 1, 2 or 4 mm, got {spacing_mm:g}.")


def _write_study(root: Path, name: str, study: Study) -> None:
    for contrast, image in study.images.items():
        stem = root / name / "anat" / f"{name}_{contrast}"
        write_image(stem.with_name(f"{stem.name}.nii.gz"), image, study.affine)
        write_json(stem.with_name(f"{stem.name}.json"), _sidecar(contrast))
    derivatives = root / "derivatives"
    mask = derivatives / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
    write_image(mask, study.lesion_labels, study.affine)
    rows = ["index\tpathology\tdiameter_mm\tktrans_per_min\tve\tvp\tinitial_enhancement\tlate_change\tcurve"]
    for lesion in study.lesions:
        tissue = lesion.tissue
        rows.append(
            f"{lesion.index}\t{lesion.pathology}\t{lesion.diameter_mm:.1f}\t{tissue.ktrans_per_min:.4f}\t"
            f"{tissue.ve:.4f}\t{tissue.vp:.4f}\t{lesion.curve[1] - 1:.4f}\t{lesion.late_change:.4f}\t"
            f"{lesion.curve_class}"
        )
    table = mask.with_name(mask.name.replace(".nii.gz", ".tsv"))
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    region = derivatives / "regions" / name / "anat" / f"{name}_label-breast_mask.nii.gz"
    write_image(region, study.breast_mask.astype(np.uint8), study.affine)


def _sidecar(contrast: str) -> dict[str, object]:
    about: dict[str, object] = {"Synthetic": True, "BodyPart": "BREAST", "MagneticFieldStrength": 3.0}
    if contrast in SERIES:
        about |= {"RepetitionTimeExcitation": REPETITION_TIME_S, "FlipAngle": FLIP_ANGLE_DEG}
    if contrast in SERIES[1:]:
        time_s = TIMES_S[SERIES.index(contrast) - 1]
        about |= {"ContrastBolusIngredient": "GADOLINIUM", "SecondsAfterContrastAgent": time_s}
    return about
