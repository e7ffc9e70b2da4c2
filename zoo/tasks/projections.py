"""Projections: the codes and noise maps from which a generator reconstructs given images, as one safe file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import ArtifactError, DataError
from zoo.models.artifact import Artifact
from zoo.system.files import refuse_newer, replacing

FORMAT = 1
"""Version of the file; a higher one is refused."""

PROJECTIONS_FILE = "projections.safetensors"

_ROW = {"subject": str, "scan": str, "slice": int, "position": (int, float), "covariates": dict, "losses": dict}


@dataclass(frozen=True)
class Projections:
    """Projected images, row n of every tensor being image n.

    Attributes:
        codes: float32 ``[N, *code]``; the file calls this tensor ``w``.
        noise: The noise maps of the method, each float32 ``[N, 1, *spatial]``.
        image: float32 ``[N, C, *size]`` in [-1, 1], what was projected.
        reconstruction: float32 ``[N, C, *size]``, what the generator makes of ``codes`` and ``noise``.
        rows: What each image is: ``subject``, ``scan``, ``slice`` (index, whole number), ``position`` (0 to 1),
            ``covariates`` (columns of participants.tsv, numbers or text), ``losses`` (numbers by name), and what a
            method adds.
        method: Name of the method.
        model_sha256: Hash of the model file.
        options: How they were projected.
    """

    codes: Tensor
    noise: tuple[Tensor, ...]
    image: Tensor
    reconstruction: Tensor
    rows: tuple[Mapping[str, Any], ...]
    method: str
    model_sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = _misfit(self)
        if problem:
            raise ArtifactError(f"These are not whole projections: {problem}.")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def subjects(self) -> list[str]:
        """The subject of each image."""
        return [row["subject"] for row in self.rows]

    def write(self, path: Path) -> None:
        """Write one file, whole or not at all.

        Raises:
            ArtifactError: The disk is full or the folder cannot be written.
        """
        tensors = {"w": self.codes, "image": self.image, "reconstruction": self.reconstruction}
        tensors |= {f"noise_{number}": planes for number, planes in enumerate(self.noise)}
        about = {
            "format": FORMAT,
            "method": self.method,
            "model_sha256": self.model_sha256,
            "rows": [dict(row) for row in self.rows],
            "options": dict(self.options),
        }
        with replacing(path) as temporary:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata={"zoo": json.dumps(about, sort_keys=True)},
            )
            temporary.chmod(0o644)  # safetensors makes files that only their owner reads

    @classmethod
    def read(cls, path: Path) -> Projections:
        """Read the file that `write` wrote, or the folder it is in.

        Raises:
            ArtifactError: There is none, or it is damaged, not the zoo's, or newer than this version knows.
        """
        file = path / PROJECTIONS_FILE if path.is_dir() else path
        if not file.is_file():
            raise ArtifactError(f"There is no {file}; zoo project RUN --data DIR --out {path} makes it.")
        try:
            with safe_open(file, framework="pt") as stored:
                header = (stored.metadata() or {}).get("zoo")
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it has no iterator
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{file} is not a whole safetensors file: {error}.") from None
        try:
            about = json.loads(header or "null")
            number = int(about["format"])
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{file} does not hold projections of the zoo; zoo project makes them.") from None
        refuse_newer(file, number, FORMAT)
        maps = sorted((name for name in tensors if name.startswith("noise_")), key=lambda name: (len(name), name))
        try:
            if maps != [f"noise_{index}" for index in range(len(maps))]:
                raise ArtifactError(f"its noise maps are {', '.join(maps)}")
            return cls(
                codes=tensors["w"],
                noise=tuple(tensors[name] for name in maps),
                image=tensors["image"],
                reconstruction=tensors["reconstruction"],
                rows=tuple(about["rows"]),
                method=about["method"],
                model_sha256=about["model_sha256"],
                options=about["options"],
            )
        except KeyError as error:
            raise ArtifactError(f"{file} does not hold projections of the zoo: it has no {error}.") from None
        except (ArtifactError, TypeError) as error:
            raise ArtifactError(f"{file} is damaged: {error}") from None


def check_same_model(artifact: Artifact, method: str, digest: str, what: str) -> None:
    """Refuse codes of one model for another.

    Args:
        artifact: The model.
        method: Name of the method that the codes belong to.
        digest: Hash of their model file.
        what: What they are, plural.

    Raises:
        DataError: They are another model's.
    """
    if method != artifact.method.name or digest != artifact.sha256:
        raise DataError(
            f"The {what} were made with another model ({method}, {digest[:12]}) than the one given "
            f"({artifact.method.name}, {str(artifact.sha256)[:12]}); codes of two models mean different things."
        )


def _misfit(projections: Projections) -> str:
    """Return what does not fit together, or an empty string."""
    count = len(projections.rows)
    tensors = {"codes": projections.codes, "image": projections.image, "reconstruction": projections.reconstruction}
    tensors |= {f"noise_{number}": planes for number, planes in enumerate(projections.noise)}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            return f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not float32"
        if not tensor.dim() or len(tensor) != count:
            return f"{name} is {list(tensor.shape)} for {count} rows"
        if not tensor.isfinite().all():
            return f"{name} holds NaN or infinite values"
    dims = projections.image.dim()
    if dims not in (4, 5) or projections.image.shape != projections.reconstruction.shape:
        return f"image is {list(projections.image.shape)}, reconstruction {list(projections.reconstruction.shape)}"
    if projections.codes.dim() < 2:
        return f"codes are {list(projections.codes.shape)}, not [N, *code]"
    for number, planes in enumerate(projections.noise):
        if planes.dim() != dims or planes.shape[1] != 1:
            return f"noise_{number} is {list(planes.shape)} for images {list(projections.image.shape)}"
    for text in (projections.method, projections.model_sha256):
        if not isinstance(text, str):
            return f"method and model_sha256 are text, not {text!r}"
    for number, row in enumerate(projections.rows):
        for key, kind in _ROW.items():
            if not isinstance(row, Mapping) or not isinstance(row.get(key), kind):  # type: ignore[arg-type]
                return f"row {number} has no proper {key}"
    return ""
