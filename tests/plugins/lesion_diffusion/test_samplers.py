from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo_lesion_diffusion.samplers import SAMPLERS, ddim, ddpm, dpm_solver_pp_2m
from zoo_lesion_diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
SHAPE = (2, 1, 4, 5)
# Uneven strides, a single leap, and a start in the middle of the schedule.
SUBSETS = [[980, 400, 370, 17], [999], [60, 40, 20, 0]]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def toy_denoise(x: Tensor, t: Tensor) -> Tensor:
    """A fixed random network: bounded, and different at every timestep."""
    weights = normal(20, 20, seed=5) / 5
    phase = (t.float() / 300).view(-1, 1)
    return torch.tanh(x.flatten(1) @ weights + phase).view_as(x)


def recorded_noise(seed: int = 9) -> tuple[Callable[[torch.Size], Tensor], list[Tensor]]:
    """Return a source of noise and the list of all noise that it gave."""
    generator = torch.Generator().manual_seed(seed)
    given: list[Tensor] = []

    def noise(shape: torch.Size) -> Tensor:
        given.append(torch.randn(shape, generator=generator))
        return given[-1]

    return noise, given


def visited(sampler: Callable[..., Tensor], x: Tensor, timesteps: list[int], **settings: Any) -> list[Tensor]:
    """Sample and return the images before each evaluation of the network, and the result."""
    trajectory: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.int64
        assert t.tolist() == [timesteps[len(trajectory)]] * x.shape[0]
        trajectory.append(x)
        return toy_denoise(x, t)

    result = sampler(denoise, x, SCHEDULE, timesteps, **settings)
    return [*trajectory, result]


def exact(scheduler: Any) -> Any:
    """Set our float64 schedule in a scheduler of the library.

    Its own is float32: the noise variance 1e-4 of step 0, a difference of numbers near 1, is off by 2e-4 of itself.
    """
    scheduler.alphas_cumprod = torch.tensor(SCHEDULE.alpha_bar)
    return scheduler


def assert_same_trajectory(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# Against the thesis' library, step for step.


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("timesteps", [*[SCHEDULE.timesteps(n) for n in (1, 2, 10, 50)], *SUBSETS], ids=len)
def test_ddpm_agrees_with_the_thesis_library(timesteps, clip):
    diffusers = pytest.importorskip("diffusers")
    theirs = exact(diffusers.DDPMScheduler(variance_type="fixed_small", clip_sample=clip))
    theirs.set_timesteps(timesteps=timesteps)
    noise, _ = recorded_noise()
    trajectory = visited(ddpm, normal(*SHAPE), timesteps, noise=noise, clip=clip)

    generator = torch.Generator().manual_seed(9)
    x = normal(*SHAPE)
    expected = [x]
    for t in timesteps:
        x = theirs.step(toy_denoise(x, torch.full((2,), t)), t, x, generator=generator).prev_sample
        expected.append(x)
    assert_same_trajectory(trajectory, expected)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 10, 50])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_ddim_agrees_with_the_thesis_library(count, spacing, eta, clip):
    diffusers = pytest.importorskip("diffusers")
    theirs = exact(diffusers.DDIMScheduler(set_alpha_to_one=True, clip_sample=clip, timestep_spacing=spacing))
    theirs.set_timesteps(count)
    timesteps = SCHEDULE.timesteps(count) if spacing == "trailing" else SCHEDULE.leading_timesteps(count)
    assert timesteps == theirs.timesteps.tolist()
    noise, given = recorded_noise()
    trajectory = visited(partial(ddim, eta=eta), normal(*SHAPE), timesteps, noise=noise, clip=clip)

    x = normal(*SHAPE)
    expected = [x]
    fresh = [*given, torch.zeros(SHAPE)] if eta else [torch.zeros(SHAPE)] * count
    for t, z in zip(timesteps, fresh, strict=True):
        x = theirs.step(toy_denoise(x, torch.full((2,), t)), t, x, eta=eta, variance_noise=z).prev_sample
        expected.append(x)
    assert_same_trajectory(trajectory, expected)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("timesteps", [*[SCHEDULE.timesteps(n) for n in (1, 2, 10, 50)], *SUBSETS], ids=len)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2 against the library
def test_dpm_solver_agrees_with_the_thesis_library(timesteps, clip):
    diffusers = pytest.importorskip("diffusers")
    theirs = exact(
        diffusers.DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            lower_order_final=True,
            final_sigmas_type="zero",
            thresholding=clip,  # with sample_max_value 1, dynamic thresholding is a clamp to [-1, 1]
            sample_max_value=1.0,
        )
    )
    theirs.set_timesteps(timesteps=timesteps)
    trajectory = visited(dpm_solver_pp_2m, normal(*SHAPE), timesteps, clip=clip)

    x = normal(*SHAPE)
    expected = [x]
    for t in timesteps:
        x = theirs.step(toy_denoise(x, torch.full((2,), t)), t, x).prev_sample
        expected.append(x)
    assert_same_trajectory(trajectory, expected)


# Against what is known: data of a normal distribution, whose best denoiser has a formula.

MEAN, STD = 0.3, 0.2


def gaussian_denoise(x: Tensor, t: Tensor) -> Tensor:
    alpha_bar = torch.tensor(SCHEDULE.alpha_bar)[t].view(-1, *[1] * (x.dim() - 1))
    return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)


def exact_solution(x: Tensor, t: int) -> Tensor:
    """The end of the probability-flow ODE: the standard score of a point stays constant."""
    alpha_bar = float(SCHEDULE.alpha_bar[t])
    score = (x - math.sqrt(alpha_bar) * MEAN) / math.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
    return MEAN + STD * score


@pytest.mark.parametrize("sampler", [ddim, dpm_solver_pp_2m])
def test_deterministic_samplers_solve_the_flow_of_a_gaussian(sampler):
    x = normal(64, 1, 8, 8).double()
    timesteps = list(range(999, -1, -1))
    result = sampler(gaussian_denoise, x, SCHEDULE, timesteps, clip=False)
    torch.testing.assert_close(result, exact_solution(x, 999), atol=0.01, rtol=0)


@pytest.mark.parametrize("sampler", [ddpm, partial(ddim, eta=1.0), partial(ddim, eta=0.5)])
def test_random_samplers_reach_the_mean_and_deviation_of_a_gaussian(sampler):
    noise, _ = recorded_noise()
    timesteps = SCHEDULE.timesteps(1000)
    result = sampler(gaussian_denoise, normal(64, 1, 16, 16).double(), SCHEDULE, timesteps, noise=noise, clip=False)
    # 16384 independent values: the standard error is 0.0016 for the mean and 0.0011 for the spread. The posterior
    # variance, which knows nothing of the data's spread, takes another 0.004 of it at 1000 steps.
    assert abs(result.mean().item() - MEAN) < 0.008
    assert abs(result.std().item() - STD) < 0.008


def test_dpm_solver_is_closer_than_ddim_in_ten_steps():
    x, timesteps = normal(64, 1, 8, 8).double(), SCHEDULE.leading_timesteps(10)
    exact = exact_solution(x, timesteps[0])
    error = {
        sampler: (sampler(gaussian_denoise, x, SCHEDULE, timesteps, clip=False) - exact).abs().mean()
        for sampler in (ddim, dpm_solver_pp_2m)
    }
    assert error[dpm_solver_pp_2m] < 0.5 * error[ddim]


def test_ten_even_steps_of_log_snr_beat_ddim_in_fifty():
    x = normal(64, 1, 8, 8).double()
    few, many = SCHEDULE.log_snr_timesteps(10), SCHEDULE.timesteps(50)
    solved = dpm_solver_pp_2m(gaussian_denoise, x, SCHEDULE, few, clip=False)
    stepped = ddim(gaussian_denoise, x, SCHEDULE, many, clip=False)
    error = (solved - exact_solution(x, few[0])).abs().mean()
    assert error < 0.5 * (stepped - exact_solution(x, many[0])).abs().mean()


# What all samplers have in common.


@pytest.mark.parametrize("name", SAMPLERS)
def test_clipping_keeps_the_result_in_range(name):
    def loud(x: Tensor, t: Tensor) -> Tensor:
        return -3 * torch.ones_like(x)

    noise, _ = recorded_noise()
    timesteps = SCHEDULE.timesteps(5)
    clipped = SAMPLERS[name](loud, normal(*SHAPE), SCHEDULE, timesteps, noise=noise)
    free = SAMPLERS[name](loud, normal(*SHAPE), SCHEDULE, timesteps, noise=noise, clip=False)
    assert clipped.abs().max() <= 1
    assert free.abs().max() > 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_slabs_and_reports_progress(name):
    seen = []
    noise, _ = recorded_noise()
    result = SAMPLERS[name](
        lambda x, t: torch.tanh(x),
        normal(2, 1, 3, 4, 4),
        SCHEDULE,
        [900, 500, 3],
        noise=noise,
        progress=lambda step, total: seen.append((step, total)),
    )
    assert result.shape == (2, 1, 3, 4, 4)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("name", "draws"), [("ddpm", 9), ("ddim", 0), ("dpm-solver++", 0)])
def test_draws_noise_only_for_steps_that_use_it(name, draws):
    noise, given = recorded_noise()
    SAMPLERS[name](toy_denoise, normal(*SHAPE), SCHEDULE, SCHEDULE.timesteps(10), noise=noise)
    assert len(given) == draws


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([], "at least one"),
        ([20, 20, 0], "strictly falling"),
        ([0, 20], "strictly falling"),
        ([1000, 0], "0 … 999"),
        ([20, -1], "0 … 999"),
    ],
)
def test_refuses_timesteps_that_are_empty_not_falling_or_out_of_range(name, timesteps, message):
    noise, _ = recorded_noise()
    with pytest.raises(ConfigError, match=message):
        SAMPLERS[name](toy_denoise, normal(*SHAPE), SCHEDULE, timesteps, noise=noise)


@pytest.mark.parametrize(("settings", "message"), [({"eta": 1.5}, r"\[0, 1\], got 1.5"), ({"eta": 0.5}, "needs noise")])
def test_ddim_refuses_eta_out_of_range_or_without_noise(settings, message):
    with pytest.raises(ConfigError, match=message):
        ddim(toy_denoise, normal(*SHAPE), SCHEDULE, [20, 0], **settings)


# The schedule.


def test_timesteps_can_start_below_full_noise():
    assert SCHEDULE.timesteps(4, start=0.4) == [399, 299, 199, 99]
    assert SCHEDULE.leading_timesteps(4, start=0.4) == [300, 200, 100, 0]
    low = SCHEDULE.log_snr_timesteps(5, start=0.4)
    assert (low[0], low[-1], len(set(low))) == (399, 0, 5)
    assert SCHEDULE.log_snr_timesteps(1, start=0.4) == [399]
    with pytest.raises(ConfigError, match="1 to 400 steps"):
        SCHEDULE.log_snr_timesteps(401, start=0.4)


def test_schedule_is_that_of_the_paper():
    assert SCHEDULE.alpha_bar.shape == (1000,)
    assert SCHEDULE.alpha_bar[0] == pytest.approx(1 - 1e-4)
    assert SCHEDULE.alpha_bar[980] == pytest.approx(5.9e-5, rel=0.02)
    assert math.sqrt(1 - SCHEDULE.alpha_bar[40]) == pytest.approx(0.142, abs=5e-4)
    assert (np.diff(SCHEDULE.alpha_bar) < 0).all()
    assert SCHEDULE.leading_timesteps(50) == list(range(980, -1, -20))
    assert SCHEDULE.leading_timesteps(3) == [666, 333, 0]
    assert SCHEDULE.leading_timesteps(1000) == list(range(999, -1, -1))


def test_every_number_of_steps_begins_at_full_noise():
    assert SCHEDULE.timesteps(50) == list(range(999, -1, -20))
    assert SCHEDULE.timesteps(1) == [999]
    for count in range(1, 1001):
        for timesteps in (SCHEDULE.timesteps(count), SCHEDULE.log_snr_timesteps(count)):
            assert len(timesteps) == count
            assert timesteps[0] == 999
            assert timesteps[-1] >= 0
            assert (np.diff(timesteps) < 0).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_gives_the_image_of_the_equation(name):
    """Ho et al. 2020, equation 15: x_0 = (x_T - sqrt(1 - alpha_bar_T) epsilon) / sqrt(alpha_bar_T)."""
    noise, given = recorded_noise()
    x, alpha_bar = normal(*SHAPE), float(SCHEDULE.alpha_bar[999])
    result = SAMPLERS[name](toy_denoise, x, SCHEDULE, SCHEDULE.timesteps(1), noise=noise, clip=False)
    epsilon = toy_denoise(x, torch.full((2,), 999))
    torch.testing.assert_close(result, (x - math.sqrt(1 - alpha_bar) * epsilon) / math.sqrt(alpha_bar))
    assert not given


def test_log_snr_timesteps_are_even_in_log_snr():
    assert SCHEDULE.log_snr_timesteps(1) == [999]
    timesteps = SCHEDULE.log_snr_timesteps(8)
    assert (timesteps[0], timesteps[-1]) == (999, 0)
    log_snr = SCHEDULE.snr(torch.tensor(timesteps)).log()
    # Rounding to whole timesteps: the first is worth 0.8 of log-SNR, so a difference is off by less than that.
    torch.testing.assert_close(
        log_snr.diff(), torch.full((7,), (log_snr[-1] - log_snr[0]).item() / 7), atol=0.6, rtol=0
    )


@pytest.mark.parametrize("count", [2, 10, 50, 333, 999, 1000])
def test_log_snr_timesteps_are_distinct(count):
    timesteps = SCHEDULE.log_snr_timesteps(count)
    assert len(timesteps) == count
    assert (np.diff(timesteps) < 0).all()
    assert (timesteps[0], timesteps[-1]) == (999, 0)


def test_alpha_bar_agrees_with_the_thesis_library():
    diffusers = pytest.importorskip("diffusers")
    expected = diffusers.DDIMScheduler().alphas_cumprod.double()
    torch.testing.assert_close(torch.tensor(SCHEDULE.alpha_bar), expected, atol=1e-6, rtol=1e-5)


def test_noise_agrees_with_the_thesis_library():
    diffusers = pytest.importorskip("diffusers")
    x0, noise, t = normal(4, 1, 5, 6).double(), normal(4, 1, 5, 6, seed=1).double(), torch.tensor([0, 40, 500, 999])
    expected = exact(diffusers.DDIMScheduler()).add_noise(x0, noise, t)
    torch.testing.assert_close(SCHEDULE.add_noise(x0, noise, t), expected, atol=1e-6, rtol=0)


def test_velocity_agrees_with_the_thesis_library_and_gives_back_the_noise():
    diffusers = pytest.importorskip("diffusers")
    x0, noise, t = normal(4, 1, 5, 6).double(), normal(4, 1, 5, 6, seed=1).double(), torch.tensor([0, 40, 500, 999])
    velocity = SCHEDULE.velocity(x0, noise, t)
    torch.testing.assert_close(velocity, exact(diffusers.DDPMScheduler()).get_velocity(x0, noise, t), atol=1e-6, rtol=0)
    back = SCHEDULE.epsilon_from_velocity(SCHEDULE.add_noise(x0, noise, t), velocity, t)
    torch.testing.assert_close(back, noise, atol=1e-6, rtol=0)


def test_noise_with_one_timestep_per_slice():
    x0, noise = normal(2, 1, 3, 5, 6), normal(2, 1, 3, 5, 6, seed=1)
    t = torch.tensor([[0, 400, 999], [3, 3, 700]])
    noisy = SCHEDULE.add_noise(x0, noise, t)
    for k in range(3):
        torch.testing.assert_close(noisy[:, :, k], SCHEDULE.add_noise(x0[:, :, k], noise[:, :, k], t[:, k]))


@pytest.mark.parametrize("t", [torch.tensor([0, 600]), torch.tensor([[0, 400, 600], [3, 3, 500]])])
def test_x0_from_epsilon_inverts_the_noise(t):
    x0, noise = normal(2, 1, 3, 5, 6), normal(2, 1, 3, 5, 6, seed=1)
    recovered = SCHEDULE.x0_from_epsilon(SCHEDULE.add_noise(x0, noise, t), noise, t)
    torch.testing.assert_close(recovered, x0, atol=1e-5, rtol=1e-5)


def test_signal_to_noise_ratio_and_its_weight():
    t = torch.tensor([[0, 100], [500, 999]])
    alpha_bar = torch.tensor(SCHEDULE.alpha_bar)[t]
    snr = SCHEDULE.snr(t)
    torch.testing.assert_close(snr, (alpha_bar / (1 - alpha_bar)).float())
    weight = SCHEDULE.min_snr_weight(t, 5.0)
    torch.testing.assert_close(weight, snr.clamp(max=5) / snr)
    assert weight[0, 0] == pytest.approx(5 / 9999, rel=1e-4)
    assert weight[1].tolist() == [1, 1]
    of_velocity = SCHEDULE.min_snr_weight(t, 5.0, "velocity")
    torch.testing.assert_close(of_velocity, snr.clamp(max=5) / (snr + 1))


@pytest.mark.parametrize("t_shape", [(1,), (2, 4), (2, 1), ()])
def test_refuses_timesteps_that_are_neither_one_per_image_nor_one_per_slice(t_shape):
    x = torch.zeros(2, 1, 3, 4, 4)
    with pytest.raises(DataError, match="one per image or"):
        SCHEDULE.add_noise(x, x, torch.zeros(t_shape, dtype=torch.int64))


def test_refuses_one_timestep_per_row_of_a_single_slice():
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(DataError, match="one per image or"):
        SCHEDULE.add_noise(x, x, torch.zeros(2, 4, dtype=torch.int64))


@pytest.mark.parametrize("count", [0, 1001])
@pytest.mark.parametrize("timesteps", [SCHEDULE.timesteps, SCHEDULE.leading_timesteps, SCHEDULE.log_snr_timesteps])
def test_refuses_more_or_fewer_samples_than_steps(timesteps, count):
    with pytest.raises(ConfigError, match=f"1 to 1000 steps .* got {count}"):
        timesteps(count)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"beta_start": 0.0}, {"beta_start": 0.03}, {"beta_end": 1.0}])
def test_refuses_a_schedule_out_of_range(settings):
    with pytest.raises(ConfigError, match="noise schedule needs"):
        NoiseSchedule(**settings)
