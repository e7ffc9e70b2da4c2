"""Filling lesions with a trained denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.sampling import Randomness, seed_for
from zoo.tasks import Parts, Progress
from zoo_lesion_diffusion.config import FillingConfig, FillingOptions
from zoo_lesion_diffusion.samplers import SAMPLERS
from zoo_lesion_diffusion.schedule import NoiseSchedule
from zoo_lesion_diffusion.windows import cover, crop

_SLICE, _WINDOW = range(2)


def noise_schedule(config: FillingConfig) -> NoiseSchedule:
    """Return the noise schedule of the settings."""
    return NoiseSchedule(config.diffusion.steps, config.diffusion.beta_start, config.diffusion.beta_end)


def fill(
    parts: Parts,
    config: FillingConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: FillingOptions,
    progress: Progress | None = None,
) -> Tensor:
    """Fill the lesions of a volume; see `zoo.tasks.FillTask`.

    Only windows that hold lesions are seen by the network, in batches. A slice's noise depends on the seed and on
    the slice alone, so windows that overlap agree, and neither the batch size nor another lesion changes the result.

    Raises:
        DataError: The volume has fewer slices than the network's slab.

    Source: Uhr 2024, section 3.2 "Conditional Lesion Filling". Departures: windows instead of whole slices where
    the network was trained on windows; slabs overlap and are blended, and share the noise of a slice.
    """
    volume = image.permute(0, 3, 1, 2).numpy()  # [C, K, I, J]
    mask = lesion_mask.permute(2, 0, 1).numpy()
    channels, slices = volume.shape[:2]
    if slices < config.slab:
        raise DataError(f"The image has {slices} slices; this model sees {config.slab} together and needs as many.")
    windows = cover(mask, config.size, config.slab)
    solver, steps = options.solver or config.sampling.solver, options.steps or config.sampling.steps
    noise = _SliceNoise(options.seed, (channels, *volume.shape[2:]), config.size)
    total = np.zeros_like(volume)
    weight = np.zeros(mask.shape, np.float32)
    # Where slabs overlap, the one whose middle is nearer counts more.
    ramp = 1 - np.abs(np.linspace(-1, 1, config.slab + 2)[1:-1])[:, None, None].astype(np.float32)
    batches = math.ceil(len(windows) / options.batch_size)
    flat = config.network == "2d"
    for number in range(batches):
        chosen = windows[number * options.batch_size : (number + 1) * options.batch_size]
        seen = np.stack([crop(volume, window, config.size, config.slab, -1) for window in chosen])
        holes = np.stack([crop(mask[None], window, config.size, config.slab, False) for window in chosen])
        start = np.stack([noise.window(window.origin, config.slab) for window in chosen])
        tensors = [torch.from_numpy(array.astype(np.float32)) for array in (seen, holes, start)]
        known, hole, initial = (tensor[:, :, 0] for tensor in tensors) if flat else tensors
        random = Randomness([seed_for(options.seed, _WINDOW, *_unsigned(window.origin)) for window in chosen])

        def report(done: int, of: int, before: int = number) -> None:
            if progress:
                progress(before * of + done, batches * of)

        filled = sample_windows(parts["denoiser"], config, known, hole, initial, solver, steps, random, report)
        filled = filled[:, :, None] if flat else filled
        for window, result in zip(chosen, filled.cpu().numpy(), strict=True):
            first, row, column = window.origin
            top, bottom, left, right = window.core
            here = np.s_[first : first + config.slab, top:bottom, left:right]
            total[(slice(None), *here)] += ramp * result[:, :, top - row : bottom - row, left - column : right - column]
            weight[here] += ramp
    blended = total / np.maximum(weight, 1e-12)
    return torch.from_numpy(np.where(mask, blended, volume)).permute(0, 2, 3, 1)


def _unsigned(origin: tuple[int, int, int]) -> tuple[int, ...]:
    """Return an origin as keys of a seed, which may not be negative."""
    return tuple(index % 2**32 for index in origin)


class _SliceNoise:
    """Noise that belongs to a slice and a place in it, whichever window asks."""

    def __init__(self, seed: int, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
        self.seed = seed
        self.margin = size
        channels, rows, columns = shape
        self.shape = (channels, rows + 2 * size[0], columns + 2 * size[1])
        self.slices: dict[int, np.ndarray] = {}

    def window(self, origin: tuple[int, int, int], slab: int) -> np.ndarray:
        """Return ``[C, slab, H, W]``."""
        first, row, column = origin
        height, width = self.margin
        top, left = row + height, column + width
        planes = [
            self._slice(index)[:, top : top + height, left : left + width] for index in range(first, first + slab)
        ]
        return np.stack(planes, axis=1)

    def _slice(self, index: int) -> np.ndarray:
        if index not in self.slices:
            random = Randomness([seed_for(self.seed, _SLICE, index)])
            self.slices[index] = random.normal(self.shape)[0].numpy()
        return self.slices[index]


def sample_windows(
    denoiser: Callable[..., Tensor],
    config: FillingConfig,
    image: Tensor,
    mask: Tensor,
    noise: Tensor,
    solver: str,
    steps: int,
    random: Randomness,
    progress: Progress | None = None,
) -> Tensor:
    """Fill the holes of a batch of windows.

    Args:
        denoiser: The part: ``(noisy, voided, lesion_mask, timestep) -> epsilon``.
        config: Settings of the model.
        image: float32 ``[B, C, (D,) H, W]`` in [-1, 1]; what stands inside the mask is not used.
        mask: float32 ``[B, 1, (D,) H, W]`` of zeros and ones.
        noise: Standard normal, of the shape of ``image``.
        solver: Key of `SAMPLERS`.
        steps: Network evaluations.
        random: Noise of solvers that add some in every step.
        progress: Called with (steps done, steps in all).

    Returns:
        float32 of the shape of ``image``; outside the mask as the solver leaves it.

    Source: Uhr 2024, section 3.2. With ``diffusion.keep_known`` the noise prediction outside the mask is replaced
    by the one that leads to the known image (after RePaint's equation 3.7), since a network trained on the mask
    alone predicts none there.
    """
    schedule = noise_schedule(config)
    voided = image * (1 - mask)
    # The solver's steps are even in log-SNR, where its error is; the others keep the thesis' spacing.
    timesteps = schedule.log_snr_timesteps(steps) if solver == "dpm-solver++" else schedule.timesteps(steps)
    hole = mask.bool()

    def denoise(x: Tensor, timestep: Tensor) -> Tensor:
        epsilon = denoiser(x, voided, mask, timestep).float()
        if not config.diffusion.keep_known:
            return epsilon
        alpha_bar = float(schedule.alpha_bar[int(timestep[0])])
        known = (x - math.sqrt(alpha_bar) * voided) / math.sqrt(1 - alpha_bar)
        return torch.where(hole, epsilon, known)

    x = noise
    if config.diffusion.keep_known:
        first = torch.full((len(image),), timesteps[0], device=image.device)
        x = torch.where(hole, noise, schedule.add_noise(voided, noise, first))
    return SAMPLERS[solver](
        denoise, x, schedule, timesteps, noise=lambda shape: random.normal(shape[1:]), progress=progress
    )
