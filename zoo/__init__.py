"""A zoo of generative models for MRI: methods are plugins, the host knows none of them.

Importing ``zoo`` imports no torch. ``zoo.load("runs/…")`` opens a trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.descriptors import (
    Citation,
    Dataset,
    Evaluator,
    Exporter,
    Method,
    Part,
    Score,
    Stage,
    Task,
    TensorSpec,
    Verb,
    resolve,
)
from zoo.errors import ZooError
from zoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.models.artifact import Artifact

__version__ = "0.2.0"
__all__ = [
    "Citation",
    "Dataset",
    "Evaluator",
    "Exporter",
    "Method",
    "Part",
    "Score",
    "Stage",
    "Task",
    "TensorSpec",
    "Verb",
    "ZooError",
    "__version__",
    "hookimpl",
    "load",
    "resolve",
]


def load(path: str | Path) -> Artifact:
    """Open a trained model.

    Args:
        path: A run folder, a checkpoint folder, or a ``model.safetensors`` file.

    Raises:
        ArtifactError: There is no model, or it is damaged, newer than this version knows, or not written by the zoo.
        UnknownNameError: Its method is not installed; the message names the plugin to install.
    """
    from zoo.models.artifact import Artifact

    return Artifact.open(path)
