"""Trials: a verb on synthetic input, from a model's parts to images.

Exports are compared with torch by them, and benchmarks time them, so a verb describes its trial once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.descriptors import Parts, resolve
from zoo.errors import DataError
from zoo.progress import Progress
from zoo.registry import registry

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.config import DataConfig
    from zoo.models.artifact import Artifact

LIMITS: Mapping[str, tuple[float, float]] = {"fp32": (60.0, 0.9999), "fp16": (40.0, 0.99), "bf16": (34.0, 0.97)}
"""Least PSNR (dB) and SSIM by precision, for whole images; 34 dB is 2 % of the intensity range, an image's noise."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A verb on synthetic input. ``Verb.trial`` names the function ``(artifact, options) -> Trial``.

    Attributes:
        inputs: ``(count) -> inputs by name``: synthetic input, always the same. ``count`` is the number of samples
            of a batched trial, else 1. Raises `DataError` where there is no input for the model.
        run: ``(parts, inputs, progress) -> images``: the verb, whole. Images are float32 ``[N, C, *spatial]`` in
            [-1, 1]; ``progress`` is called with (network calls done, network calls in all), or is ``None``.
        on: What the images are, in words: ``"generated images"``.
        unit: What ``N`` counts, in the plural: ``"volumes"``, ``"samples"``.
        batched: Every input has one entry per sample along its first axis, so a batch is the first entries of each.
            An export is compared on four samples, one per call. Otherwise a run is one unit, and ``N`` is 1.
        region: Name of the input, bool ``[i, j, k]``, that says where the verb works; empty where the whole image
            counts. Images are then compared inside it, slice by slice, and an export may be compared on fewer slices.
        limits: Least PSNR (dB) and SSIM by precision.
    """

    inputs: Callable[[int], Mapping[str, Tensor]]
    run: Callable[[Parts, Mapping[str, Tensor], Progress | None], Tensor]
    on: str
    unit: str = "volumes"
    batched: bool = False
    region: str = ""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=lambda: LIMITS)

    def fidelity(self, found: Tensor, expected: Tensor, inputs: Mapping[str, Tensor]) -> tuple[float, float]:
        """Return mean PSNR (dB, at most 100) and mean SSIM of images ``[N, C, *spatial]``, within the region if any.

        Args:
            found: The images to judge.
            expected: Those of torch in float32.
            inputs: What they were made from.
        """
        from zoo.metrics.image import inpainting_metrics, psnr, ssim_map

        if not self.region:
            error = (found.double() - expected.double()).square().flatten(1).mean(1)
            return float(psnr(error).mean()), float(ssim_map(found, expected).mean())
        region = inputs[self.region]
        slices = slices_with(region)
        filled, truth, hole = (volume[..., slices].movedim(-1, 0) for volume in (found[0], expected[0], region[None]))
        measured = inpainting_metrics(filled, truth, hole)
        return float(measured["psnr_in"].mean()), float(measured["ssim_in"].mean())


def make_trial(
    artifact: Artifact, verb: str, options: Mapping[str, Any], *, what: str, seed: int | None = None
) -> Trial:
    """Return the trial of a verb for a model.

    Args:
        artifact: The model.
        verb: One with a trial.
        options: Of the method's task.
        what: What the options are for, in messages.
        seed: The option ``seed``, where the task has one.

    Raises:
        UnknownNameError: There is no such verb, or the method does not offer it.
        ConfigError: An option is unknown or out of range.
    """
    from zoo.config import validate

    kind = resolve(artifact.method.task(verb).options)
    if seed is not None and "seed" in kind.model_fields:
        options = {"seed": seed, **options}
    trial = registry().verbs[verb].trial
    assert trial is not None
    return resolve(trial)(artifact, validate(kind, options, what=what))


def slices_with(region: Tensor) -> Tensor:
    """Return the numbers of the slices along the last axis where a mask ``[i, j, k]`` is true anywhere."""
    return region.flatten(0, 1).any(dim=0).nonzero().flatten()


_SEED = 11


def phantom_patient(data: DataConfig) -> tuple[Tensor, Tensor]:
    """Return a synthetic patient as a model takes one.

    Args:
        data: Settings of the model's images: contrasts, voxel size and scaling.

    Returns:
        The image, float32 ``[C, i, j, k]`` in [-1, 1], and its lesions, bool ``[i, j, k]``.

    Raises:
        DataError: The phantom lacks a contrast.
    """
    import numpy as np
    import torch

    from zoo.imaging.phantom import SPACINGS_MM, make_subject
    from zoo.imaging.preprocessing import scale_intensity

    spacing = min(SPACINGS_MM, key=lambda choice: abs(choice - (data.finest_mm or 2.0)))
    subject = make_subject(0, seed=_SEED, spacing_mm=spacing, group="MS")
    if unknown := [contrast for contrast in data.inputs if contrast not in subject.images]:
        raise DataError(f"the phantom has no {unknown[0]}")
    given = {contrast: subject.images[contrast].astype(np.float32) for contrast in data.inputs}
    scaled = [scale_intensity(contrast, given, (spacing, spacing, spacing), data) for contrast in data.contrasts]
    encoded = [intensity.encode(values) for values, intensity in scaled]
    return torch.from_numpy(np.stack(encoded)), torch.from_numpy(subject.lesion_mask.copy())
