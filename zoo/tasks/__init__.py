"""What a user can ask of a trained model: one folder per verb, with its signature and options in ``protocol.py``.

A method's task works on tensors on the model's grid and calls parts; it knows no file, no backend and no scanner
units. The host reads, conforms and scales the images before, and afterwards writes the result on its own grid.
"""

from __future__ import annotations

from zoo.descriptors import Parts
from zoo.progress import Progress
from zoo.tasks.edit.protocol import EditOptions, EditTask, LatentTask
from zoo.tasks.fill.protocol import FillOptions, FillTask
from zoo.tasks.project.protocol import Distance, Placed, Projected, ProjectOptions, ProjectTask
from zoo.tasks.sample.protocol import SampleOptions, Samples, SampleTask

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
    "SampleOptions",
    "SampleTask",
    "Samples",
]
