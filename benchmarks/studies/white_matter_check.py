"""Precision and recall of estimated white matter, on children with a segmentation and on the phantom.

    python benchmarks/studies/white_matter_check.py CHILDREN PATIENTS [--out white_matter.json]

CHILDREN is a cohort with T1w and ``dseg`` (3 is white matter, 2 cortex, 4 deep grey matter), PATIENTS one with lesion
masks. Each patient's lesions are placed on each child by world coordinates and restricted to white matter. Precision is
counted on the whole estimate, and on the voxels that a dilation by one voxel adds; recall on those that it could add.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from zoo.imaging.cohort import read_cohort
from zoo.imaging.geometry import Grid, to_grid
from zoo.imaging.phantom import CORTEX, DEEP, WHITE, make_subject
from zoo.imaging.volume import read_volume
from zoo_bench.white_matter import brightest_class, near_the_level, relative_brightness

THRESHOLDS = (0.85, 0.92, 0.96, 0.98, 1.0)
PHANTOMS = ((1.0, 4), (2.0, 6), (4.0, 6))

Case = tuple[str, np.ndarray, np.ndarray, list[np.ndarray], tuple[float, float, float], bool]
"""Group, T1w, labels, lesion masks, spacing, and whether the T1w shows the lesions."""


def cases(children: Path, patients: Path) -> Iterator[Case]:
    """Yield all images with their truth."""
    bank = [read_volume(scan.maps["lesion-mask"]) for scan in read_cohort(patients).scans]
    for scan in read_cohort(children).scans:
        volume, tissue = read_volume(scan.images["T1w"]), read_volume(scan.maps["tissue"]).data[0]
        grid = Grid(volume.shape, volume.affine)
        laid = [(to_grid(m.data[0], m.affine, grid, order=0) > 0.5) & (tissue == WHITE) for m in bank]
        yield "children", volume.data[0], tissue, [mask for mask in laid if mask.any()], volume.spacing_mm, False
    for spacing, count in PHANTOMS:
        for index in range(count):
            subject = make_subject(index, seed=1, spacing_mm=spacing, group="MS")
            t1w = subject.images["T1w"].astype(np.float32)
            yield f"phantom {spacing:g} mm", t1w, subject.tissue, [subject.lesion_mask], (spacing,) * 3, True


def rules(t1w: np.ndarray, lesions: np.ndarray, spacing_mm: tuple[float, float, float]) -> Iterator[Any]:
    """Yield the name and the estimate of each rule."""
    yield "brightest class", brightest_class(t1w, lesions)
    relative = relative_brightness(t1w, lesions, spacing_mm)
    for threshold in THRESHOLDS:
        yield f"{threshold} of the level", near_the_level(relative, threshold)


def count(estimate: np.ndarray, tissue: np.ndarray, masks: list[np.ndarray], seen: np.ndarray) -> list[int]:
    """Return counts: estimate, correct, added, added in white matter, cortex and deep grey matter, and addable."""
    estimate = estimate & ~seen
    rims = [ndimage.binary_dilation(mask, np.ones((3, 3, 3), bool)) & ~mask for mask in masks]
    added = np.concatenate([tissue[rim & estimate] for rim in rims])
    right = [int(np.sum(added == label)) for label in (WHITE, CORTEX, DEEP)]
    could = sum(int(np.sum(tissue[rim] == WHITE)) for rim in rims)
    return [int(estimate.sum()), int(np.sum(tissue[estimate] == WHITE)), len(added), *right, could]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("children", type=Path)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    counts: dict[tuple[str, str], list[list[int]]] = {}
    for group, t1w, tissue, masks, spacing_mm, visible in cases(arguments.children, arguments.patients):
        seen = masks[0] if visible else np.zeros(t1w.shape, bool)
        for rule, estimate in rules(t1w, seen, spacing_mm):
            counts.setdefault((group, rule), []).append(count(estimate, tissue, masks, seen))
    rows = []
    for (group, rule), found in counts.items():
        each = np.array(found, float)
        whole, right, added, white, cortex, deep, could = each.sum(0)
        row = {
            "group": group, "subjects": len(each), "rule": rule,
            "precision": right / whole, "worst": (each[:, 1] / each[:, 0]).min(),
            "added": int(added), "added_precision": white / added, "added_worst": (each[:, 3] / each[:, 2]).min(),
            "added_cortex": cortex / added, "added_deep_grey": deep / added, "added_recall": white / could,
        }  # fmt: skip
        rows.append(row)
        print("  ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
