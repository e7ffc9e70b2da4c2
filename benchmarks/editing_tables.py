"""Tables of the pages on StyleGAN2 and on editing, from the results of the studies of atrophy and of edits.

`EDITING` holds them by name; each takes names of files in ``benchmarks/results`` and returns the lines of a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Rows = Sequence[Mapping[str, Any]]
Cells = list[list[str]]

_NAMES = {
    "levels": "`levels` (default)",
    "k-means": "`k-means`, the paper's",
    "k-means in the head": "k-means in the head, 3 clusters",
    "k-means, centres kept (0.1.0)": "k-means, centres kept (0.1.0)",
}
_SHOWN_METRICS = {"ssim": ".3f", "ssim_head": ".3f", "psnr": ".1f", "psnr_head": ".1f"}


def interval(mean: float, low: float | None, high: float | None, style: str) -> str:
    """Return ``0.98 [0.97, 0.99]``, or the mean alone without an interval."""
    return f"{mean:{style}}" + ("" if low is None or high is None else f" [{low:{style}}, {high:{style}}]")


def atrophy_truth(rows: Rows) -> Cells:
    """Correlation with the truth per slice position, and the error at position 0.58."""
    found = [row for row in rows if row["study"] == "truth"]
    positions = sorted({row["position"] for row in found})
    cells = [["quantity", "estimator", "n", *(f"r at {position:g}" for position in positions), "error at 0.58, ± sd"]]
    for quantity in ("BPF", "ventricles"):
        for name in dict.fromkeys(row["estimator"] for row in found):
            own = {row["position"]: row for row in found if (row["quantity"], row["estimator"]) == (quantity, name)}
            error = f"{own[0.58]['bias']:+.3f} ± {own[0.58]['error_sd']:.3f}"
            r = [f"{own[position]['r']:.2f}" for position in positions]
            cells.append([quantity, _NAMES[name], str(own[0.58]["n"]), *r, error])
    return cells


def atrophy_changes(rows: Rows) -> Cells:
    """Mean and largest change of the fraction, in %, under changes of the image that keep the anatomy."""
    found = [row for row in rows if row["study"] == "change" and row["quantity"] == "BPF"]
    changes = list(dict.fromkeys(row["change"] for row in found))
    cells = [["images", "estimator", "n", *changes]]
    for data in dict.fromkeys(row["data"] for row in found):
        for name in dict.fromkeys(row["estimator"] for row in found):
            own = {row["change"]: row for row in found if (row["data"], row["estimator"]) == (data, name)}
            moved = [f"{100 * own[change]['mean']:+.2f} ({100 * own[change]['largest']:.2f})" for change in changes]
            cells.append([data, _NAMES[name], str(own[changes[0]]["n"]), *moved])
    return cells


def atrophy_age(rows: Rows) -> Cells:
    """Rank correlation with the age of real adults per slice position."""
    found = [row for row in rows if row["study"] == "age" and row["estimator"] in ("levels", "k-means")]
    positions = sorted({row["position"] for row in found})
    cells = [["quantity", "estimator", "n", *(f"{position:g}" for position in positions)]]
    for quantity, name in dict.fromkeys((row["quantity"], row["estimator"]) for row in found):
        own = {row["position"]: row for row in found if (row["quantity"], row["estimator"]) == (quantity, name)}
        r = [f"{own[position]['spearman']:.2f}" for position in positions]
        cells.append([quantity, _NAMES[name], str(own[positions[0]]["n"]), *r])
    return cells


def atrophy_projection(rows: Rows) -> Cells:
    """Correlation of projected images and of reconstructions with the truth, and the change by projection."""
    cells = [["quantity", "estimator", "n", "r of the images", "r of the reconstructions", "reconstruction − image"]]
    for row in rows:
        if row["study"] == "projection":
            found = [
                interval(one["r"], one["r_low"], one["r_high"], ".2f")
                for one in (row["projected"], row["reconstruction"])
            ]
            moved = interval(row["moved"], row["moved_low"], row["moved_high"], "+.4f")
            cells.append([row["quantity"], _NAMES[row["estimator"]], str(row["projected"]["n"]), *found, moved])
    return [cells[0], *sorted(cells[1:], key=lambda line: line[0])]


def projected(*studies: Mapping[str, Any]) -> Cells:
    """Similarity of reconstructions, one row per projection of each study."""
    cells = [["projected", "subjects, images", "iterations", "SSIM", "in the head", "PSNR, dB", "in the head"]]
    for study in studies:
        for one in study["projections"]:
            summary = one["summary"]
            figures = [
                interval(summary[name]["mean"], summary[name]["low"], summary[name]["high"], style)
                for name, style in _SHOWN_METRICS.items()
            ]
            count = f"{one['subjects']}, {one['images']}"
            cells.append([one["name"].replace("-", " "), count, str(one["iterations"]), *figures])
    return cells


def edit_changes(study: Mapping[str, Any]) -> Cells:
    """Mean and change of fraction and ventricles along each direction, compared with random directions."""
    cells = [["direction", "quantity", "group, n", "α", "mean", "change", "random directions", "p, random", "p, Holm"]]
    for edit in study["edits"]["edits"]:
        for row in edit["curves"]:
            change, random = row["change"], row["random"]
            moved = interval(change["mean"], change["low"], change["high"], "+.4f") if change else "–"
            beside = [f"{random['low']:+.4f} to {random['high']:+.4f}", f"{random['p']:.2g}"] if random else ["–", "–"]
            group, holm = f"{row['group']}, {row['n']}", "–" if row["holm"] is None else f"{row['holm']:.1g}"
            cells.append([edit["direction"], row["quantity"].split(",")[0], group, f"{row['alpha']:g}",
                          f"{row['mean']:.4f}", moved, *beside, holm])  # fmt: skip
    return cells


def edit_others(study: Mapping[str, Any]) -> Cells:
    """Change of the head's brightness and of other estimators at the ends of each direction."""
    cells = [["direction", "α", "n", "brightness of the head", "BPF by `k-means`", "BPF as in 0.1.0"]]
    names = ("brightness of the head", "k-means", "k-means, kept (0.1.0)")
    for edit in study["edits"]["edits"]:
        for alpha in (edit["alphas"][0], edit["alphas"][-1]):
            own = {
                row["quantity"]: row
                for row in study["others"]
                if row["direction"] == edit["direction"] and row["alpha"] == alpha
            }
            moved = []
            for name in names:
                change = own[name]["change"]
                moved.append(interval(change[0], change[1], change[2], "+.4f") if change else "–")
            cells.append([edit["direction"], f"{alpha:g}", str(own[names[0]]["n"]), *moved])
    return cells


def edit_entanglement(study: Mapping[str, Any]) -> Cells:
    """Change of each attribute per unit of alpha, and the accuracy of its regressor on real images."""
    cells = [["direction", "attribute", "n", "per unit of α", "in sd", "regressor on unseen real images"]]
    for edit in study["edits"]["edits"]:
        for moved in edit["entanglement"]:
            own, scaled = moved["per_alpha"], moved["standardised"]
            skill = "; ".join(
                f"{score['measure']} {interval(score['value'], score['low'], score['high'], '.2f')}"
                for score in moved["skill"]
                if score["over"] == moved["skill"][-1]["over"]
            )
            name = f"{moved['attribute']} ({moved['unit']})" if moved["unit"] else moved["attribute"]
            figures = [interval(some["mean"], some["low"], some["high"], ".3f") for some in (own, scaled)]
            cells.append([edit["direction"], name, str(own["n"]), *figures, skill])
    return cells


def _table(make: Callable[..., Cells]) -> Callable[..., list[str]]:
    """Return a function from names of files to the lines of a Markdown table."""

    def lines(*files: str) -> list[str]:
        head, *rows = make(*(_read(name) for name in files))
        return [
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
            *("| " + " | ".join(row) + " |" for row in rows),
        ]

    return lines


def _read(name: str) -> Any:
    """Return the object of a JSON file, or the objects of a JSONL file."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


EDITING: dict[str, Callable[..., list[str]]] = {
    "atrophy-truth": _table(atrophy_truth),
    "atrophy-changes": _table(atrophy_changes),
    "atrophy-age": _table(atrophy_age),
    "atrophy-projection": _table(atrophy_projection),
    "projected": _table(projected),
    "edit-changes": _table(edit_changes),
    "edit-others": _table(edit_others),
    "edit-entanglement": _table(edit_entanglement),
}
