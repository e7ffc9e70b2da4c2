"""The noise schedule: the shares of image and noise at each timestep.

Source: Ho et al. 2020, equation 4; thesis (Uhr 2024) equations 3.1 and 3.2. Departure: timesteps count from 0, the
papers count from 1; so step 0 already holds a little noise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo_lesion_diffusion.config import DenoiserConfig


@dataclass(frozen=True)
class NoiseSchedule:
    """Linear variance schedule; the defaults are the paper's.

    Args:
        steps: Timesteps of training, T.
        beta_start: Variance added by step 0, in (0, 1).
        beta_end: Variance added by step T - 1, in [beta_start, 1).

    Raises:
        ConfigError: A value out of range.
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"A noise schedule needs at least 1 step, got {self.steps}.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"A noise schedule needs 0 < beta_start <= beta_end < 1, got {self.beta_start} and {self.beta_end}."
            )

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """Share of the image in the variance at each timestep, float64 ``[T]``, falling, in (0, 1); read-only."""
        alpha_bar = np.cumprod(1 - np.linspace(self.beta_start, self.beta_end, self.steps))
        alpha_bar.setflags(write=False)
        return alpha_bar

    def timesteps(self, count: int, start: float = 1.0) -> list[int]:
        """Return ``count`` evenly spaced timesteps, noisiest first, from ``start · T`` - 1.

        50 of 1000 are 999, 979 … 19, and one is 999. This is the "trailing" spacing, which starts at full noise for
        any number of steps.

        Raises:
            ConfigError: ``count`` is not in 1 … ``start · T``.

        Source: Lin et al. 2024 (Common diffusion noise schedules and sample steps are flawed), table 2.
        """
        levels = self._check_count(count, start) + 1
        return [round(levels * left / count) - 1 for left in range(count, 0, -1)]

    def leading_timesteps(self, count: int, start: float = 1.0) -> list[int]:
        """Return ``count`` evenly spaced timesteps below ``start · T``, noisiest first, ending at 0.

        50 of 1000 are 980, 960 … 0. This is the "leading" spacing without offset, used in the thesis. The first is
        (count - 1) · (T // count), so a few steps start well below full noise, and a single step starts at 0.

        Raises:
            ConfigError: ``count`` is not in 1 … ``start · T``.
        """
        first = self._check_count(count, start)
        stride = (first + 1) // count
        return [index * stride for index in reversed(range(count))]

    def log_snr_timesteps(self, count: int, start: float = 1.0) -> list[int]:
        """Return ``count`` timesteps spaced evenly in log-SNR, noisiest first, from ``start · T`` - 1 to 0.

        This spacing suits DPM-Solver++, whose error grows with the longest step in log-SNR; with even timesteps the
        longest is the step to 0, and most of the gain over DDIM is lost. 10 of 1000 are 999, 886, 757 … 5, 0.

        Raises:
            ConfigError: ``count`` is not in 1 … ``start · T``.

        Source: Lu et al. 2022 (DPM-Solver), uniform steps of lambda. Departure: rounded to whole timesteps; if two
        are equal, the noisier one moves up.
        """
        first = self._check_count(count, start)
        log_snr = np.log(self.alpha_bar / (1 - self.alpha_bar))
        wanted = np.linspace(log_snr[first], log_snr[0], count)
        nearest = np.abs(log_snr - wanted[:, None]).argmin(axis=1)  # [count], falling except for repeats
        rank = np.arange(count)
        distinct = np.maximum.accumulate((nearest + rank)[::-1])[::-1] - rank
        return np.minimum(distinct, first - rank).tolist()

    def _check_count(self, count: int, start: float) -> int:
        """Return ``start · T`` - 1, if there are at least ``count`` timesteps up to it."""
        first = round(start * self.steps) - 1
        if not 1 <= count <= first + 1:
            raise ConfigError(f"Sampling takes 1 to {first + 1} steps on this noise schedule, got {count}.")
        return first

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return ``x_t``, the image ``x0`` with the noise of timestep ``t``.

        Args:
            x0: Images, ``[B, C, H, W]`` or ``[B, C, D, H, W]``, intensities in [-1, 1].
            noise: Standard normal, of the shape of ``x0``.
            t: Timesteps, int64 ``[B]``; for ``[B, C, D, H, W]`` also ``[B, D]``, one per slice.

        Raises:
            DataError: The shape of ``t`` fits neither the images nor their slices.

        Source: thesis equation 3.2.
        """
        signal, sigma = self._scales(t, x0)
        return signal * x0 + sigma * noise

    def x0_from_epsilon(self, x: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Return the image in ``x`` at timestep ``t`` if ``epsilon`` is its noise; inverts ``add_noise``.

        Shapes and errors as for ``add_noise``; the result is not clipped.
        """
        signal, sigma = self._scales(t, x)
        return (x - sigma * epsilon) / signal

    def epsilon_from_x0(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Return the noise in ``x`` at timestep ``t`` if ``x0`` is its image; shapes, errors as for ``add_noise``."""
        signal, sigma = self._scales(t, x)
        return (x - signal * x0) / sigma

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return v, which a velocity network predicts at ``t``: -x0 at full noise, the noise where there is none.

        Shapes and errors as for ``add_noise``.

        Source: Salimans and Ho 2022, section 4.
        """
        signal, sigma = self._scales(t, x0)
        return signal * noise - sigma * x0

    def epsilon_from_velocity(self, x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """Return the noise in ``x`` at timestep ``t`` if ``velocity`` is its velocity; shapes as for ``add_noise``."""
        signal, sigma = self._scales(t, x)
        return signal * velocity + sigma * x

    def epsilon_of(self, predicted: Tensor, x: Tensor, t: Tensor, prediction: Literal["noise", "velocity"]) -> Tensor:
        """Return the noise in ``x`` at timestep ``t`` that a network's output means.

        Args:
            predicted: The output, of the shape of ``x``; taken to the device and precision of ``x``.
            x: Noisy images.
            t: Timesteps, as for ``add_noise``.
            prediction: What the network predicts.
        """
        predicted = predicted.to(x)
        return self.epsilon_from_velocity(x, predicted, t) if prediction == "velocity" else predicted

    def _scales(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar) at ``t``, shaped to multiply ``x``."""
        signal, sigma = _scale_tables(self, t.device)
        return _broadcast(signal, t, x), _broadcast(sigma, t, x)

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio, a ratio of variances, at ``t``: float32, the shape of ``t``."""
        return _gather(self.alpha_bar / (1 - self.alpha_bar), t)

    def min_snr_weight(self, t: Tensor, gamma: float, prediction: str = "noise") -> Tensor:
        """Return the weight of the loss at ``t``: min(SNR, gamma) / SNR for noise, / (SNR + 1) for velocity.

        Args:
            t: Timesteps, int64, any shape.
            gamma: SNR above which a timestep has less weight; the source uses 5.
            prediction: What the network predicts, ``"noise"`` or ``"velocity"``.

        Returns:
            Weights in (0, 1], float32, the shape of ``t``.

        Source: Hang et al. 2023 (Min-SNR), section 3.4.
        """
        snr = self.alpha_bar / (1 - self.alpha_bar)
        return _gather(np.minimum(snr, gamma) / (snr + (prediction == "velocity")), t)


def noise_schedule(config: DenoiserConfig) -> NoiseSchedule:
    """Return the noise schedule of the settings."""
    return NoiseSchedule(config.diffusion.steps, config.diffusion.beta_start, config.diffusion.beta_end)


@functools.lru_cache(maxsize=32)
def _scale_tables(schedule: NoiseSchedule, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar), float32 ``[T]``, on a device.

    They stay there: a copy in every step would make the GPU wait, and cannot be part of a CUDA graph.
    """
    with torch.inference_mode(False):
        return _table(np.sqrt(schedule.alpha_bar), device), _table(np.sqrt(1 - schedule.alpha_bar), device)


def _table(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(device)


def _gather(table: np.ndarray, t: Tensor) -> Tensor:
    """Return ``table[t]`` in float32 on the device of ``t``."""
    return _table(table, t.device)[t]


def _broadcast(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """Return ``table[t]`` shaped to multiply ``x``: ``[B, 1, 1, …]``, or ``[B, 1, D, 1, 1]`` for one per slice."""
    per_slice = x.dim() == 5 and t.shape == (x.shape[0], x.shape[2])
    if t.shape != x.shape[:1] and not per_slice:
        raise DataError(
            f"Timesteps must be one per image or, for a slab [B, C, D, H, W], one per slice; "
            f"got {list(t.shape)} for images of shape {list(x.shape)}."
        )
    values = table[t]
    if per_slice:
        return values[:, None, :, None, None]
    return values.view(-1, *[1] * (x.dim() - 1))
