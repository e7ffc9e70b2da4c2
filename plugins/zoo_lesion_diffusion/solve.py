"""From noise to filled windows: one function for conditional filling, one for RePaint.

Both are functions of a network, so training, the engines of other runtimes and CUDA graphs share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.randomness import Randomness
from zoo_lesion_diffusion.conditions import middle
from zoo_lesion_diffusion.config import FillingConfig, PriorConfig, RepaintConfig, SamplingConfig
from zoo_lesion_diffusion.repaint import repaint
from zoo_lesion_diffusion.samplers import SAMPLERS, Noise, Progress
from zoo_lesion_diffusion.schedule import NoiseSchedule, noise_schedule


@dataclass(frozen=True)
class Problem:
    """A batch of windows with holes, and how they are filled.

    Attributes:
        config: Settings of the model.
        sampling: Solver, its steps, and where they begin.
        known: The context, float32 ``[B, S·C, H, W]`` or ``[B, C, D, H, W]`` in [-1, 1], as in `FillingExamples`.
        mask: float32 ``[B, S, H, W]`` or ``[B, 1, D, H, W]``; 1 in the holes, else 0.
    """

    config: FillingConfig
    sampling: SamplingConfig
    known: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PriorProblem:
    """A batch of windows with holes, and how an unconditional model fills them.

    Attributes:
        config: Settings of the model.
        sampling: Steps and jumps.
        known: The image, float32 ``[B, C, (D,) H, W]`` in [-1, 1]; its values in the hole are not used.
        hole: bool ``[B, 1, (D,) H, W]``.
    """

    config: PriorConfig
    sampling: RepaintConfig
    known: Tensor
    hole: Tensor


def solve(
    network: Callable[..., Tensor], problem: Problem, noise: Tensor, draws: Noise, progress: Progress | None = None
) -> Tensor:
    """Fill the holes of a batch of windows.

    Args:
        network: The denoiser, ``(noisy, context, lesion_mask, timestep) -> epsilon`` or velocity.
        problem: The windows and how they are filled.
        noise: Standard normal, ``[B, C, (D,) H, W]``.
        draws: Callable ``(shape) -> standard normal noise`` for solvers that add noise in every step. It is called when
            the noise is needed, so noise for a thousand steps is never held at once.
        progress: Called with (steps done, steps in all).

    Returns:
        float32 of the shape of ``noise``; outside the mask as the solver leaves it.

    Source: Uhr 2024, section 3.2. With ``diffusion.keep_known`` the predicted noise outside the mask is replaced by
    the noise that leads to the known image (after RePaint's equation 3.7), since a network trained on the mask alone
    predicts none there.
    """
    config, sampling = problem.config, problem.sampling
    keep_known, prediction = config.diffusion.keep_known, config.diffusion.prediction
    schedule = noise_schedule(config)
    timesteps = _timesteps(schedule, sampling, sampling.start)

    # What is diffused: the image, or its difference to the biharmonic fill in units of residual_scale.
    scale = config.diffusion.residual_scale
    base = middle(problem.known, config)
    known = torch.zeros_like(base) if scale else base
    hole = middle(problem.mask, config).bool()

    # Start at noise; known voxels at their noise level. A difference starts there everywhere: below full noise the
    # start is the noised biharmonic fill.
    x = noise
    if keep_known:
        noisy = schedule.add_noise(known, noise, torch.full((len(known),), timesteps[0], device=known.device))
        x = noisy if scale else torch.where(hole, noise, noisy)

    def denoise(x: Tensor, timestep: Tensor) -> Tensor:
        predicted = network(x, problem.known, problem.mask, timestep)
        epsilon = schedule.epsilon_of(predicted, x, timestep, prediction)
        return torch.where(hole, epsilon, schedule.epsilon_from_x0(x, known, timestep)) if keep_known else epsilon

    # A difference may be larger than its scale, so the image is clipped instead, at the end.
    sampler = SAMPLERS[sampling.solver]
    x = sampler(denoise, x, schedule, timesteps, noise=draws, clip=not scale, progress=progress)
    return (base + scale * x).clamp(-1, 1) if scale else x


def solve_by_repaint(
    network: Callable[..., Tensor], problem: PriorProblem, noise: Tensor, draws: Noise, progress: Progress | None = None
) -> Tensor:
    """Fill the holes of a batch of windows with an unconditional denoiser.

    Args:
        network: The denoiser, ``(noisy, timestep) -> epsilon`` or velocity.
        problem: The windows and how they are filled.
        noise: Standard normal, of the shape of ``problem.known``.
        draws: Callable ``(shape) -> standard normal noise``, for the moves of RePaint's walk.
        progress: Called with (evaluations done, evaluations in all).

    Returns:
        float32 of the shape of ``noise``; outside the hole exactly ``problem.known``.
    """
    sampling, prediction = problem.sampling, problem.config.diffusion.prediction
    schedule = noise_schedule(problem.config)

    def denoise(x: Tensor, timestep: Tensor) -> Tensor:
        return schedule.epsilon_of(network(x, timestep), x, timestep, prediction)

    return repaint(
        denoise,
        noise,
        problem.known,
        problem.hole,
        schedule,
        _timesteps(schedule, sampling),
        jump_length=sampling.jump_length,
        resamples=sampling.resamples,
        noise=draws,
        progress=progress,
    )


def random_draws(random: Randomness) -> Noise:
    """Return a callable that draws noise for a batch, from one generator per sample."""
    return lambda shape: random.normal(shape[1:])


def _timesteps(schedule: NoiseSchedule, sampling: SamplingConfig | RepaintConfig, start: float = 1.0) -> list[int]:
    """Return the timesteps of the settings' solver and spacing."""
    if isinstance(sampling, SamplingConfig) and sampling.solver == "dpm-solver++":
        return schedule.log_snr_timesteps(sampling.steps, start)  # its error grows with the longest step in log-SNR
    spacing = schedule.leading_timesteps if sampling.spacing == "leading" else schedule.timesteps
    return spacing(sampling.steps, start)
