"""Filling lesions with a trained denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.config import validate
from zoo.errors import ConfigError, DataError
from zoo.randomness import Randomness, seed_for
from zoo.system.cuda_graph import can_record, device_of, replayed
from zoo.tasks import Parts, Progress
from zoo_lesion_diffusion.config import (
    DenoiserConfig,
    FillingConfig,
    FillingOptions,
    NoiseConfig,
    PriorConfig,
    PriorOptions,
    RepaintConfig,
    SamplingConfig,
    WindowOptions,
)
from zoo_lesion_diffusion.repaint import repaint
from zoo_lesion_diffusion.samplers import SAMPLERS, Noise, draws
from zoo_lesion_diffusion.schedule import NoiseSchedule
from zoo_lesion_diffusion.windows import Window, context, cover, crop, slices_to_channels

_SLICE, _WINDOW = range(2)

LONGEST_GRAPH = 100
"""Most steps that are recorded as one CUDA graph, which holds every kernel; longer walks replay the network alone."""

Sample = Callable[[list[Window], Tensor, Randomness, Progress], Tensor]
"""Fills a batch of windows: ``(windows, noise, random, progress) -> images``, the shapes of `sample_windows`."""


def noise_schedule(config: DenoiserConfig) -> NoiseSchedule:
    """Return the noise schedule of the settings."""
    return NoiseSchedule(config.diffusion.steps, config.diffusion.beta_start, config.diffusion.beta_end)


def fill(
    parts: Parts,
    config: FillingConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: FillingOptions,
    progress: Progress | None = None,
    *,
    white_matter: Tensor | None = None,
) -> Tensor:
    """Fill the lesions of a volume; see `zoo.tasks.FillTask`. White matter is not looked at.

    Only windows that hold lesions are seen by the network, in batches. A slice's noise depends on the seed and on
    the slice alone, so windows that overlap agree, and neither the batch size nor another lesion changes the result.

    Raises:
        DataError: The volume has fewer slices than the network's slab.

    Source: Uhr 2024, section 3.2 "Conditional Lesion Filling". Departures: windows instead of whole slices where
    the network was trained on windows; slabs overlap and are blended, and share the noise of a slice.
    """
    asked = _full_noise(options.model_dump(include={"solver", "steps", "start"}, exclude_none=True))
    sampling = validate(SamplingConfig, {**config.sampling.model_dump(), **asked}, what="a fill with lesion-filling")
    if sampling.start < 1 and not config.diffusion.residual_scale:
        raise ConfigError(
            f"A fill begins at start {sampling.start:g} only with a model that diffuses the difference to a biharmonic "
            "fill (diffusion.residual_scale); this one does not. Leave start at 1."
        )
    volume, mask = _slices_first(image, lesion_mask, config)
    known = context(volume, mask, config)

    denoiser = parts["denoiser"]
    device = device_of(denoiser)

    def sample(windows: list[Window], noise: Tensor, random: Randomness, report: Progress) -> Tensor:
        wider = [window.from_slice(window.origin[0] - config.neighbours) for window in windows]
        beside = _crops(known, wider, config, config.seen_slices, -1).to(device)
        holes = _crops(mask[None], wider, config, config.seen_slices, False).to(device)
        return sample_windows(denoiser, config, beside, holes, noise.to(device), sampling, random, report)

    return _fill_windows(sample, volume, mask, config, _fitting(options, denoiser), progress)


def fill_with_prior(
    parts: Parts,
    config: PriorConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: PriorOptions,
    progress: Progress | None = None,
    *,
    white_matter: Tensor | None = None,
) -> Tensor:
    """Fill the lesions of a volume by RePaint; windows, batches and seeds as for `fill`, white matter is not looked at.

    Raises:
        ConfigError: The jumps do not fit into the steps.
        DataError: The volume has fewer slices than the network's slab.

    Source: Lugmayr et al. 2022; Uhr 2024, section 3.2 "Unconditional Lesion Filling". Departures: windows, and slabs
    that overlap and are blended; only the noise of the start is shared where they overlap.
    """
    asked = _full_noise(options.model_dump(include={"steps", "jump_length", "resamples"}, exclude_none=True))
    sampling = validate(RepaintConfig, {**config.sampling.model_dump(), **asked}, what="a fill with lesion-prior")
    volume, mask = _slices_first(image, lesion_mask, config)

    denoiser = parts["denoiser"]
    device = device_of(denoiser)

    def sample(windows: list[Window], noise: Tensor, random: Randomness, report: Progress) -> Tensor:
        known = _crops(volume, windows, config, config.slab, -1).to(device)
        hole = _crops(mask[None], windows, config, config.slab, False).bool().to(device)
        return repaint_windows(denoiser, config, known, hole, noise.to(device), sampling, random, report)

    return _fill_windows(sample, volume, mask, config, _fitting(options, denoiser), progress)


def _full_noise(asked: dict[str, Any]) -> dict[str, Any]:
    """Return options with the spacing that begins at full noise, if another solver or other steps are asked for.

    A model's recorded ``leading`` belongs to its recorded steps; one or two of them would begin at the end.
    """
    return {**asked, "spacing": "trailing"} if asked.keys() & {"solver", "steps"} else asked


def _even_timesteps(schedule: NoiseSchedule, sampling: SamplingConfig | RepaintConfig, start: float) -> list[int]:
    """Return evenly spaced timesteps by the settings' spacing."""
    spacing = schedule.leading_timesteps if sampling.spacing == "leading" else schedule.timesteps
    return spacing(sampling.steps, start)


def _fitting(options: WindowOptions, denoiser: Callable[..., Tensor]) -> WindowOptions:
    """Return options with no larger batches than an engine takes, which changes no result."""
    largest = getattr(denoiser, "largest_batch", options.batch_size)
    return options.model_copy(update={"batch_size": min(options.batch_size, largest)})


def _slices_first(image: Tensor, lesion_mask: Tensor, config: DenoiserConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the image as ``[C, K, I, J]`` and the mask as ``[K, I, J]``, if there are slices enough."""
    volume = np.ascontiguousarray(image.permute(0, 3, 1, 2).numpy())
    slices = volume.shape[1]
    if slices < config.slab:
        raise DataError(f"The image has {slices} slices; this model sees {config.slab} together and needs as many.")
    return volume, lesion_mask.permute(2, 0, 1).numpy()


def _fill_windows(
    sample: Sample,
    volume: np.ndarray,
    mask: np.ndarray,
    config: DenoiserConfig,
    options: WindowOptions,
    progress: Progress | None,
) -> Tensor:
    """Cover the mask by windows, fill them in batches and put them together: ``[C, i, j, k]``."""
    windows = cover(mask, config.window, config.slab)
    noise = _SliceNoise(options.seed, (len(volume), *volume.shape[2:]), config.window)
    total = np.zeros_like(volume)
    weight = np.zeros(mask.shape, np.float32)
    # Where slabs overlap, the one whose middle is nearer counts more.
    ramp = 1 - np.abs(np.linspace(-1, 1, config.slab + 2)[1:-1])[:, None, None].astype(np.float32)
    batches = math.ceil(len(windows) / options.batch_size)
    for number in range(batches):
        chosen = windows[number * options.batch_size : (number + 1) * options.batch_size]
        start = np.stack([noise.window(window.origin, config.slab) for window in chosen])
        random = Randomness([seed_for(options.seed, _WINDOW, *_unsigned(window.origin)) for window in chosen])

        def report(done: int, of: int, before: int = number) -> None:
            if progress:
                progress(before * of + done, batches * of)

        filled = sample(chosen, _as_input(start, config), random, report)
        filled = filled[:, :, None] if config.network == "2d" else filled
        for window, result in zip(chosen, filled.cpu().numpy(), strict=True):
            first, row, column = window.origin
            top, bottom, left, right = window.core
            here = np.s_[first : first + config.slab, top:bottom, left:right]
            total[(slice(None), *here)] += ramp * result[:, :, top - row : bottom - row, left - column : right - column]
            weight[here] += ramp
    blended = total / np.maximum(weight, 1e-12)
    return torch.from_numpy(np.where(mask, blended, volume)).permute(0, 2, 3, 1)


def _crops(volume: np.ndarray, windows: list[Window], config: DenoiserConfig, slices: int, outside: float) -> Tensor:
    """Cut windows of ``slices`` slices out of ``[C, K, I, J]``, as the network takes them."""
    return _as_input(np.stack([crop(volume, window, config.window, slices, outside) for window in windows]), config)


def _as_input(stack: np.ndarray, config: DenoiserConfig) -> Tensor:
    """Return ``[B, C, S, H, W]`` as float32, for a 2D network ``[B, S·C, H, W]``."""
    return torch.from_numpy((slices_to_channels(stack) if config.network == "2d" else stack).astype(np.float32))


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


def middle(stack: Tensor, config: FillingConfig) -> Tensor:
    """Return what belongs to the slices that are filled, without their neighbours; shapes as in `sample_windows`."""
    if stack.dim() == 5:
        return stack
    width = stack.shape[1] // config.seen_slices
    return stack.narrow(1, config.neighbours * width, width)


def sample_windows(
    denoiser: Callable[..., Tensor],
    config: FillingConfig,
    known: Tensor,
    mask: Tensor,
    noise: Tensor,
    sampling: SamplingConfig,
    random: Randomness,
    progress: Progress | None = None,
) -> Tensor:
    """Fill the holes of a batch of windows.

    Args:
        denoiser: The part: ``(noisy, context, lesion_mask, timestep) -> epsilon`` or velocity.
        config: Settings of the model.
        known: The context, float32 ``[B, S·C, H, W]`` or ``[B, C, D, H, W]`` in [-1, 1], as in `FillingExamples`.
        mask: float32 ``[B, S, H, W]`` or ``[B, 1, D, H, W]`` of zeros and ones.
        noise: Standard normal, ``[B, C, (D,) H, W]``.
        sampling: Solver, steps, and where they begin.
        random: Noise of solvers that add some in every step.
        progress: Called with (steps done, steps in all).

    Returns:
        float32 of the shape of ``noise``; outside the mask as the solver leaves it.

    Source: Uhr 2024, section 3.2. With ``diffusion.keep_known`` the noise prediction outside the mask is replaced
    by the one that leads to the known image (after RePaint's equation 3.7), since a network trained on the mask
    alone predicts none there.
    """
    schedule = noise_schedule(config)
    scale = config.diffusion.residual_scale
    if sampling.solver == "dpm-solver++":  # its error is even in log-SNR
        timesteps = schedule.log_snr_timesteps(sampling.steps, sampling.start)
    else:
        timesteps = _even_timesteps(schedule, sampling, sampling.start)

    def solve(
        network: Callable[..., Tensor], noise: Tensor, known: Tensor, mask: Tensor, draw: Noise, report: Progress | None
    ) -> Tensor:
        base = middle(known, config)
        outside = torch.zeros_like(base) if scale else base
        hole = middle(mask, config).bool()

        def denoise(x: Tensor, timestep: Tensor) -> Tensor:
            epsilon = epsilon_of(network(x, known, mask, timestep), x, timestep, config.diffusion, schedule)
            if not config.diffusion.keep_known:
                return epsilon
            return torch.where(hole, epsilon, schedule.epsilon_from_x0(x, outside, timestep))

        x = noise
        if config.diffusion.keep_known:
            first = torch.full((len(known),), timesteps[0], device=known.device)
            noisy = schedule.add_noise(outside, noise, first)
            x = noisy if scale else torch.where(hole, noise, noisy)  # no difference is where to begin, if not all noise
        # A difference may be larger than its scale; the image is clipped instead.
        sampler = SAMPLERS[sampling.solver]
        x = sampler(denoise, x, schedule, timesteps, noise=draw, clip=not scale, progress=report)
        return (base + scale * x).clamp(-1, 1) if scale else x

    if not can_record(denoiser) or len(timesteps) > LONGEST_GRAPH:
        network = partial(replayed, denoiser, "denoiser", denoiser)
        return solve(network, noise, known, mask, lambda shape: random.normal(shape[1:]), progress)

    def recorded(noise: Tensor, known: Tensor, mask: Tensor, *fresh: Tensor) -> Tensor:
        drawn = iter(fresh)
        return solve(denoiser, noise, known, mask, lambda _: next(drawn), None)

    fresh = [random.normal(noise.shape[1:]).to(noise) for _ in range(draws(sampling.solver, timesteps))]
    filled = replayed(denoiser, (config.model_dump_json(), str(sampling)), recorded, noise, known, mask, *fresh)
    if progress:
        progress(len(timesteps), len(timesteps))
    return filled


def repaint_windows(
    denoiser: Callable[..., Tensor],
    config: PriorConfig,
    known: Tensor,
    hole: Tensor,
    noise: Tensor,
    sampling: RepaintConfig,
    random: Randomness,
    progress: Progress | None = None,
) -> Tensor:
    """Fill the holes of a batch of windows with an unconditional denoiser.

    Args:
        denoiser: The part: ``(noisy, timestep) -> epsilon`` or velocity.
        config: Settings of the model.
        known: The image, float32 ``[B, C, (D,) H, W]`` in [-1, 1]; what it holds in the hole is not used.
        hole: bool ``[B, 1, (D,) H, W]``.
        noise: Standard normal, of the shape of ``known``.
        sampling: Steps and jumps.
        random: Noise of the moves.
        progress: Called with (evaluations done, evaluations in all).

    Returns:
        float32 of the shape of ``known``, and outside the hole equal to it.
    """
    schedule = noise_schedule(config)
    return repaint(
        lambda x, timestep: epsilon_of(
            replayed(denoiser, "denoiser", denoiser, x, timestep), x, timestep, config.diffusion, schedule
        ),
        noise,
        known,
        hole,
        schedule,
        _even_timesteps(schedule, sampling, start=1.0),
        jump_length=sampling.jump_length,
        resamples=sampling.resamples,
        noise=lambda shape: random.normal(shape[1:]),
        progress=progress,
    )


def epsilon_of(
    predicted: Tensor, x: Tensor, timestep: Tensor, diffusion: NoiseConfig, schedule: NoiseSchedule
) -> Tensor:
    """Return the noise in ``x`` that a network's output means, on the device and in the precision of ``x``."""
    predicted = predicted.to(x)
    if diffusion.prediction == "velocity":
        return schedule.epsilon_from_velocity(x, predicted, timestep)
    return predicted
