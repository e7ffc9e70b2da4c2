"""What a user can ask of a trained model: one folder per verb, with its signature and options in ``protocol.py``.

A method's task works on tensors on the model's grid and calls parts; it knows no file, no backend and no scanner
units. The host reads, conforms and scales the images before, and afterwards writes the result on its own grid.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.descriptors import Parts
    from zoo.models.runtime import Runtime
    from zoo.progress import Progress
    from zoo.tasks.edit.protocol import EditOptions, EditTask
    from zoo.tasks.edit.task import LatentTask
    from zoo.tasks.fill.protocol import FillOptions, FillTask
    from zoo.tasks.image_to_image import image_to_image_files
    from zoo.tasks.images import Samples
    from zoo.tasks.project.protocol import Distance, Placed, Projected, ProjectOptions, ProjectTask
    from zoo.tasks.sample.protocol import SampleOptions, SampleTask
    from zoo.tasks.trial import Trial, phantom_patient

__all__ = [
    "Distance",
    "EditOptions",
    "EditTask",
    "FillOptions",
    "FillTask",
    "LatentTask",
    "Parts",
    "Placed",
    "Progress",
    "ProjectOptions",
    "ProjectTask",
    "Projected",
    "Runtime",
    "SampleOptions",
    "SampleTask",
    "Samples",
    "Trial",
    "image_to_image_files",
    "phantom_patient",
]

_MODULES = {
    "zoo.descriptors": ("Parts",),
    "zoo.models.runtime": ("Runtime",),
    "zoo.progress": ("Progress",),
    "zoo.tasks.edit.protocol": ("EditOptions", "EditTask"),
    "zoo.tasks.edit.task": ("LatentTask",),
    "zoo.tasks.fill.protocol": ("FillOptions", "FillTask"),
    "zoo.tasks.image_to_image": ("image_to_image_files",),
    "zoo.tasks.images": ("Samples",),
    "zoo.tasks.project.protocol": ("Distance", "Placed", "ProjectOptions", "ProjectTask", "Projected"),
    "zoo.tasks.sample.protocol": ("SampleOptions", "SampleTask"),
    "zoo.tasks.trial": ("Trial", "phantom_patient"),
}


def __getattr__(name: str) -> Any:
    # Imported on use: `zoo list` loads every plugin, and one that needs LatentTask must not pay for pydantic.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
