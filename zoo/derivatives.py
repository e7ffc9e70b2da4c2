"""Filling a whole cohort into a BIDS-derivatives folder, resumable, by one or several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import zoo
from zoo.artifact import Artifact
from zoo.config import validate
from zoo.descriptors import resolve
from zoo.errors import ArtifactError, ConfigError, UnknownNameError, ZooError
from zoo.files import sha256, write_text
from zoo.filling import fill_files, sidecar_of
from zoo.imaging.cohort import Cohort, Scan

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
    """

    scan: str
    status: Literal["filled", "there already", "failed"]
    images: tuple[Path, ...]
    lesions: Path
    outputs: tuple[Path, ...]
    seconds: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what happened, and where the result is, as plain JSON data."""
        return {
            "scan": self.scan,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "note": self.note,
            "outputs": [str(path) for path in self.outputs],
        }


def fill_cohort(
    artifact: Artifact,
    cohort: Cohort,
    folder: Path,
    *,
    options: Mapping[str, Any],
    dilate: int = 1,
    samples: int = 1,
    backend: str = "torch",
    precision: str = "fp32",
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    command: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[FilledScan]:
    """Fill every scan that has the model's contrasts and a lesion mask.

    A scan whose result is there, made of the same images by the same model with the same settings, is not filled again.
    A scan that cannot be filled does not stop the others.

    Args:
        artifact: The model.
        cohort: Scans; white-matter masks are used where they are.
        folder: Becomes a BIDS-derivatives dataset: ``sub-X/anat/sub-X_desc-filled_T1w.nii.gz`` with JSON and PNG.
        options, dilate, samples, backend, precision: As in `zoo.filling.fill_files`.
        devices: Workers take them in turn.
        workers: Processes; the CPU's cores are shared among them.
        command: Its words, recorded in the sidecars without folders.
        progress: Called with (scans done, scans in all).

    Returns:
        One entry a scan, in the cohort's order.

    Raises:
        DataError: No scan has what is needed.
        ArtifactError: The folder holds something else or cannot be written.
    """
    task = artifact.method.task("fill")
    checked = validate(resolve(task.options), options, what=f"zoo fill with {artifact.method.name}")
    usable = cohort.with_all((*artifact.config.data.contrasts, "lesion-mask"))
    _describe(folder, artifact)
    fill = partial(
        _fill_scan, artifact.path or artifact.method.name, artifact.config.data.contrasts, folder,
        checked.model_dump(mode="json"), dilate, samples, backend, precision, list(command),
    )  # fmt: skip
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
        yield from (future.result() for future in as_completed([pool.submit(fill, *job) for job in jobs]))


def _fill_scan(
    model: Path | str,
    contrasts: Sequence[str],
    folder: Path,
    options: Mapping[str, Any],
    dilate: int,
    samples: int,
    backend: str,
    precision: str,
    command: Sequence[str],
    scan: Scan,
    device: str,
) -> FilledScan:
    images = tuple(scan.images[contrast] for contrast in contrasts)
    lesions, white_matter = scan.maps["lesion-mask"], scan.maps.get("white-matter")
    place = folder.joinpath(*scan.id.split("_"), "anat")
    outputs = tuple(place / filled_name(image.name) for image in images)
    artifact = zoo.load(model)
    result = partial(FilledScan, scan.id, images=images, lesions=lesions, outputs=outputs)
    began = time.monotonic()
    try:
        wanted = {
            "ModelSHA256": artifact.sha256, "Method": artifact.method.name, "Options": options, "Samples": samples,
            "Dilation": dilate, "Backend": backend, "Precision": precision,
            "InputSHA256": {path.name: sha256(path) for path in (*images, lesions, white_matter) if path},
        }  # fmt: skip
        if all(_is_there(output, wanted) for output in outputs):
            return result(status="there already")
        report = fill_files(
            artifact, images, lesions, outputs, options=options, dilate=dilate, white_matter=white_matter,
            samples=samples, backend=backend, precision=precision, device=device, command=command,
        )  # fmt: skip
    except (ConfigError, UnknownNameError, ArtifactError):
        raise  # would fail on every scan
    except (ZooError, OSError) as error:
        return result(status="failed", note=str(error))
    return result(status="filled", seconds=time.monotonic() - began, note="; ".join(report.warnings))


def filled_name(name: str) -> str:
    """Return the BIDS name of a filled image: ``sub-1_T1w.nii.gz`` gives ``sub-1_desc-filled_T1w.nii.gz``."""
    stem, dot, extension = name.partition(".")
    entities, underscore, suffix = stem.rpartition("_")
    return f"{entities}{underscore}desc-filled_{suffix}{dot}{extension}"


def _is_there(output: Path, wanted: Mapping[str, Any]) -> bool:
    try:
        stored = json.loads(sidecar_of(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return output.is_file() and all(stored.get(key) == value for key, value in wanted.items())


def _describe(folder: Path, artifact: Artifact) -> None:
    """Write dataset_description.json, unless the folder holds another dataset."""
    file = folder / "dataset_description.json"
    if file.is_file():
        made_by = json.loads(file.read_text(encoding="utf-8")).get("GeneratedBy") or [{}]
        if made_by[0].get("Name") != "mri-zoo":
            raise ArtifactError(
                f"{folder} is another dataset ({file.name} does not name mri-zoo); choose another --out."
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
