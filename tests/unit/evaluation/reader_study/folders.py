"""Folders of synthetic images as a reader study takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

SERIES = ("T2w", "T1w", "ce-post1_T1w", "ce-post2_T1w", "ce-post3_T1w", "ce-post4_T1w", "sub")
_KINETICS = {"benign": (0.5, 0.7, 0.85, 0.95), "malignant": (0.95, 1.0, 0.85, 0.7), "": (0.1, 0.12, 0.15, 0.2)}


def write_series(
    folder: Path, prefix: str, count: int, *, classes: Sequence[str] = ("",), size: int = 16, seed: int = 0
) -> Path:
    """Write dynamic series of one slice: tissue, noise, and a spot that takes up contrast agent by its class."""
    rng = np.random.default_rng(seed)
    for number in range(count * len(classes)):
        class_name = classes[number % len(classes)]
        tissue = 0.4 + 0.15 * _smooth(rng, (size, size), size / 10)
        rows, columns = np.mgrid[:size, :size]
        x, y, radius = rng.uniform(0.35, 0.65) * size, rng.uniform(0.35, 0.65) * size, rng.uniform(0.12, 0.2) * size
        edge = radius * (1 + (0.25 if class_name == "malignant" else 0.05) * _smooth(rng, (size, size), size / 16))
        spot = 1 / (1 + np.exp((np.hypot(rows - y, columns - x) - edge) * 2))
        images = {"T2w": 0.3 + 0.25 * _smooth(rng, (size, size), size / 12) + 0.35 * spot, "T1w": tissue - 0.08 * spot}
        for k, uptake in enumerate(_KINETICS[class_name], 1):
            images[f"ce-post{k}_T1w"] = images["T1w"] * (1 + 0.06 * k**0.5) + 0.45 * uptake * spot
        images = {name: np.clip(values + rng.normal(0, 0.012, values.shape), 0, 1) for name, values in images.items()}
        images["sub"] = images["ce-post1_T1w"] - images["T1w"]
        about = {"Synthetic": prefix != "real", **({"Class": class_name} if class_name else {})}
        for contrast in SERIES:
            _write(folder / f"{prefix}-{number:04d}_{contrast}", images[contrast][:, :, None], about)
    return folder


def write_simple(folder: Path, prefix: str, count: int, *, shape: Sequence[int] = (8, 6, 1), seed: int = 0) -> Path:
    """Write images of one contrast, without JSON beside them."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        _write(folder / f"{prefix}-{number:04d}_T1w", rng.normal(size=shape), None)
    return folder


def write_lesions(
    folder: Path, count: int, *, shape: tuple[int, int, int] = (12, 14, 10), contrasts: Sequence[str] = ("FLAIR",),
    lesions: int = 3, seed: int = 0,
) -> Path:  # fmt: skip
    """Write volumes of a head with round lesions, one of which counts as synthetic, and the masks of both kinds."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    distance = np.sqrt((grid**2).sum(axis=0))
    for number in range(count):
        head, brain = distance < 0.92, distance < 0.75
        texture = _smooth(rng, shape, 1.5) * 0.06
        tissue = np.where(brain, 0.5 + texture, np.where(head, 0.3 + texture, 0.0))
        marks = np.zeros(shape, np.int16)
        for label in range(1, lesions + 1):
            while True:
                centre = rng.uniform(-0.5, 0.5, 3)
                spot = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(axis=0)) < rng.uniform(0.15, 0.2)
                near = ndimage.binary_dilation(spot, iterations=2)
                if spot.any() and not (near & (marks > 0)).any():
                    break
            marks[spot] = label
        for index, contrast in enumerate(contrasts):
            sign = -0.2 if contrast == "T1w" else 0.35 - 0.05 * index
            values = tissue + sign * ndimage.gaussian_filter((marks > 0).astype(float), 0.6)
            values = np.abs(values + rng.normal(0, 0.015, shape))
            _write(folder / f"case-{number:04d}_{contrast}", values, {"Synthetic": True})
        _write(folder / f"case-{number:04d}_desc-synthetic_mask", (marks == 1).astype(np.uint8), None)
        _write(folder / f"case-{number:04d}_label-lesion_mask", (marks > 0).astype(np.uint8), None)
    return folder


def _smooth(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return field / field.std()


def _write(stem: Path, values: np.ndarray, about: dict[str, object] | None) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    dtype = values.dtype if values.dtype.kind in "iu" else np.float32
    nibabel.save(nibabel.Nifti1Image(values.astype(dtype), np.eye(4)), f"{stem}.nii.gz")
    if about is not None:
        Path(f"{stem}.json").write_text(json.dumps(about))
