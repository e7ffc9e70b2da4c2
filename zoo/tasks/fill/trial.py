"""Filling a synthetic patient: what exports and benchmarks run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.config import DataConfig
from zoo.descriptors import Parts, resolve
from zoo.errors import DataError
from zoo.imaging.phantom import SPACINGS_MM, make_subject
from zoo.imaging.preprocessing import scale_intensity
from zoo.metrics.image import inpainting_metrics
from zoo.models.artifact import Artifact
from zoo.tasks.sample.trial import _judged

FILL_LIMITS = {"fp32": (60.0, 0.9999), "fp16": (40.0, 0.99), "bf16": (40.0, 0.99)}
"""Least PSNR (dB) and SSIM inside the mask by precision.

A filler is about 30 dB from the truth. Fills that differ by 40 dB add a tenth to that error, 0.4 dB; by 60 dB a
thousandth.
"""


_FILL_SECONDS = 20.0


_SEED = 11


def fill_gate(artifact: Artifact, parts: Parts, precision: str, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Fill a synthetic patient with torch and with ``parts``, and compare inside the mask, slice by slice."""
    contrasts = artifact.config.data.contrasts
    assert artifact.path is not None
    case = _fill_case(artifact.path, artifact.sha256 or "")
    if isinstance(case, str):
        return {"skipped": case}
    image, mask, lesions, expected = case
    filled = _fill(artifact, parts, image, mask, progress)
    slices = mask.flatten(0, 1).any(dim=0).nonzero().flatten()
    found, truth, hole = (
        volume[..., slices].movedim(-1, 0) for volume in (filled.clamp(-1, 1), expected.clamp(-1, 1), mask[None])
    )
    measured = inpainting_metrics(found, truth, hole)
    psnr, ssim = float(measured["psnr_in"].mean()), float(measured["ssim_in"].mean())
    where = f"inside lesions of a phantom patient, {', '.join(contrasts)}, {len(slices)} of {lesions} slices"
    return _judged(psnr, ssim, FILL_LIMITS[precision], f"A patient filled with {precision} parts", where)


def patient(data: DataConfig) -> tuple[Tensor, Tensor]:
    """Return a synthetic patient as a model takes one: image ``[C, i, j, k]`` in [-1, 1] and lesions ``[i, j, k]``.

    Raises:
        DataError: The phantom lacks a contrast.
    """
    spacing = min(SPACINGS_MM, key=lambda choice: abs(choice - (data.finest_mm or 2.0)))
    subject = make_subject(0, seed=_SEED, spacing_mm=spacing, group="MS")
    if unknown := [contrast for contrast in data.inputs if contrast not in subject.images]:
        raise DataError(f"the phantom has no {unknown[0]}")
    given = {contrast: subject.images[contrast].astype(np.float32) for contrast in data.inputs}
    scaled = [scale_intensity(contrast, given, (spacing, spacing, spacing), data) for contrast in data.contrasts]
    encoded = [intensity.encode(values) for values, intensity in scaled]
    return torch.from_numpy(np.stack(encoded)), torch.from_numpy(subject.lesion_mask.copy())


@functools.lru_cache(maxsize=1)
def _fill_case(file: Path, digest: str) -> tuple[Tensor, Tensor, int, Tensor] | str:
    """Return image ``[C, i, j, k]``, mask, number of slices with lesions, and torch's fill; or why there is none.

    Where filling all of the mask would take longer than `_FILL_SECONDS`, the slices with most of it are filled alone.
    """
    artifact = Artifact.open(file)
    try:
        image, mask = patient(artifact.config.data)
    except DataError as error:
        return str(error)
    held = mask.flatten(0, 1).sum(dim=0)
    slices = int((held > 0).sum())
    parts = artifact.parts()
    kept = slices
    while True:
        mask[..., held.argsort(descending=True, stable=True)[kept:]] = False
        try:
            return image, mask, slices, _fill(artifact, parts, image, mask, _stop_if_long(kept > 1))
        except _TooLong as long:
            kept = max(min(int(kept * long.share), kept - 1), 1)


class _TooLong(Exception):
    """A fill that would take longer than `_FILL_SECONDS`; ``share`` is what of it would not."""

    def __init__(self, share: float) -> None:
        self.share = share


def _stop_if_long(may_stop: bool) -> Callable[[int, int], None]:
    started = time.perf_counter()

    def report(done: int, total: int) -> None:
        expected = (time.perf_counter() - started) / done * total
        if may_stop and expected > _FILL_SECONDS:
            raise _TooLong(_FILL_SECONDS / expected)

    return report


def _fill(
    artifact: Artifact, parts: Parts, image: Tensor, mask: Tensor, progress: Callable[[int, int], None]
) -> Tensor:
    task = artifact.method.task("fill")
    options = resolve(task.options)(seed=_SEED)
    return resolve(task.run)(parts, artifact.config, image, mask, options, progress)
