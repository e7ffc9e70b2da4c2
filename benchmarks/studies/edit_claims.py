"""Collects the results of a study with `zoo edit` in one file for the documents, and adds other estimators.

    python benchmarks/studies/edit_claims.py --projections PROJECTED … --directions DIR --edits DIR --out FILE.json

``--projections`` names output folders of `zoo project`; the last is the one that was edited. The script measures the
mean brightness of the head in the edited images, and the fraction by the paper's k-means, both as now and as in version
0.1.0, which kept the clusters of alpha 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from studies.atrophy_measures import kept_centres
from zoo.metrics.bpf import by_kmeans, find_head, parenchymal_fraction
from zoo.metrics.statistics import paired_tests


def main() -> None:
    """Collect and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projections", type=Path, nargs="+", required=True)
    parser.add_argument("--directions", type=Path, required=True)
    parser.add_argument("--edits", type=Path, required=True)
    parser.add_argument("--ventricles", type=float, default=0.55)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    edited = json.loads((arguments.edits / "edit.json").read_text(encoding="utf-8"))
    projected = [read(folder / "projections.json") for folder in arguments.projections]
    chosen = nearest(projected[-1]["rows"], arguments.ventricles)
    found = {
        "projections": [
            {
                "name": folder.name, "subjects": len({row["subject"] for row in about["rows"]}),
                "trained_on": len({row["subject"] for row in about["rows"] if row["trained_on"]}),
                **{key: about[key] for key in ("images", "distance", "summary")},
                "iterations": about["options"]["iterations"], "command": about["options"]["command"],
            }
            for folder, about in zip(arguments.projections, projected, strict=True)
        ],
        "directions": read(arguments.directions / "directions.json"),
        "edits": edited,
        "others": [row for edit in edited["edits"] for row in others(arguments.edits, edit, chosen)],
    }  # fmt: skip
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def nearest(rows: list[dict[str, Any]], position: float) -> list[int]:
    """Return the index of each subject's image nearest to a position."""
    found: dict[str, int] = {}
    for index, row in enumerate(rows):
        known = found.setdefault(row["subject"], index)
        if abs(row["position"] - position) < abs(rows[known]["position"] - position):
            found[row["subject"]] = index
    return list(found.values())


def others(folder: Path, edit: dict[str, Any], chosen: list[int]) -> list[dict[str, Any]]:
    """Return one row per estimator and alpha: the mean over subjects and its change from alpha 0."""
    alphas = edit["alphas"]
    values: dict[str, list[list[float]]] = {"brightness of the head": [], "k-means": [], "k-means, kept (0.1.0)": []}
    for number in chosen:
        (path,) = (
            found
            for found in (folder / edit["direction"]).glob(f"edit-{number:04d}_*.nii.gz")
            if not found.name.endswith("_difference.nii.gz")
        )
        versions = np.moveaxis(nibabel.load(path).get_fdata()[:, :, 0], 2, 0)
        start = versions[alphas.index(0)]
        head, kept = find_head(start), kept_centres(start)
        values["brightness of the head"].append([float(image[head].mean()) for image in versions])
        values["k-means"].append([parenchymal_fraction(by_kmeans(image)) for image in versions])
        values["k-means, kept (0.1.0)"].append([parenchymal_fraction(kept(image)) for image in versions])
    rows = []
    for name, found in values.items():
        table = np.array(found)
        tests = paired_tests(table, alphas.index(0))
        for alpha, column, test in zip(alphas, table.T, tests, strict=True):
            change = test and [test.change.mean, test.change.low, test.change.high]
            row = {"direction": edit["direction"], "quantity": name, "alpha": alpha, "n": len(column)}
            rows.append({**row, "mean": float(column.mean()), "change": change, "p": test and test.p})
    return rows


if __name__ == "__main__":
    main()
