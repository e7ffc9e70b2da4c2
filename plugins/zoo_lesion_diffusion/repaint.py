"""RePaint: an unconditional denoiser fills a hole, because the known voxels are put back at every noise level.

Like the samplers, it is a function of ``denoise(x, t) -> epsilon``; randomness is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo_lesion_diffusion.samplers import Denoise, Noise, Progress, levels, posterior
from zoo_lesion_diffusion.schedule import NoiseSchedule


def repaint_moves(steps: int, jump_length: int, resamples: int) -> list[tuple[int, int]]:
    """Return the moves between noise levels, as (from, to): down by one, or up by ``jump_length``.

    Sampling starts at level ``steps``; level 0 is the image without noise. From the levels 0, ``jump_length``,
    2 · ``jump_length`` … below ``steps - jump_length`` a move jumps up again, until the stretch above the level is
    denoised ``resamples`` times.

    Args:
        steps: Noise levels, at least 1.
        jump_length: j, at least 1, and less than ``steps`` if there are jumps.
        resamples: r, at least 1; 1 makes no jumps.

    Returns:
        The moves. Moves down need the network: ``evaluations`` counts them.

    Raises:
        ConfigError: A number out of range.

    Source: Lugmayr et al. 2022, section 4.2 and its schedule of jumps; thesis figure 3.4 and table 3.1. As in the
    thesis' library the lowest jump starts at level 0; in the paper's code every jump starts one level higher.
    """
    if min(steps, jump_length, resamples) < 1 or (resamples > 1 and jump_length >= steps):
        raise ConfigError(
            "RePaint needs steps, jump_length and resamples of at least 1 and a jump_length below steps, "
            f"got {steps}, {jump_length} and {resamples}."
        )
    jumps_left = dict.fromkeys(range(0, steps - jump_length, jump_length), resamples - 1)
    moves = []
    level = steps
    while level > 0:
        moves.append((level, level - 1))
        level -= 1
        if jumps_left.get(level):
            jumps_left[level] -= 1
            moves.append((level, level + jump_length))
            level += jump_length
    return moves


def evaluations(moves: Sequence[tuple[int, int]]) -> int:
    """Return how often the moves call the network: 482 times for (50, 8, 10), 2410 times for (250, 10, 10)."""
    return sum(there < here for here, there in moves)


def repaint(
    denoise: Denoise,
    x: Tensor,
    known: Tensor,
    hole: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    jump_length: int,
    resamples: int,
    noise: Noise,
    clip: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """Fill the hole of an image with what is likely there under an unconditional denoiser.

    Args:
        denoise: Callable ``(x, t) -> epsilon``, as for ``samplers.Sampler``.
        x: Standard normal noise, ``[B, C, *spatial]``.
        known: The image, of the shape of ``x``, intensities in [-1, 1]; its values in the hole are not used.
        hole: bool, ``[B, 1, *spatial]``: where to fill.
        schedule: The noise schedule of the training.
        timesteps: One per level, strictly falling, as for ``samplers.Sampler``.
        jump_length, resamples: As for `repaint_moves`.
        noise: Callable ``(shape) -> standard normal noise``, called once at the start and once per move, except moves
            to level 0.
        clip: Clamp the predicted image to [-1, 1] at every step.
        progress: Called with (evaluations done, evaluations in all) after every evaluation.

    Returns:
        Images of the shape of ``x``; outside the hole exactly ``known``.

    Raises:
        ConfigError: Timesteps, ``jump_length`` or ``resamples`` out of range.

    Source: Lugmayr et al. 2022, algorithm 1 and equation 8; thesis equations 3.7 to 3.9. Departures: the variance is
    the posterior's (the paper's network learns it, the thesis' library takes a DDIM step without noise); a jump of j
    levels is one draw of q(x_{t+j} | x_t), which has the distribution of the papers' j draws; the known part and the
    hole take their noise from one draw, since each voxel belongs to one of them; the known part has the right noise
    level from the start.
    """
    downward = list(levels(schedule, timesteps))
    moves = repaint_moves(len(downward), jump_length, resamples)
    alpha_bars = [1.0, *(alpha_bar for _, alpha_bar, _ in reversed(downward))]  # by level
    done, total = 0, evaluations(moves)

    x = torch.where(hole, x, _noised(known, alpha_bars[-1], noise(x.shape).to(x)))
    for here, there in moves:
        if there > here:
            x = _noised(x, alpha_bars[there] / alpha_bars[here], noise(x.shape).to(x))
            continue
        t, alpha_bar, alpha_bar_next = downward[-here]
        mean, std = posterior(denoise, x, t, alpha_bar, alpha_bar_next, clip)
        fresh = noise(x.shape).to(x) if there else torch.zeros_like(x)
        x = torch.where(hole, mean + std * fresh, _noised(known, alpha_bar_next, fresh))
        done += 1
        if progress is not None:
            progress(done, total)
    return x


def _noised(x: Tensor, share: float, noise: Tensor) -> Tensor:
    """Return ``x`` with noise added, so that it keeps ``share`` of its variance; 1 returns it unchanged."""
    return math.sqrt(share) * x + math.sqrt(1 - share) * noise
