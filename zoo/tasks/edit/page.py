"""The report of edits: pictures per direction, tables, ``edit.json`` and one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.metrics.bpf import TISSUE
from zoo.metrics.profiles import profiles_through_ventricle
from zoo.metrics.statistics import Interval, with_interval
from zoo.report.figures import upright
from zoo.report.html import Section, write_report
from zoo.system.files import write_text
from zoo.tasks.edit.alpha_range import TOLERATED
from zoo.tasks.edit.figures import edit_curves, edit_profiles, edit_sheet
from zoo.tasks.edit.session import SIGNIFICANT, Edited, EditSession, RandomChange
from zoo.tasks.edit.slices import QUANTITIES, signal

_SHOWN = 6
_NOTE = (
    "Exploratory: what changes along a direction is correlated with its attribute, not caused by it. p: Student's "
    "paired test against alpha 0, uncorrected; Holm: corrected for the alphas of a row. Random: mean changes along "
    "random directions of the same length (--random), the least an attribute's direction must exceed; their p is the "
    "share of them that change the mean as much. Synthetic images of no real person; research use only, not for "
    "diagnosis."
)
_HOW = {
    "levels": "Fraction and ventricles: tissue of each image by itself, inside the brain's filled outline, by "
    "brightness relative to white matter after a smooth field is divided out. Brightness alone changes neither figure.",
    "k-means": "Fraction and ventricles: tissue of each image by itself by k-means with four clusters, as in Güllmar "
    "et al.; on T1-weighted slices it takes cortex for fluid.",
}


def draw_figures(session: EditSession, edit: Edited, folder: Path) -> list[str]:
    """Draw curves, the sheet of some subjects of each group, and the profiles of one subject of each.

    Args:
        session: What was edited.
        edit: Along which direction, and what it did.
        folder: Gets the PNG files.

    Returns:
        Why a profile could not be drawn, in sentences.
    """
    for quantity, (_, picture) in QUANTITIES.items():
        series = edit.series[quantity]
        stars = {
            label: [
                point.p is not None and point.p < SIGNIFICANT
                for point in edit.curves
                if (point.quantity, point.group) == (quantity, label)
            ]
            for label in series
        }
        if series:
            edit_curves(folder / picture, edit.alphas, series, stars, quantity)

    rows = session.projections.rows
    each = max(_SHOWN // len(edit.groups), 1)
    shown = [row for members in edit.groups.values() for row in members[:: max(len(members) // each, 1)][:each]]
    labels = [f"{rows[row]['scan']}\nposition {rows[row]['position']:.2f}" for row in shown]
    edit_sheet(
        folder / "sheet.png", upright(np.stack([edit.slices[row] for row in shown])), edit.alphas, labels, edit.baseline
    )

    notes = []
    for number, (label, members) in enumerate(edit.groups.items()):
        scan, versions = rows[members[0]]["scan"], edit.slices[members[0]]
        try:
            tissue = TISSUE[session.settings.tissue](signal(versions[edit.baseline]))
            profiles = profiles_through_ventricle(versions, tissue)
        except DataError as error:
            notes.append(f"{scan}: {error}")
            continue
        title = f"{scan} ({label})"
        edit_profiles(folder / f"profile-{number}.png", versions[edit.baseline], profiles, edit.alphas, title)
    return notes


def entanglement_rows(edits: Sequence[Edited]) -> list[dict[str, Any]]:
    """Return one row per direction and attribute."""
    return [
        {
            "direction": edit.name,
            "attribute": f"{row.attribute} ({row.unit})" if row.unit else row.attribute,
            "per alpha": _interval(row.per_alpha),
            "in sd": _interval(row.standardised),
            "n": row.per_alpha.n,
            "regressor": "; ".join(
                f"{score['measure']} {with_interval(score['value'], score['low'], score['high'])}"
                for score in row.skill
                if score["over"] == row.skill[-1]["over"]
            ),
        }
        for edit in edits
        for row in edit.entanglement
    ]


def curve_rows(edits: Sequence[Edited]) -> list[dict[str, Any]]:
    """Return one row per direction, quantity, group and alpha."""
    return [
        {
            "direction": edit.name,
            "quantity": point.quantity,
            "group": point.group,
            "n": point.n,
            "alpha": f"{point.alpha:g}",
            "mean": f"{point.mean:.4f}",
            "change": _interval(point.change) if point.change else "",
            "p": "" if point.p is None else f"{point.p:.2g}",
            "Holm": "" if point.holm is None else f"{point.holm:.2g}",
            "random": _random(point.random),
        }
        for edit in edits
        for point in edit.curves
    ]


def range_sentences(edits: Sequence[Edited]) -> list[str]:
    """Return one sentence per direction whose range was searched for: where it ends, and which criterion ended it."""
    return [
        f"{edit.name}: alpha {edit.range.low:g} (ended by {edit.range.low_ended_by}) to {edit.range.high:g} (ended by "
        f"{edit.range.high_ended_by}), in steps of {edit.range.step:g}; outside already at alpha 0: "
        + ", ".join(
            f"{share:.0%} by {name}" + (", which therefore could not end it" if share > 1 - TOLERATED else "")
            for name, share in edit.range.outside.items()
        )
        for edit in edits
        if edit.range
    ]


def write_page(session: EditSession, edits: Sequence[Edited], folders: Mapping[str, Path], page: Path) -> None:
    """Write ``edit.json`` and the page with all tables and pictures.

    Args:
        session: What was edited.
        edits: One per direction.
        folders: Of the pictures, by the direction's name.
        page: HTML file; the JSON stands beside it.

    Raises:
        ArtifactError: The disk is full or the folder cannot be written.
    """
    artifact, real, settings = session.artifact, session.real, session.settings
    content = {
        "model_sha256": artifact.sha256,
        "method": artifact.method.name,
        "features": real.extractor,
        "tissue": settings.tissue,
        "random": settings.random,
        "note": _NOTE,
        "notes": list(session.notes),
        "subjects": len(set(real.subjects)),
        "images": len(real.subjects),
        "edits": [edit.to_json() for edit in edits],
    }
    write_text(page.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    entanglement = (
        "How much each attribute, predicted from the edited image, moves per unit of alpha: by ridge regression on "
        f"{real.extractor}, trained on the real images of other subjects. Means over subjects with 95 % intervals "
        "of the spread between subjects. Read a row only where its regressor predicts real images of unseen subjects."
    )
    sections = [
        Section(heading="What this is", text="\n".join([_NOTE, *range_sentences(edits), *session.notes])),
        Section(heading="Entanglement", text=entanglement, table=entanglement_rows(edits)),
        Section(heading="Along alpha", text=_HOW[settings.tissue], table=curve_rows(edits)),
    ]
    for edit in edits:
        pictures = [(path.read_bytes(), path.stem) for path in sorted(folders[edit.name].glob("*.png"))]
        sections.append(Section(heading=edit.name, figures=pictures))
    write_report(page, f"{artifact.method.name}: edits", sections)


def _random(found: RandomChange | None) -> str:
    return f"{found.low:.2g} to {found.high:.2g}; p {found.p:.2g} (n = {found.n})" if found else ""


def _interval(interval: Interval) -> str:
    return with_interval(interval.mean, interval.low, interval.high)
