"""Filling a whole cohort into a BIDS-derivatives folder, resumable, by one or several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import zoo
from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    MissingExtraError,
    UnknownNameError,
    UnwritableError,
    ZooError,
)
from zoo.imaging.cohort import Cohort, Scan
from zoo.imaging.labels import find_labels
from zoo.imaging.volume import check_regular_file
from zoo.models.artifact import Artifact
from zoo.system.files import write_text
from zoo.tasks.fill.patient import fill_files, settings_record
from zoo.tasks.fill.results import FillCounts, ResultFiles, read_sidecar

BIDS_VERSION = "1.9.0"


@dataclass(frozen=True)
class FilledScan:
    """What became of one scan.

    Attributes:
        scan: Its id.
        status: ``"failed"`` has a reason in ``note``; ``"there already"`` was filled before with the same settings.
        images: The inputs.
        lesions: Their lesion mask.
        outputs: The filled images.
        seconds: Time it took.
        note: Warnings, or why it failed.
        counts: Voxels drawn, added and outside, and how many changed; ``None`` where it failed.
    """

    scan: str
    status: Literal["filled", "there already", "failed"]
    images: tuple[Path, ...]
    lesions: Path
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
    *,
    options: Mapping[str, Any],
    dilate: int = 1,
    lesion_labels: Sequence[int] = (),
    samples: int = 1,
    same_space: bool = False,
    overwrite: bool = False,
    backend: str = "torch",
    precision: str = "fp32",
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    command: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[FilledScan]:
    """Fill every scan that has the model's contrasts and a lesion mask.

    A scan whose result is there and whole, made of the same images and masks by the same model with the same settings,
    is not filled again; files are compared by content. A scan that cannot be filled, whatever the reason, does not stop
    the others. Nothing is written outside the folder.

    Args:
        artifact: The model.
        cohort: Scans; the rim that dilation adds needs a mask of white matter or a segmentation.
        folder: Becomes a BIDS-derivatives dataset: ``sub-X/anat/sub-X_desc-filled_T1w.nii.gz`` with JSON and PNG.
        options, dilate, lesion_labels, samples, same_space, overwrite, backend, precision: As in
            `zoo.tasks.fill.patient.fill_files`.
        devices: Workers take them in turn.
        workers: Processes; the CPU's cores are shared among them.
        command: Its words, recorded in the sidecars without folders.
        progress: Called with (scans done, scans in all).

    Returns:
        One entry a scan, in the cohort's order.

    Raises:
        DataError: No scan has what is needed, or two have one id.
        ArtifactError: The folder holds something else or cannot be written, or the disk is full.
    """
    task = artifact.method.task("fill")
    checked = validate(resolve(task.options), options, what=f"zoo fill with {artifact.method.name}")
    usable = cohort.with_all((*artifact.config.data.contrasts, "lesion-mask"))
    twice = [name for name, count in Counter(scan.id for scan in usable.scans).items() if count > 1]
    if twice:
        raise DataError(f"{cohort.root} has {twice[0]} more than once; each scan needs an id of its own.")
    root, place = (Path(os.path.realpath(path)) for path in (cohort.root, folder))
    if place.is_relative_to(root) and not place.is_relative_to(root / "derivatives"):
        raise DataError(f"--out {folder} lies inside {cohort.root}; write to {cohort.root}/derivatives or outside.")
    _describe(folder, artifact)
    settings = {
        "options": checked.model_dump(mode="json"), "dilate": dilate, "lesion_labels": list(lesion_labels),
        "samples": samples, "same_space": same_space, "backend": backend, "precision": precision,
    }  # fmt: skip
    labels, doubt = _white_matter_labels(usable) if dilate else ({}, "")
    fill = partial(
        _fill_scan, artifact.path or artifact.method.name, folder, settings, labels, doubt, overwrite, list(command)
    )
    jobs = [(scan, devices[number % len(devices)]) for number, scan in enumerate(usable.scans)]
    done: dict[str, FilledScan] = {}
    for result in _run(fill, jobs, workers):
        done[result.scan] = result
        if progress:
            progress(len(done), len(jobs))
    return [done[scan.id] for scan in usable.scans]


def _run(
    fill: Callable[[Scan, str], FilledScan], jobs: Sequence[tuple[Scan, str]], workers: int
) -> Iterator[FilledScan]:
    if workers == 1:
        for scan, device in jobs:
            yield fill(scan, device)
        return
    threads = max((os.cpu_count() or 1) // workers, 1)
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        scans = {pool.submit(fill, *job): job[0] for job in jobs}
        for future in as_completed(scans):
            try:
                yield future.result()
            except BrokenProcessPool:
                scan = scans[future]
                note = "a worker process was killed, perhaps for want of memory; run again with fewer --workers"
                images = tuple(scan.images.values())
                yield FilledScan(scan.id, "failed", images, scan.maps["lesion-mask"], (), note=note)


def _fill_scan(
    model: Path | str,
    folder: Path,
    settings: Mapping[str, Any],
    labels: Mapping[str, tuple[int, ...]],
    doubt: str,
    overwrite: bool,
    command: Sequence[str],
    scan: Scan,
    device: str,
) -> FilledScan:
    artifact = zoo.load(model)
    inputs = {contrast: scan.images[contrast] for contrast in artifact.config.data.contrasts}
    images = tuple(inputs.values())
    inputs |= {role: scan.maps[role] for role in ("lesion-mask", "white-matter") if role in scan.maps}
    if scan.id in labels:
        inputs["tissue"] = scan.maps["tissue"]
    place = folder.joinpath(*scan.id.split("_"), "anat")
    outputs = tuple(place / filled_name(image.name) for image in images)
    result = partial(FilledScan, scan.id, images=images, lesions=inputs["lesion-mask"], outputs=outputs)
    began = time.monotonic()
    try:
        _check_inside(place, folder, scan)
        if len(set(outputs)) < len(outputs):
            raise DataError(f"Two contrasts of {scan.id} have the file name {images[0].name}; give each its own.")
        for path in inputs.values():
            check_regular_file(path)  # before it is hashed: a pipe would never end
        white_matter_labels = labels.get(scan.id, ())
        wanted = settings_record(artifact, inputs, white_matter_labels=white_matter_labels, **settings)
        counts = _counts_there(outputs, wanted)
        if counts:
            return result(status="there already", counts=counts)
        report = fill_files(
            artifact, images, inputs["lesion-mask"], outputs,
            white_matter=inputs.get("white-matter") or inputs.get("tissue"), white_matter_labels=white_matter_labels,
            device=device, overwrite=overwrite, command=command, **settings,
        )  # fmt: skip
    except (ConfigError, UnknownNameError, MissingExtraError):
        raise  # would fail on every scan
    except ArtifactError as error:
        if not isinstance(error, UnwritableError):
            raise
        return result(status="failed", note=str(error))
    except (ZooError, OSError) as error:
        return result(status="failed", note=str(error))
    except MemoryError:
        return result(status="failed", note="not enough memory for this image")
    except Exception as error:  # a scan nobody thought of must not cost the others their results
        return result(status="failed", note=f"unexpected {type(error).__name__}: {error}")
    notes = [*report.warnings, *([doubt] if doubt and "tissue" in scan.maps and "white-matter" not in inputs else [])]
    return result(status="filled", seconds=time.monotonic() - began, note="; ".join(notes), counts=report.counts)


def _white_matter_labels(cohort: Cohort) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return white matter's labels in each segmentation by the scan's id, or why they are not known."""
    try:
        return {scan: labels.white_matter for scan, labels in find_labels(cohort).items()}, ""
    except DataError as error:
        return {}, f"the segmentation is not used: {error}"


def _check_inside(place: Path, folder: Path, scan: Scan) -> None:
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"The results of {scan.id!r} would lie at {place}, outside {folder}; correct the id.")


def filled_name(name: str) -> str:
    """Return the BIDS name of a filled image: ``sub-1_T1w.nii.gz`` gives ``sub-1_desc-filled_T1w.nii.gz``."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    extension = name[len(stem) :].lower()
    entities, underscore, suffix = stem.rpartition("_")
    return f"{entities}{underscore}desc-filled_{suffix}{extension}"


def _counts_there(outputs: Sequence[Path], wanted: Mapping[str, Any]) -> FillCounts | None:
    """Return the counts of a result that is there, whole and made as wanted, else ``None``."""
    results = [ResultFiles(output) for output in outputs]
    for files in results:
        stored = read_sidecar(files.sidecar) or {}
        if any(stored.get(key) != value for key, value in wanted.items()) or not files.are_whole():
            return None
    try:
        return FillCounts.from_sidecar(read_sidecar(results[0].sidecar) or {})
    except (KeyError, TypeError, ValueError):
        return None


def _describe(folder: Path, artifact: Artifact) -> None:
    """Write dataset_description.json, unless the folder holds another dataset."""
    file = folder / "dataset_description.json"
    if file.is_file():
        try:
            made_by = json.loads(file.read_text(encoding="utf-8"))["GeneratedBy"][0]["Name"]
        except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError):
            made_by = None
        if made_by != "mri-zoo":
            raise ArtifactError(
                f"{folder} is another dataset, or its {file.name} is broken: it does not name mri-zoo. Choose another "
                "--out, or remove that file if the dataset is this program's."
            )
        return
    description = {
        "Name": "Lesion-filled images",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "mri-zoo",
                "Version": artifact.manifest["plugin_version"],
                "Description": f"{artifact.method.name}; the voxels inside the lesion masks are synthetic",
            }
        ],
    }
    write_text(file, json.dumps(description, indent=2) + "\n")
    write_text(folder / ".bidsignore", "*.png\nquality.html\n")  # for people, and no files that BIDS knows
