"""Scaled intensity of white matter in real images, and how robust the scale is.

    python benchmarks/studies/scaling_check.py DATA [--pair WITH_SKULL WITHOUT_SKULL] [--out scaling.json]

DATA holds cohorts in BIDS layout, one per folder. Per image: the intensity of +1, the scaled intensity of white matter
(in T1w the mode of the upper half of the head's core, in other contrasts the mode), the share of white matter that is
clamped (with a segmentation), and the change of the scale after padding, bright voxels and cropping. Per cohort: median
and range. The pair is one head with and without skull, such as ch2 and ch2bet of the package mricron-data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from zoo.imaging.head import find_head
from zoo.imaging.preprocessing import fit_intensity

WHITE = 3
PAD = 40


def altered(values: np.ndarray, white_level: float) -> dict[str, np.ndarray]:
    """Return versions of the image that should have the same scale."""
    rng = np.random.default_rng(0)
    vessels = values.copy()
    head = np.argwhere(values > 0.25 * white_level)
    vessels[tuple(rng.choice(head, max(14, round(3e-5 * values.size))).T)] = 10 * white_level
    faults = values.copy()
    faults[tuple(rng.choice(head, 10).T)] = 1e6
    sides = [(extent, extent) if extent < 128 else (PAD, PAD) for extent in values.shape]
    wide = np.pad(values, sides)
    noise = np.hypot(*rng.normal(0, 0.02 * white_level, (2, *wide.shape))).astype(np.float32)
    lower = int(np.argwhere(values > 0.25 * white_level)[:, 2].min())
    return {
        "padded": np.pad(values, PAD),
        "noise": np.where(wide == 0, noise, wide),
        "bright": vessels,
        "faults": faults,
        "cropped": values[:, :, lower + (values.shape[2] - lower) // 5 :],
    }


def measure(path: Path, tissue: Path | None) -> dict[str, Any]:
    """Return the row of one image."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values, spacing_mm = np.asarray(image.dataobj, np.float32), voxel_sizes(image.affine)
    began = time.perf_counter()
    scale = fit_intensity(values, spacing_mm)
    seconds = time.perf_counter() - began
    row: dict[str, Any] = {"image": path.name, "high": scale.high, "seconds": round(seconds, 3)}
    row["percentile"] = fit_intensity(values, spacing_mm, "percentile").high
    if tissue is not None:
        labels = nibabel.as_closest_canonical(nibabel.load(tissue))
        white = values[ndimage.binary_erosion(np.asarray(labels.dataobj) == WHITE)]
        level = float(np.median(white))
        row["clamped"] = float(np.mean(white > scale.high))
        row["clamped_percentile"] = float(np.mean(white > row["percentile"]))
    else:
        head = find_head(values, spacing_mm)
        core = head.voxels_of(values, head.core())
        level = _mode(core[core > np.median(core)] if "_T1w" in path.name or "ch2" in path.name else core)
    row["white"] = 2 * level / scale.high - 1
    row["white_percentile"] = 2 * level / row["percentile"] - 1
    for name, other in altered(values, level).items():
        row[name] = fit_intensity(other, spacing_mm).high / scale.high - 1
    return row


def _mode(values: np.ndarray) -> float:
    counts, edges = np.histogram(values, 100, (0, np.percentile(values, 99.5)))
    return float(edges[np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 2))])


def show(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print median and range of each column of a cohort."""
    print(f"\n{title}, n = {len(rows)}")
    for name in [key for key in rows[0] if key != "image"]:
        column = np.array([row[name] for row in rows])
        print(f"  {name:19s} median {np.median(column):9.4g}  range {column.min():9.4g} … {column.max():9.4g}")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--pair", nargs=2, type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    if arguments.pair:
        found["pair"] = [measure(path, None) for path in arguments.pair]
        with_skull, without = (row["high"] for row in found["pair"])
        print(f"the same head with skull {with_skull:.4g}, without {without:.4g}: {with_skull / without - 1:+.2%}")
    for cohort in sorted(folder for folder in arguments.data.iterdir() if any(folder.glob("sub-*"))):
        if cohort.name == "test":
            continue
        groups: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(cohort.glob("sub-*/**/anat/*.nii.gz")):
            contrast = path.name.removesuffix(".nii.gz").rpartition("_")[2]
            maps = list(cohort.glob(f"derivatives/tissue/{path.name.split('_')[0]}/anat/*_dseg.nii.gz"))
            groups.setdefault(contrast, []).append(measure(path, maps[0] if maps else None))
        for contrast, rows in groups.items():
            show(rows, f"{cohort.name} {contrast}")
            found[f"{cohort.name} {contrast}"] = rows
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
