"""Samplers: from noise to an image, with a callable that predicts the noise.

Each is a function of ``denoise(x, t) -> epsilon``, so a torch module, an ONNX Runtime session and a TensorRT engine all
work. Coefficients are Python floats and randomness is passed in. ``denoise`` closes over conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo_lesion_diffusion.schedule import NoiseSchedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[torch.Size], Tensor]
Progress = Callable[[int, int], None]


class Sampler(Protocol):
    """The signature of the entries of ``SAMPLERS``.

    Args:
        denoise: Callable ``(x, t) -> epsilon`` with t int64 ``[B]`` on the device of ``x``.
        x: Images at the noise level of ``timesteps[0]``, ``[B, C, *spatial]``; intensities in [-1, 1] plus noise.
        schedule: The noise schedule of the training.
        timesteps: Where to evaluate ``denoise``, strictly falling; any subset of the schedule's steps. After the
            last one no noise is left.
        noise: Callable ``(shape) -> standard normal noise``, called once per step that needs it; its result is moved
            to the device and dtype of ``x``. One generator per sample keeps a sample independent of its batch.
        clip: Clamp the predicted image to [-1, 1] in every step, as the thesis does.
        progress: Called with (steps done, steps in all) after every step.

    Returns:
        Images of the shape of ``x``.

    Raises:
        ConfigError: Timesteps that are empty, out of range or not falling.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        schedule: NoiseSchedule,
        timesteps: Sequence[int],
        *,
        noise: Noise,
        clip: bool = True,
        progress: Progress | None = None,
    ) -> Tensor: ...


def ddpm(
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    noise: Noise,
    clip: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """Sample by DDPM, with the variance of the posterior (the smaller of the paper's two choices).

    Arguments as in ``Sampler``. New noise is added after every step but the last.

    Source: Ho et al. 2020, algorithm 2 with equations 6 and 7; thesis equation 3.4. On a subset of the steps,
    alpha_t is the ratio of the neighbouring alpha_bar (Nichol & Dhariwal 2021, section 4).
    """
    for step, (t, alpha_bar, alpha_bar_next) in enumerate(levels(schedule, timesteps), start=1):
        x, std = posterior(denoise, x, t, alpha_bar, alpha_bar_next, clip)
        if alpha_bar_next < 1:
            x = x + std * noise(x.shape).to(x)
        if progress is not None:
            progress(step, len(timesteps))
    return x


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    clip: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """Sample by DDIM, which is deterministic for ``eta`` = 0; the sampler of the thesis, with 50 steps.

    Arguments as in ``Sampler``; ``noise`` is needed only if ``eta`` > 0. ``eta`` in [0, 1] scales the noise added after
    every step but the last, up to the variance of ``ddpm``.

    Raises:
        ConfigError: Also for ``eta`` out of range, or ``eta`` > 0 without ``noise``.

    Source: Song et al. 2021, equations 12 and 16. As in the thesis' library, the direction to ``x_t`` is the
    network's noise, not the noise that fits the clipped image.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta must be in [0, 1], got {eta}.")
    if eta > 0 and noise is None:
        raise ConfigError(f"DDIM with eta = {eta} is random and needs noise; give noise, or eta = 0.")
    for step, (t, alpha_bar, alpha_bar_next) in enumerate(levels(schedule, timesteps), start=1):
        epsilon, x0 = _predict(denoise, x, t, alpha_bar, clip)
        std = eta * _posterior_std(alpha_bar, alpha_bar_next)
        x = math.sqrt(alpha_bar_next) * x0 + math.sqrt(1 - alpha_bar_next - std**2) * epsilon
        if noise is not None and std > 0:
            x = x + std * noise(x.shape).to(x)
        if progress is not None:
            progress(step, len(timesteps))
    return x


def dpm_solver_pp_2m(
    denoise: Denoise,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    noise: Noise | None = None,
    clip: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """Solve the probability-flow ODE by DPM-Solver++(2M): second order with one evaluation per step.

    Arguments as in ``Sampler``; ``noise`` is never called, as the solver is deterministic. The first step has no
    predecessor, and the last ends without noise, where the half log-SNR is infinite: both are of first order.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2, midpoint form, on the discrete steps of the schedule.
    """
    previous: tuple[Tensor, float] | None = None  # image and length in log-SNR of the step before
    for step, (t, alpha_bar, alpha_bar_next) in enumerate(levels(schedule, timesteps), start=1):
        _, x0 = _predict(denoise, x, t, alpha_bar, clip)
        length = _half_log_snr(alpha_bar_next) - _half_log_snr(alpha_bar)
        target = x0
        if previous is not None and alpha_bar_next < 1:
            previous_x0, previous_length = previous
            target = x0 + length / (2 * previous_length) * (x0 - previous_x0)
        x_weight = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
        x = x_weight * x - math.sqrt(alpha_bar_next) * math.expm1(-length) * target
        previous = x0, length
        if progress is not None:
            progress(step, len(timesteps))
    return x


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpm-solver++": dpm_solver_pp_2m}


def count_draws(solver: str, steps: int) -> int:
    """Return how often a solver of ``SAMPLERS`` calls ``noise`` in ``steps`` steps."""
    return steps - 1 if solver == "ddpm" else 0


def levels(schedule: NoiseSchedule, timesteps: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """Yield each timestep with its alpha_bar and that of the next; after the last there is no noise, 1.

    Raises:
        ConfigError: Timesteps that are empty, out of range or not falling.
    """
    if not timesteps or any(now <= then for now, then in pairwise(timesteps)):
        raise ConfigError(f"Timesteps must be at least one and strictly falling, got {list(timesteps)}.")
    if timesteps[0] >= schedule.steps or timesteps[-1] < 0:
        raise ConfigError(f"Timesteps must lie in 0 … {schedule.steps - 1}, got {list(timesteps)}.")
    alpha_bars = [float(schedule.alpha_bar[t]) for t in timesteps]
    return zip(timesteps, alpha_bars, [*alpha_bars[1:], 1.0], strict=True)


def posterior(
    denoise: Denoise, x: Tensor, t: int, alpha_bar: float, alpha_bar_next: float, clip: bool
) -> tuple[Tensor, float]:
    """Return mean and standard deviation of the next image, given ``x`` at timestep ``t`` and the predicted image.

    Source: Ho et al. 2020, equations 6 and 7.
    """
    _, x0 = _predict(denoise, x, t, alpha_bar, clip)
    alpha = alpha_bar / alpha_bar_next
    x0_weight = math.sqrt(alpha_bar_next) * (1 - alpha) / (1 - alpha_bar)
    x_weight = math.sqrt(alpha) * (1 - alpha_bar_next) / (1 - alpha_bar)
    return x0_weight * x0 + x_weight * x, _posterior_std(alpha_bar, alpha_bar_next)


def _predict(denoise: Denoise, x: Tensor, t: int, alpha_bar: float, clip: bool) -> tuple[Tensor, Tensor]:
    """Return the predicted noise and image at timestep ``t``."""
    epsilon = denoise(x, torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device))
    x0 = (x - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar)
    return epsilon, x0.clamp(-1, 1) if clip else x0


def _posterior_std(alpha_bar: float, alpha_bar_next: float) -> float:
    """Return the standard deviation of the next image, given this one and the noise-free one."""
    return math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next))


def _half_log_snr(alpha_bar: float) -> float:
    """Return lambda of the DPM-Solver papers: log(alpha / sigma), infinite without noise."""
    return math.inf if alpha_bar == 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))
