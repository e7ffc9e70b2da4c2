"""Filling the lesions of a volume with a trained denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.config import validate
from zoo.errors import ConfigError, DataError
from zoo.imaging.windows import Triple, Window, cover, crops, run_windows
from zoo.randomness import Randomness, seed_for
from zoo.system.cuda_graph import can_record, device_of, replayed
from zoo.tasks import Parts, Progress
from zoo_lesion_diffusion.conditions import context, slices_to_channels
from zoo_lesion_diffusion.config import (
    DenoiserConfig,
    FillingConfig,
    FillingOptions,
    PriorConfig,
    PriorOptions,
    RepaintConfig,
    SamplingConfig,
    WindowOptions,
)
from zoo_lesion_diffusion.samplers import count_draws
from zoo_lesion_diffusion.solve import PriorProblem, Problem, random_draws, solve, solve_by_repaint

_SLICE, _WINDOW = range(2)
"""What a seed is for; the key of `seed_for` after the seed of the fill."""

LONGEST_GRAPH = 100
"""Most steps recorded as one CUDA graph, which holds every kernel and the noise of every step; longer fills replay the
network alone and draw the noise of each step when it is needed."""

Sample = Callable[[Sequence[Window], Tensor, Randomness, Progress], Tensor]
"""Fills a batch of windows: ``(windows, noise, random, progress) -> images``, shapes as for `solve`."""


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
    """Fill the lesions of a volume; see `zoo.tasks.FillTask`. White matter is not used.

    The network sees only windows that hold lesions, in batches. A slice's noise depends on the seed and the slice
    alone, so overlapping windows agree, and neither the batch size nor another lesion changes the result.

    Raises:
        ConfigError: A start below full noise, for a model that does not diffuse the difference to a biharmonic fill.
        DataError: The volume has fewer slices than the network's slab.

    Source: Uhr 2024, section 3.2 "Conditional Lesion Filling". Departures: windows instead of whole slices if the
    network was trained on windows; slabs overlap, are blended, and share the noise of a slice.
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

    def sample(windows: Sequence[Window], noise: Tensor, random: Randomness, report: Progress) -> Tensor:
        seen = [window.extended(config.neighbours) for window in windows]
        conditions = _as_input(crops(known, seen, -1), config).to(device)
        holes = _as_input(crops(mask[None], seen, False), config).to(device)
        problem = Problem(config, sampling, conditions, holes)
        return sample_windows(denoiser, problem, noise.to(device), random, report)

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
    """Fill the lesions of a volume by RePaint; windows, batches and seeds as for `fill`. White matter is not used.

    Raises:
        ConfigError: The jumps do not fit into the steps.
        DataError: The volume has fewer slices than the network's slab.

    Source: Lugmayr et al. 2022; Uhr 2024, section 3.2 "Unconditional Lesion Filling". Departures: windows, and slabs
    that overlap and are blended; where they overlap they share only the noise of the start.
    """
    asked = _full_noise(options.model_dump(include={"steps", "jump_length", "resamples"}, exclude_none=True))
    sampling = validate(RepaintConfig, {**config.sampling.model_dump(), **asked}, what="a fill with lesion-prior")
    volume, mask = _slices_first(image, lesion_mask, config)
    denoiser = parts["denoiser"]
    device = device_of(denoiser)
    network = partial(replayed, denoiser, "denoiser", denoiser)

    def sample(windows: Sequence[Window], noise: Tensor, random: Randomness, report: Progress) -> Tensor:
        known = _as_input(crops(volume, windows, -1), config).to(device)
        hole = _as_input(crops(mask[None], windows, False), config).bool().to(device)
        problem = PriorProblem(config, sampling, known, hole)
        return solve_by_repaint(network, problem, noise.to(device), random_draws(random), report)

    return _fill_windows(sample, volume, mask, config, _fitting(options, denoiser), progress)


def sample_windows(
    denoiser: Callable[..., Tensor],
    problem: Problem,
    noise: Tensor,
    random: Randomness,
    progress: Progress | None = None,
) -> Tensor:
    """Fill a batch of windows by `solve`, replayed from a CUDA graph if the denoiser allows it.

    Args:
        denoiser: The part.
        problem: The windows, on the part's device.
        noise: As for `solve`, on the part's device.
        random: Noise of solvers that add some in every step.
        progress: Called with (steps done, steps in all).
    """
    sampling = problem.sampling
    if not can_record(denoiser) or sampling.steps > LONGEST_GRAPH:
        network = partial(replayed, denoiser, "denoiser", denoiser)
        return solve(network, problem, noise, random_draws(random), progress)

    def recorded(noise: Tensor, known: Tensor, mask: Tensor, *fresh: Tensor) -> Tensor:
        drawn = iter(fresh)
        return solve(denoiser, replace(problem, known=known, mask=mask), noise, lambda _: next(drawn))

    # A graph draws no random numbers, so the noise of all steps is drawn first.
    fresh = [random.normal(noise.shape[1:]).to(noise) for _ in range(count_draws(sampling.solver, sampling.steps))]
    key = (problem.config.model_dump_json(), str(sampling))
    filled = replayed(denoiser, key, recorded, noise, problem.known, problem.mask, *fresh)
    if progress:
        progress(sampling.steps, sampling.steps)
    return filled


def _full_noise(asked: dict[str, Any]) -> dict[str, Any]:
    """Return options with the spacing that begins at full noise, if another solver or other steps are asked for.

    A model's recorded ``leading`` belongs to its recorded steps; with one or two steps it would begin at the end.
    """
    return {**asked, "spacing": "trailing"} if asked.keys() & {"solver", "steps"} else asked


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
    """Cover the mask by windows, fill them in batches and blend them along the slices: ``[C, i, j, k]``."""
    size = (config.slab, *config.window)
    slice_noise = _SliceNoise(options.seed, (len(volume), *volume.shape[2:]), config.window)

    def filled(windows: Sequence[Window], report: Progress) -> np.ndarray:
        noise = np.stack([slice_noise.window(window) for window in windows])
        random = Randomness([seed_for(options.seed, _WINDOW, *_unsigned(window.start)) for window in windows])
        result = sample(windows, _as_input(noise, config), random, report).cpu().numpy()
        return result[:, :, None] if config.network == "2d" else result

    blended = run_windows(
        filled,
        cover(mask, size),
        mask.shape,
        channels=len(volume),
        batch_size=options.batch_size,
        blend=(True, False, False),  # in the plane the noise of a slice is shared, so windows agree
        accumulator=np.float32,  # few slabs overlap, so half the memory costs no accuracy
        progress=progress,
    )
    return torch.from_numpy(np.where(mask, blended, volume)).permute(0, 2, 3, 1)


def _as_input(stack: np.ndarray, config: DenoiserConfig) -> Tensor:
    """Return ``[B, C, S, H, W]`` as float32, for a 2D network ``[B, S·C, H, W]``."""
    return torch.from_numpy((slices_to_channels(stack) if config.network == "2d" else stack).astype(np.float32))


def _unsigned(start: Triple) -> tuple[int, ...]:
    """Return the place of a window as keys of a seed, which may not be negative."""
    return tuple(index % 2**32 for index in start)


class _SliceNoise:
    """Noise that belongs to a slice and a place in it, the same for every window there."""

    def __init__(self, seed: int, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
        self.seed = seed
        self.margin = size
        channels, rows, columns = shape
        self.shape = (channels, rows + 2 * size[0], columns + 2 * size[1])
        self.slices: dict[int, np.ndarray] = {}

    def window(self, window: Window) -> np.ndarray:
        """Return ``[C, slab, H, W]``."""
        (first, row, column), (slab, height, width) = window.start, window.size
        top, left = row + self.margin[0], column + self.margin[1]
        planes = [
            self._slice(index)[:, top : top + height, left : left + width] for index in range(first, first + slab)
        ]
        return np.stack(planes, axis=1)

    def _slice(self, index: int) -> np.ndarray:
        if index not in self.slices:
            random = Randomness([seed_for(self.seed, _SLICE, index)])
            self.slices[index] = random.normal(self.shape)[0].numpy()
        return self.slices[index]
