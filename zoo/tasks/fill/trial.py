"""The verb ``fill`` on a synthetic patient."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from zoo.descriptors import Parts, resolve
from zoo.models.artifact import Artifact
from zoo.progress import Progress
from zoo.tasks.fill.protocol import FillOptions
from zoo.tasks.trial import Trial, phantom_patient

FILL_LIMITS = {"fp32": (60.0, 0.9999), "fp16": (40.0, 0.99), "bf16": (40.0, 0.99)}
"""Least PSNR (dB) and SSIM inside the mask by precision.

A filler is about 30 dB from the truth. Fills that differ by 40 dB add a tenth to that error, 0.4 dB; by 60 dB a
thousandth.
"""


def fill_trial(artifact: Artifact, options: FillOptions) -> Trial:
    """Return the filling of a phantom patient's lesions."""
    run = resolve(artifact.method.task("fill").run)

    def inputs(count: int) -> dict[str, Tensor]:
        image, lesions = phantom_patient(artifact.config.data)
        return {"image": image, "mask": lesions}

    def fill(parts: Parts, inputs: Mapping[str, Tensor], progress: Progress | None) -> Tensor:
        return run(parts, artifact.config, inputs["image"], inputs["mask"], options, progress)[None]

    contrasts = ", ".join(artifact.config.data.contrasts)
    return Trial(
        inputs=inputs, run=fill, on=f"inside lesions of a phantom patient, {contrasts}", region="mask",
        limits=FILL_LIMITS,
    )  # fmt: skip
