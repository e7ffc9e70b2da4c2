"""Generating a few images: what exports and benchmarks run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.descriptors import Parts, resolve
from zoo.errors import TaskGateError
from zoo.metrics.image import psnr, ssim_map
from zoo.models.artifact import Artifact
from zoo.randomness import seed_for

SAMPLE_LIMITS = {"fp32": (60.0, 0.9999), "fp16": (40.0, 0.99), "bf16": (34.0, 0.97)}
"""Least PSNR (dB) and SSIM of generated images by precision; 34 dB is 2 % of the intensity range, an image's noise."""


_SAMPLES = 4


_SEED = 11


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


def image_fidelity(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return mean PSNR (dB, at most `MAX_PSNR`) and mean SSIM of images ``[N, C, *spatial]`` in [-1, 1]."""
    error = (found.double() - expected.double()).square().flatten(1).mean(1)
    return float(psnr(error).mean()), float(ssim_map(found, expected).mean())


def _judged(psnr: float, ssim: float, limits: tuple[float, float], what: str, where: str) -> dict[str, Any]:
    """Return the figures of a gate that is passed, with its limits; raise where it is not."""
    least_psnr, least_ssim = limits
    if not (psnr >= least_psnr and ssim >= least_ssim):
        raise TaskGateError(
            f"{what} differs from torch's in float32 ({where}): PSNR {psnr:.1f} dB and SSIM {ssim:.4f}; "
            f"{least_psnr:g} dB and {least_ssim:g} are the least."
        )
    return {"psnr": psnr, "ssim": ssim, "least": {"psnr": least_psnr, "ssim": least_ssim}, "on": where}
