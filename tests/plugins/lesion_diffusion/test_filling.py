"""How a trained model fills: batches of windows, and volumes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.plugins.lesion_diffusion.filling import THESIS, batch_of_three, filling_config
from zoo.config import MethodConfig, resolve_config
from zoo.descriptors import resolve
from zoo.errors import ConfigError, DataError
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo_lesion_diffusion.baselines import biharmonic_fill
from zoo_lesion_diffusion.config import FillingOptions, SamplingConfig
from zoo_lesion_diffusion.schedule import noise_schedule
from zoo_lesion_diffusion.solve import Problem, random_draws, solve
from zoo_lesion_diffusion.tasks import fill


def _sample(config: MethodConfig, denoiser, known: torch.Tensor, mask: torch.Tensor, solver: str) -> torch.Tensor:
    noise = Randomness([1, 2, 3]).normal((1, 32, 32))
    problem = Problem(config, SamplingConfig(solver=solver, steps=6), known, mask)  # type: ignore[arg-type]
    return solve(denoiser, problem, noise, random_draws(Randomness([1, 2, 3])))


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm-solver++"])
def test_known_voxels_keep_their_values_while_sampling(solver: str) -> None:
    batch = batch_of_three()
    image, mask = batch["image"], batch["lesion_mask"]
    filled = _sample(filling_config(*THESIS), lambda noisy, *_: torch.zeros_like(noisy), image, mask, solver)
    assert torch.allclose(filled * (1 - mask), image * (1 - mask), atol=2e-2)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm-solver++"])
@pytest.mark.parametrize("settings", [THESIS, ()], ids=["noise", "velocity of a difference"])
def test_a_network_that_knows_the_image_returns_it(solver: str, settings: tuple[str, ...]) -> None:
    config = filling_config(*settings)
    image, hole = batch_of_three()["image"], batch_of_three()["lesion_mask"]
    schedule = noise_schedule(config)  # type: ignore[arg-type]
    scale, slices = config.diffusion.residual_scale, config.seen_slices  # type: ignore[attr-defined]
    coarse = torch.where(hole.bool(), 0.3, image)
    truth = (image - coarse) / scale if scale else image

    def knowing(noisy, known, mask, timestep):
        alpha_bar = float(schedule.alpha_bar[int(timestep[0])])
        epsilon = (noisy - math.sqrt(alpha_bar) * truth) / math.sqrt(1 - alpha_bar)
        return schedule.velocity(truth, epsilon, timestep) if scale else epsilon

    known, mask = (torch.cat([stack] * slices, dim=1) for stack in (coarse if scale else image * (1 - hole), hole))
    filled = _sample(config, knowing, known, mask, solver)
    assert torch.allclose(filled, image, atol=1e-3)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm-solver++"])
def test_one_step_of_any_solver_is_the_networks_image_and_not_the_biharmonic_fill(solver: str) -> None:
    config = filling_config()
    image = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    hole = torch.zeros(40, 40, 3, dtype=torch.bool)
    hole[14:22, 12:25, 1] = True
    given: list[int] = []

    def denoiser(noisy: torch.Tensor, known: torch.Tensor, mask: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        given.extend(timestep.tolist())
        return torch.full_like(noisy, -0.8)  # v at full noise is minus the difference to the biharmonic fill

    options = FillingOptions(solver=solver, steps=1)  # type: ignore[arg-type]
    filled = fill({"denoiser": denoiser}, config, image, hole, options)  # type: ignore[arg-type]
    assert given == [999]
    coarse = torch.from_numpy(biharmonic_fill(image.permute(0, 3, 1, 2).numpy(), hole.permute(2, 0, 1).numpy()))
    expected = coarse.permute(0, 2, 3, 1) + 0.25 * 0.8
    # The equation adds sqrt(alpha_bar_T) = 0.006 of the noise.
    assert (filled - expected)[:, hole].abs().max() < 0.01


def test_recorded_settings_are_read_again() -> None:
    config = filling_config("sampling.solver=ddim", "sampling.steps=4")
    assert config.sampling.spacing == "trailing"  # type: ignore[attr-defined]
    assert type(config).model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("options", "timesteps"),
    [(FillingOptions(), [750, 500, 250, 0]), (FillingOptions(steps=2), [999, 499])],
    ids=["its own steps", "other steps"],
)
def test_a_model_of_0_1_0_starts_below_full_noise_with_its_own_steps_alone(
    options: FillingOptions, timesteps: list[int]
) -> None:
    config = filling_config("sampling.solver=ddim", "sampling.steps=4")
    recorded = config.model_dump(mode="json")
    del recorded["sampling"]["spacing"]  # 0.1.0 did not record it
    hole = torch.zeros(40, 40, 3, dtype=torch.bool)
    hole[14:22, 12:25, 1] = True
    given: list[int] = []

    def denoiser(noisy: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        given.extend(conditions[-1].tolist())
        return torch.zeros_like(noisy)

    old = type(config).model_validate(recorded)
    fill({"denoiser": denoiser}, old, torch.zeros(1, 40, 40, 3), hole, options)  # type: ignore[arg-type]
    assert given == timesteps


def test_a_fill_can_begin_at_the_biharmonic_fill() -> None:
    config = filling_config()
    known, mask = (torch.cat([batch_of_three()[name]] * 3, dim=1) for name in ("context", "lesion_mask"))
    given: list[int] = []

    def no_change(noisy, known, mask, timestep):
        given.append(int(timestep[0]))
        alpha_bar = float(noise_schedule(config).alpha_bar[given[-1]])  # type: ignore[arg-type]
        return noisy * math.sqrt(alpha_bar) / math.sqrt(1 - alpha_bar)  # the velocity of noise on no difference

    noise = Randomness([1, 2, 3]).normal((1, 32, 32))
    problem = Problem(config, SamplingConfig(steps=3, start=0.4), known, mask)  # type: ignore[arg-type]
    filled = solve(no_change, problem, noise, random_draws(Randomness([1, 2, 3])))
    assert given[0] == 399
    assert len(given) == 3
    assert torch.allclose(filled, known[:, 1:2].clamp(-1, 1), atol=1e-3)


def test_a_model_of_the_image_itself_begins_at_noise_alone() -> None:
    plain = filling_config(*THESIS)
    volume, hole = torch.zeros(1, 32, 32, 4), torch.ones(32, 32, 4, dtype=torch.bool)
    with pytest.raises(ConfigError, match="only with a model that diffuses the difference"):
        fill({}, plain, volume, hole, FillingOptions(start=0.5))  # type: ignore[arg-type]


def test_a_fill_can_see_other_windows_than_training() -> None:
    config = filling_config("size=[64, 64]", "sampling.window=[48, 32]")
    seen = set()

    def denoiser(noisy: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(noisy.shape[-2:]))
        return torch.zeros_like(noisy)

    hole = torch.zeros(100, 90, 5, dtype=torch.bool)
    hole[40:44, 50:53, 2] = True
    fill({"denoiser": denoiser}, config, torch.zeros(1, 100, 90, 5), hole, FillingOptions())  # type: ignore[arg-type]
    assert seen == {(48, 32)}


def test_the_window_of_a_fill_is_that_of_exports_and_not_of_training() -> None:
    config = filling_config("size=[64, 64]", "sampling.window=[48, 32]")
    assert resolve(registry().methods["lesion-filling"].parts)(config)["denoiser"].inputs[0].shape[-2:] == (48, 32)
    assert config.while_training.window == (64, 64)  # type: ignore[attr-defined]


def test_a_window_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling\.window \(51, 48\) must be multiples of 2"):
        filling_config("sampling.window=[51, 48]")


def test_seed_decides_and_batches_do_not(trained: Path) -> None:
    artifact = zoo.load(trained)
    parts = artifact.parts()
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(-1, 1, (1, 40, 50, 6)).astype(np.float32))
    mask = torch.from_numpy(rng.random((40, 50, 6)) < 0.01)
    results = [
        fill(parts, artifact.config, image, mask, FillingOptions(seed=seed, batch_size=size))
        for seed, size in ((0, 16), (0, 3), (1, 16))
    ]
    assert torch.allclose(results[0], results[1], atol=1e-5)
    assert not torch.allclose(results[0], results[2], atol=1e-2)
    assert torch.equal(results[0][:, ~mask], image[:, ~mask])


@pytest.mark.parametrize("count", [1, 1000])
def test_specks_everywhere_and_at_the_edges_are_filled(trained: Path, count: int) -> None:
    artifact = zoo.load(trained)
    rng = np.random.default_rng(count)
    image = torch.from_numpy(rng.uniform(-1, 1, (1, 40, 44, 12)).astype(np.float32))
    mask = torch.zeros(40, 44, 12, dtype=torch.bool)
    mask[[0, 39, 0, 39], [0, 43, 43, 0], [0, 11, 0, 11]] = True  # corners
    mask.view(-1)[torch.from_numpy(rng.permutation(mask.numel())[:count])] = True
    filled = fill(artifact.parts(), artifact.config, image, mask, FillingOptions())  # type: ignore[arg-type]
    assert torch.isfinite(filled).all()
    assert torch.equal(filled[:, ~mask], image[:, ~mask])
    assert (filled[:, mask] != image[:, mask]).float().mean() > 0.99


def test_volume_thinner_than_the_slab_is_refused() -> None:
    config = resolve_config(
        registry().methods["lesion-filling"], preset="tiny", assignments=["network=pseudo-3d", "slab=4", "neighbours=0"]
    )
    with pytest.raises(DataError, match="has 3 slices; this model sees 4 together"):
        fill({}, config, torch.zeros(1, 8, 8, 3), torch.ones(8, 8, 3, dtype=torch.bool), FillingOptions())
