"""Filling a whole cohort into a BIDS-derivatives folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import zoo
from zoo.errors import DataError
from zoo.imaging.cohort import Cohort, Scan
from zoo.imaging.labels import find_labels
from zoo.imaging.volume import check_regular_file
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.runner.cohort import run_cohort
from zoo.runner.derivatives import check_inside, derived_name, scan_folder, start_derivatives
from zoo.tasks.fill.patient import FillSettings, PatientFiles, fill_files, fill_options, settings_record
from zoo.tasks.fill.results import FillCounts
from zoo.tasks.provenance import read_sidecar
from zoo.tasks.results import ResultFiles


@dataclass(frozen=True)
class FilledScan:
    """What became of one scan.

    Attributes:
        scan: Its id.
        status: ``"there already"``: it was filled before with the same settings; ``"failed"``: ``note`` has the reason.
        patient: The inputs.
        outputs: The filled images.
        seconds: Time it took.
        note: Warnings, or why it failed.
        counts: Voxels drawn, added and outside, and how many changed; ``None`` where it failed.
    """

    scan: str
    status: Literal["filled", "there already", "failed"]
    patient: PatientFiles
    outputs: tuple[Path, ...]
    seconds: float = 0.0
    note: str = ""
    counts: FillCounts | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what happened, and where the result is, as plain JSON data."""
        return {
            "scan": self.scan,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "note": self.note,
            "outputs": [str(path) for path in self.outputs],
            **(self.counts.to_sidecar() if self.counts else {}),
        }


def fill_cohort(
    artifact: Artifact,
    cohort: Cohort,
    folder: Path,
    settings: FillSettings,
    *,
    lesion_labels: Sequence[int] = (),
    same_space: bool = False,
    overwrite: bool = False,
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[FilledScan]:
    """Fill every scan that has the model's contrasts and a lesion mask.

    A scan is not filled again if its result is there and whole, made of the same images and masks by the same model
    with the same settings; files are compared by content. A scan that cannot be filled does not stop the others.
    Nothing is written outside the folder.

    Args:
        artifact: The model.
        cohort: Scans; the rim that dilation adds needs a mask of white matter or a segmentation.
        folder: Becomes a BIDS-derivatives dataset: ``sub-X/anat/sub-X_desc-filled_T1w.nii.gz`` with JSON and PNG.
        settings: What is filled, and how; the device of its runtime is replaced by ``devices``.
        lesion_labels, same_space: As in `PatientFiles`, for every scan.
        overwrite: Replace files that this program did not make.
        devices: Workers take them in turn.
        workers: Processes; they share the CPU's cores.
        command: Words of the command, recorded in the sidecars without folders.
        progress: Called with (scans done, scans in all).

    Returns:
        One entry per scan, in the cohort's order.

    Raises:
        DataError: No scan has what is needed, or two have one id.
        ArtifactError: The folder holds something else or cannot be written, or the disk is full.
    """
    settings = replace(settings, options=fill_options(artifact, settings).model_dump(mode="json"))
    usable = cohort.with_all((*artifact.config.data.contrasts, "lesion-mask"))
    start_derivatives(
        folder, usable, name="Lesion-filled images", version=artifact.manifest["plugin_version"],
        description=f"{artifact.method.name}; the voxels inside the lesion masks are synthetic",
        ignored=("*.png", "quality.html"),
    )  # fmt: skip
    labels, doubt = _white_matter_labels(usable) if settings.dilate else ({}, "")
    task = _FillScan(
        artifact.path or artifact.method.name, folder, settings, tuple(lesion_labels), same_space, labels, doubt,
        overwrite, tuple(command),
    )  # fmt: skip
    outcomes = run_cohort(task, usable.scans, devices=devices, workers=workers, progress=progress)
    filled = []
    for scan, outcome in zip(usable.scans, outcomes, strict=True):
        patient = task.patient(scan, artifact)
        found = outcome.result or _Filled()
        filled.append(
            FilledScan(
                scan=scan.id,
                status="filled" if outcome.status == "done" else outcome.status,
                patient=patient,
                outputs=task.outputs(scan, patient),
                seconds=outcome.seconds,
                note=outcome.note or found.note,
                counts=found.counts,
            )
        )
    return filled


def _white_matter_labels(cohort: Cohort) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return white matter's labels in each segmentation by the scan's id, or why they are not known."""
    try:
        return {scan: labels.white_matter for scan, labels in find_labels(cohort).items()}, ""
    except DataError as error:
        return {}, f"the segmentation is not used: {error}"


@dataclass(frozen=True)
class _Filled:
    """What filling a scan said of it."""

    counts: FillCounts | None = None
    note: str = ""


@dataclass(frozen=True)
class _FillScan:
    """Filling one scan of a cohort (`zoo.runner.cohort.ScanTask`).

    Attributes:
        model: Model file, or name of a method without training.
        folder: Of the derivatives.
        settings, lesion_labels, same_space, overwrite, command: As in `fill_cohort`.
        white_matter_labels: Of the segmentations, by the scan's id.
        doubt: Why segmentations are not used.
    """

    model: Path | str
    folder: Path
    settings: FillSettings
    lesion_labels: tuple[int, ...]
    same_space: bool
    white_matter_labels: Mapping[str, tuple[int, ...]]
    doubt: str
    overwrite: bool
    command: tuple[str, ...]

    def patient(self, scan: Scan, artifact: Artifact) -> PatientFiles:
        """Return the files of a scan; a white-matter mask is preferred to a segmentation."""
        images = tuple(scan.images[contrast] for contrast in artifact.config.data.contrasts)
        labels = self.white_matter_labels.get(scan.id, ())
        white_matter = scan.maps.get("white-matter")
        if white_matter is None and labels:
            white_matter = scan.maps["tissue"]
        return PatientFiles(
            images, scan.maps["lesion-mask"], self.lesion_labels, white_matter, labels, self.same_space
        )  # fmt: skip

    def outputs(self, scan: Scan, patient: PatientFiles) -> tuple[Path, ...]:
        """Return where the filled images of a scan go."""
        place = scan_folder(self.folder, scan)
        return tuple(place / derived_name(image.name, "filled") for image in patient.images)

    def find(self, scan: Scan) -> _Filled | None:
        """Return the counts of a result that is there, whole and made as wanted."""
        artifact = zoo.load(self.model)
        patient = self.patient(scan, artifact)
        outputs = self.outputs(scan, patient)
        check_inside(scan_folder(self.folder, scan), self.folder, scan)
        if len(set(outputs)) < len(outputs):
            raise DataError(
                f"Two contrasts of {scan.id} have the file name {patient.images[0].name}; give each its own."
            )
        for path in patient.by_role(artifact.config.data.contrasts).values():
            check_regular_file(path)  # before it is hashed: a pipe would never end
        wanted = settings_record(artifact, patient, self.settings, fill_options(artifact, self.settings))
        for files in map(ResultFiles, outputs):
            stored = read_sidecar(files.sidecar) or {}
            if any(stored.get(key) != value for key, value in wanted.items()) or not files.are_whole():
                return None
        try:
            return _Filled(FillCounts.from_sidecar(read_sidecar(ResultFiles(outputs[0]).sidecar) or {}))
        except (KeyError, TypeError, ValueError):
            return None

    def run(self, scan: Scan, device: str) -> _Filled:
        """Fill the scan."""
        artifact = zoo.load(self.model)
        patient = self.patient(scan, artifact)
        settings = replace(self.settings, runtime=replace(self.settings.runtime, device=device))
        report = fill_files(
            artifact, patient, self.outputs(scan, patient), settings, overwrite=self.overwrite, command=self.command
        )
        notes = list(report.warnings)
        if self.doubt and "tissue" in scan.maps and patient.white_matter is None:
            notes.append(self.doubt)
        return _Filled(report.counts, "; ".join(notes))
