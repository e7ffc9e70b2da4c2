"""Exported files, and the keys that say what they were made from.

The files lie in ``exports/`` beside the model, each with a JSON report that holds the key it was made under. A file
is used only while its key is the model's: another model, setting or damaged file is refused and named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.config import differences
from zoo.errors import ArtifactError
from zoo.exporting.job import ExportJob, ExportReport
from zoo.models.artifact import Artifact
from zoo.system.files import sha256, write_text

if TYPE_CHECKING:
    pass

FOLDER = "exports"
"""Folder of exported files, beside ``model.safetensors``."""


def export_key(artifact: Artifact, part: str, precision: str, **more: Any) -> dict[str, Any]:
    """Return what an exported file depends on: the model file, the part, the precision, and ``more``."""
    return {"model_sha256": artifact.sha256, "part": part, "precision": precision, **more}


def write_report(path: Path, key: Mapping[str, Any], report: ExportReport) -> None:
    """Write a JSON report beside exported files: what they are, their key and hashes, and what was checked."""
    files = {file.name: sha256(file) for file in report.files if file != path}
    about = {key: value for key, value in report.to_json().items() if key not in ("files", "note")}
    write_text(path, json.dumps({"format": 1, "key": dict(key), "files": files, **about}, indent=2) + "\n")


def why_stale(path: Path, key: Mapping[str, Any]) -> list[str]:
    """Return why the files of a report are not what ``key`` asks for; empty where they are.

    Args:
        path: The JSON report; its files lie beside it.
        key: What they must have been made under; entries of the report's key that are not in it may be anything.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        made_under, files = report["key"], report["files"]
    except FileNotFoundError:
        return ["not exported yet"]
    except (ValueError, KeyError, TypeError):
        return [f"{path.name} is damaged"]
    changed = differences({name: made_under.get(name) for name in key}, key)
    for name, digest in files.items():
        file = path.with_name(name)
        if not file.is_file():
            changed.append(f"{name} is missing")
        elif sha256(file) != digest:
            changed.append(f"{name} is damaged")
    return changed


def existing(path: Path, key: Mapping[str, Any], job: ExportJob, *, backend: str) -> tuple[ExportReport | None, str]:
    """Return the report of files that are there already and may stay; else ``None`` and why they are made again.

    Args:
        path: The JSON report.
        key: What files must have been made under.
        job: What is asked for.
        backend: Of the exporter that asks.
    """
    reasons = why_stale(path, key)
    if not reasons and not job.options.force:
        stored = json.loads(path.read_text(encoding="utf-8"))
        files = (*(path.with_name(name) for name in stored["files"]), path)
        return ExportReport(
            part=job.name, backend=backend, precision=job.options.precision, files=files, seconds=stored["seconds"],
            checks=stored["checks"], status=stored["status"], note="there already",
        ), ""  # fmt: skip
    return None, f"made again: {'; '.join(reasons)}" if reasons and path.exists() else ""


def require_export(path: Path, key: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return the report of exported files that are to be loaded.

    Raises:
        ArtifactError: They are not there, are of another model, or are damaged; the message names ``command``.
    """
    reasons = why_stale(path, key)
    if reasons:
        raise ArtifactError(f"{path.with_suffix('').name} cannot be used: {'; '.join(reasons)}. Run: {command}")
    return json.loads(path.read_text(encoding="utf-8"))


def rejected(file: Path) -> Path:
    """Return the name under which a file that failed a check is left for a look at it."""
    return file.with_suffix(f".rejected{file.suffix}")
