"""Does an exported model still do its task? Whole results beside those of torch in float32, the noise fixed.

A task's gate is found by its verb in `GATES`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.artifact import Artifact
from zoo.config import DataConfig
from zoo.descriptors import resolve
from zoo.errors import DataError, TaskGateError
from zoo.export import untrained
from zoo.imaging.phantom import SPACINGS_MM, make_subject
from zoo.imaging.preprocessing import fit_intensity
from zoo.metrics.image import MAX_PSNR, inpainting_metrics, ssim_map
from zoo.sampling import seed_for
from zoo.tasks import Parts

FILL_LIMITS = {"fp32": (60.0, 0.9999), "fp16": (40.0, 0.99), "bf16": (40.0, 0.99)}
"""Least PSNR (dB) and SSIM inside the mask by precision.

A filler is about 30 dB from the truth. Fills that differ by 40 dB add a tenth to that error, 0.4 dB; by 60 dB a
thousandth.
"""

SAMPLE_LIMITS = {"fp32": (60.0, 0.9999), "fp16": (40.0, 0.99), "bf16": (34.0, 0.97)}
"""Least PSNR (dB) and SSIM of generated images by precision; 34 dB is 2 % of the intensity range, an image's noise."""

_SAMPLES = 4
_FILL_SECONDS = 20.0
_SEED = 11


def check_tasks(
    artifact: Artifact, parts: Parts, precision: str, progress: Callable[[int, int], None]
) -> dict[str, dict[str, Any]]:
    """Run the gate of every task that the method offers.

    Args:
        artifact: The model.
        parts: Its parts on the backend in question.
        precision: Theirs.
        progress: Called with (steps done, steps in all).

    Returns:
        By verb: the figures and their limits, or ``skipped`` with the reason.

    Raises:
        TaskGateError: Results differ by more than the task allows.
    """
    if untrained(artifact):
        return {verb: {"skipped": "the weights are random"} for verb in _tasks(artifact)}
    return {
        verb: GATES[verb](artifact, parts, precision, progress)
        if verb in GATES
        else {"skipped": f"there is no gate for the task {verb!r}"}
        for verb in _tasks(artifact)
    }


def _tasks(artifact: Artifact) -> list[str]:
    return list(artifact.method.tasks)


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


def sample_gate(
    artifact: Artifact, parts: Parts, precision: str, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Generate the same images with torch and with ``parts``, one a call, and compare them."""
    task = artifact.method.task("sample")
    run, options = resolve(task.run), resolve(task.options)(seed=_SEED)
    reference = artifact.parts()
    seeds = [seed_for(_SEED, number) for number in range(_SAMPLES)]
    images = []
    for number, seed in enumerate(seeds):
        images.append([run(backend, artifact.config, [seed], options).images for backend in (reference, parts)])
        progress(number + 1, _SAMPLES)
    expected, found = (torch.cat(some) for some in zip(*images, strict=True))
    psnr, ssim = image_fidelity(found, expected)
    what = f"An image generated with {precision} parts"
    return _judged(psnr, ssim, SAMPLE_LIMITS[precision], what, f"{_SAMPLES} generated images")


def _judged(psnr: float, ssim: float, limits: tuple[float, float], what: str, where: str) -> dict[str, Any]:
    """Return the figures of a gate that is passed, with its limits; raise where it is not."""
    least_psnr, least_ssim = limits
    if not (psnr >= least_psnr and ssim >= least_ssim):
        raise TaskGateError(
            f"{what} differs from torch's in float32 ({where}): PSNR {psnr:.1f} dB and SSIM {ssim:.4f}; "
            f"{least_psnr:g} dB and {least_ssim:g} are the least."
        )
    return {"psnr": psnr, "ssim": ssim, "least": {"psnr": least_psnr, "ssim": least_ssim}, "on": where}


def image_fidelity(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return mean PSNR (dB, at most `MAX_PSNR`) and mean SSIM of images ``[N, C, *spatial]`` in [-1, 1]."""
    error = (found.double() - expected.double()).square().flatten(1).mean(1)
    psnr = (10 * torch.log10(4 / error.clamp(min=1e-30))).clamp(max=MAX_PSNR)
    return float(psnr.mean()), float(ssim_map(found, expected).mean())


def patient(data: DataConfig) -> tuple[Tensor, Tensor]:
    """Return a synthetic patient as a model takes one: image ``[C, i, j, k]`` in [-1, 1] and lesions ``[i, j, k]``.

    Raises:
        DataError: The phantom lacks a contrast.
    """
    spacing = min(SPACINGS_MM, key=lambda choice: abs(choice - (data.spacing_mm or 2.0)))
    subject = make_subject(0, seed=_SEED, spacing_mm=spacing, group="MS")
    if unknown := [contrast for contrast in data.contrasts if contrast not in subject.images]:
        raise DataError(f"the phantom has no {unknown[0]}")
    channels = [subject.images[contrast].astype(np.float32) for contrast in data.contrasts]
    spacings = (spacing, spacing, spacing)
    encoded = [
        fit_intensity(values, spacings, data.scaling, data.percentile, data.noise_floor).encode(values)
        for values in channels
    ]
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


GATES: Mapping[str, Callable[..., dict[str, Any]]] = {"fill": fill_gate, "sample": sample_gate}
