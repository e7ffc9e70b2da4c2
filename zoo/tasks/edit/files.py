"""Editing projected images: what is written of an edit, as NIfTI, pictures and one page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from zoo.metrics.features import Extractor
from zoo.models.artifact import Artifact
from zoo.models.runtime import TORCH, Runtime
from zoo.progress import Progress
from zoo.system.files import replacing, write_text
from zoo.tasks.edit.directions import Direction, Directions
from zoo.tasks.edit.page import draw_figures, write_page
from zoo.tasks.edit.session import Edited, EditSession, EditSettings
from zoo.tasks.projections import Projections, check_same_model
from zoo.tasks.provenance import provenance

_DESCRIPTION = "Edited image of no real person. The fourth axis is alpha. Research use only, not for diagnosis."


@dataclass(frozen=True)
class EditReport:
    """What editing wrote.

    Attributes:
        edits: One per direction.
        folders: Of the images and pictures of each, by the direction's name.
        page: The HTML page with all figures.
        notes: What was left out, in sentences.
    """

    edits: tuple[Edited, ...]
    folders: Mapping[str, Path]
    page: Path
    notes: tuple[str, ...]


def edit_files(
    artifact: Artifact,
    projections: Projections,
    directions: Directions,
    folder: Path,
    settings: EditSettings,
    extractor: Extractor,
    *,
    runtime: Runtime = TORCH,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> EditReport:
    """Walk projected images along directions; write images, differences, sheets, curves and the entanglement table.

    Args:
        artifact: The model that the images were projected with.
        projections: Codes, noise maps, and the real images.
        directions: Of the same model.
        folder: Gets ``edit.html``, ``edit.json``, and for each direction a folder with its pictures and for each
            image and contrast ``….nii.gz`` and ``…_difference.nii.gz``, alpha along the fourth axis.
        settings: What is edited and how it is measured.
        extractor: Features by which entanglement and the distance to real images are measured.
        runtime: What runs the networks.
        command: Words of the command, recorded without folders.
        progress: Called with (images made, images in all) for each direction.

    Raises:
        UnknownNameError: The method cannot edit.
        DataError: Projections or directions are another model's, a name is unknown, or no alpha stays in range.
        ArtifactError: The disk is full or the folder cannot be written.
    """
    check_same_model(artifact, directions.method, directions.model_sha256, "directions")
    chosen = directions.choose(settings.names)
    session = EditSession(artifact, projections, settings, extractor, runtime)
    session.notes += _fitted_on_the_same(chosen, projections)
    edits, folders = [], {name: folder / _safe(name) for name in chosen}
    for name, direction in chosen.items():
        sidecar = {
            **provenance(artifact, runtime, session.options, description=_DESCRIPTION, command=command),
            "Direction": name,
            "Units": "arbitrary, 0 to 1; differences to alpha 0 of the same",
        }
        writer = _Writer(session, folders[name], sidecar, progress)
        edit = session.along(name, direction, writer)
        session.notes += draw_figures(session, edit, folders[name])
        edits.append(edit)
    session.notes = list(dict.fromkeys(session.notes))
    page = folder / "edit.html"
    write_page(session, edits, folders, page)
    return EditReport(tuple(edits), folders, page, tuple(session.notes))


def _fitted_on_the_same(directions: Mapping[str, Direction], projections: Projections) -> list[str]:
    """Return a sentence where subjects are edited that directions were fitted on."""
    fitted_on = {name for item in directions.values() for name in item.about.get("fitted_on", ())}
    both = sorted(fitted_on & set(projections.subjects))
    if not both:
        return []
    return [f"Directions were fitted on {len(both)} of the subjects that are edited, such as {both[0]}."]


@dataclass(frozen=True)
class _Writer:
    """Writes the versions of each image along one direction, each contrast one file with alpha as fourth axis."""

    session: EditSession
    folder: Path
    sidecar: Mapping[str, Any]
    progress: Progress | None

    def __call__(self, number: int, versions: np.ndarray, alphas: Sequence[float]) -> None:
        """Write versions ``[A, C, *spatial]`` of a projection and their differences to alpha 0."""
        projections, spacing_mm = self.session.projections, self.session.spacing_mm
        row, baseline = projections.rows[number], list(alphas).index(0.0)
        affine = np.diag([*(spacing_mm or (1.0, 1.0, 1.0)), 1.0])
        stem = f"edit-{number:04d}_{_safe(row['scan'])}_slice-{row['slice']:03d}"
        about = {
            **self.sidecar, "Alphas": list(alphas), "SpacingKnown": spacing_mm is not None, "Scan": row["scan"],
            "Slice": row["slice"],
        }  # fmt: skip
        for channel, contrast in enumerate(self.session.artifact.config.data.contrasts):
            images = versions[:, channel].astype(np.float32)
            for ending, values in (("", (images + 1) / 2), ("_difference", (images - images[baseline]) / 2)):
                whole = values if values.ndim == 4 else values[..., None]
                with replacing(self.folder / f"{stem}_{contrast}{ending}.nii.gz") as temporary:
                    nibabel.save(nibabel.Nifti1Image(np.moveaxis(whole, 0, 3), affine), temporary)
            write_text(self.folder / f"{stem}_{contrast}.json", json.dumps(about, indent=2) + "\n")
        if self.progress:
            self.progress(number + 1, len(projections))


def _safe(name: str) -> str:
    """Return a name that is valid for a file on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed"
