"""Provenance: the JSON beside every image that this program makes says that it is synthetic and how it was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zoo.models.artifact import Artifact
from zoo.models.runtime import Runtime


def provenance(
    artifact: Artifact, runtime: Runtime, options: BaseModel, *, description: str, command: Sequence[str]
) -> dict[str, Any]:
    """Return what the sidecars of all verbs share; a verb adds what only it knows.

    Args:
        artifact: The model.
        runtime: What ran it; the device is left out, since it changes no more than rounding.
        options: The method's options, validated.
        description: What the image is, and what it must not be used for.
        command: Words of the command, recorded without folders.
    """
    return {
        "Synthetic": True,
        "Description": description,
        **identity(artifact, runtime, options),
        "Command": without_folders(command),
    }


def identity(artifact: Artifact, runtime: Runtime, options: BaseModel) -> dict[str, Any]:
    """Return the part of `provenance` that decides a result: another value means another result."""
    return {
        "Method": artifact.method.name,
        "ModelSHA256": artifact.sha256,
        "Options": options.model_dump(mode="json"),
        "Backend": runtime.backend,
        "Precision": runtime.precision,
    }


def without_folders(command: Sequence[str]) -> str:
    """Return a command line with the names of files but not of folders, which may name people and places."""
    return shlex.join(Path(word).name if "/" in word else word for word in command)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one where there is none."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return what this program wrote about an image; ``None`` where there is no such file or it is another's."""
    stored = read_object(path)
    ours = stored.get("Synthetic") is True and isinstance(stored.get("Method"), str)
    return stored if ours else None
