"""RePaint: its moves between noise levels, its result with a known denoiser, and training of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.config import DataConfig, resolve_config
from zoo.descriptors import resolve
from zoo.errors import ConfigError
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.training.launch import launch
from zoo_lesion_diffusion.config import PriorConfig, PriorOptions
from zoo_lesion_diffusion.examples import PriorExamples
from zoo_lesion_diffusion.repaint import evaluations, repaint, repaint_moves
from zoo_lesion_diffusion.samplers import ddpm
from zoo_lesion_diffusion.schedule import NoiseSchedule
from zoo_lesion_diffusion.tasks import fill_with_prior
from zoo_lesion_diffusion.training import PriorTrainer

SCHEDULE = NoiseSchedule()


def _config(*assignments: str) -> PriorConfig:
    method = registry().methods["lesion-prior"]
    config = resolve_config(method, preset="tiny", assignments=["data.spacing_mm=4.0", *assignments])
    assert isinstance(config, PriorConfig)
    return config


def _noise(seed: int = 0) -> Callable[[torch.Size], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator)


def _image(*shape: int) -> tuple[Tensor, Tensor]:
    """Return an image in [-1, 1] and a hole in its middle."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(7)) * 2 - 1
    hole = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    hole[..., 2:5, 1:5] = True
    return image, hole


# Moves.


@pytest.mark.parametrize(
    ("steps", "jump_length", "resamples", "expected"),
    [(50, 8, 10, 482), (250, 10, 10, 2410), (50, 2, 2, 98), (50, 8, 1, 50), (1, 1, 1, 1), (2, 1, 3, 4), (10, 9, 2, 19)],
)
def test_evaluations_are_those_of_the_papers(steps: int, jump_length: int, resamples: int, expected: int) -> None:
    moves = repaint_moves(steps, jump_length, resamples)
    jumps = len(range(0, steps - jump_length, jump_length)) * (resamples - 1)
    assert evaluations(moves) == expected == steps + jumps * jump_length
    assert len(moves) == expected + jumps
    called = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        called.append(int(t[0]))
        return torch.zeros_like(x)

    image, hole = _image(1, 1, 6, 6)
    seen: list[tuple[int, int]] = []
    timesteps = SCHEDULE.timesteps(steps)
    repaint(
        denoise,
        image,
        image,
        hole,
        SCHEDULE,
        timesteps,
        jump_length=jump_length,
        resamples=resamples,
        noise=_noise(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert called == [timesteps[steps - here] for here, there in moves if there < here]
    assert seen == [(number + 1, expected) for number in range(expected)]


def test_moves_are_one_path_from_noise_to_image() -> None:
    assert repaint_moves(4, 2, 2) == [(4, 3), (3, 2), (2, 1), (1, 0), (0, 2), (2, 1), (1, 0)]
    moves = repaint_moves(50, 8, 10)
    assert moves[0][0] == 50
    assert moves[-1][1] == 0
    assert all(before[1] == after[0] for before, after in pairwise(moves))
    jumps = [move for move in moves if move[1] > move[0]]
    assert {move: jumps.count(move) for move in jumps} == {(low, low + 8): 9 for low in (0, 8, 16, 24, 32, 40)}


@pytest.mark.parametrize("numbers", [(0, 1, 1), (5, 0, 1), (5, 1, 0), (8, 8, 2)])
def test_numbers_out_of_range_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=f"got {numbers[0]}, {numbers[1]} and {numbers[2]}"):
        repaint_moves(*numbers)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="jump_length 8 does not fit into steps 5"):
        _config("sampling.steps=5", "sampling.jump_length=8")
    with pytest.raises(ConfigError, match=r"sampling.steps 10 exceeds .* diffusion.steps 9"):
        _config("diffusion.steps=9")
    image, mask = torch.zeros(1, 8, 8, 3), torch.ones(8, 8, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match="jump_length 2 does not fit into steps 2"):
        fill_with_prior({}, _config(), image, mask, PriorOptions(steps=2))


# What a known denoiser is made of.


@pytest.mark.parametrize("shape", [(3, 1, 6, 6), (2, 1, 4, 6, 6)])
def test_known_voxels_come_back_exactly_and_values_in_the_hole_are_not_used(shape: tuple[int, ...]) -> None:
    image, hole = _image(*shape)
    weights = torch.linspace(-1, 1, 6)

    def run(known: Tensor) -> Tensor:
        return repaint(
            lambda x, t: torch.tanh(x * weights),
            torch.ones(shape),
            known,
            hole,
            SCHEDULE,
            SCHEDULE.timesteps(8),
            jump_length=3,
            resamples=3,
            noise=_noise(),
        )

    filled = run(image)
    assert torch.equal(filled[~hole], image[~hole])
    assert not torch.allclose(filled[hole], image[hole])
    assert torch.equal(filled, run(torch.where(hole, torch.nan, image)))


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_denoiser_that_knows_the_truth_fills_the_hole_with_it(prediction: str) -> None:
    config = _config(f"diffusion.prediction={prediction}")
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.uniform(-1, 1, (1, 20, 30, 4)).astype(np.float32))
    mask = torch.zeros(20, 30, 4, dtype=torch.bool)
    mask[8:12, 10:20, 1:3] = True
    slices = torch.zeros(4, 1, 32, 32) - 1
    slices[:, 0, 6:26, 1:31] = truth[0].permute(2, 0, 1)  # the windows hold the slices whole
    schedule = NoiseSchedule()

    def knowing(noisy: Tensor, timestep: Tensor) -> Tensor:
        image = slices[1 : 1 + len(noisy)]
        alpha_bar = float(schedule.alpha_bar[int(timestep[0])])
        epsilon = (noisy - math.sqrt(alpha_bar) * image) / math.sqrt(1 - alpha_bar)
        return schedule.velocity(image, epsilon, timestep) if prediction == "velocity" else epsilon

    sick = torch.where(mask, -1, truth)
    filled = fill_with_prior({"denoiser": knowing}, config, sick, mask, PriorOptions())
    assert torch.allclose(filled, truth, atol=1e-3)
    assert torch.equal(filled[:, ~mask], truth[:, ~mask])


def test_a_jump_is_one_draw_of_the_right_variance() -> None:
    # Four levels, jumps of two: the state that the network sees after the jump is the image, noised to level 2.
    timesteps = SCHEDULE.timesteps(4)
    shape = (1, 1, 200, 200)
    image = torch.full(shape, 0.5)
    given: list[Tensor] = []
    seen: list[Tensor] = []

    def noise(wanted: torch.Size) -> Tensor:
        given.append(torch.randn(wanted, generator=torch.Generator().manual_seed(len(given))))
        return given[-1]

    def knowing(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        alpha_bar = float(SCHEDULE.alpha_bar[int(t[0])])
        return (x - math.sqrt(alpha_bar) * image) / math.sqrt(1 - alpha_bar)

    everywhere = torch.ones(shape, dtype=torch.bool)
    repaint(
        knowing, torch.zeros(shape), image, everywhere, SCHEDULE, timesteps, jump_length=2, resamples=2, noise=noise
    )
    moves = repaint_moves(4, 2, 2)
    assert len(given) == 1 + sum(there > 0 for _, there in moves)
    landed = seen[4]  # after 4 3 2 1 0 and the jump to 2
    alpha_bar = float(SCHEDULE.alpha_bar[timesteps[2]])
    assert landed.mean().item() == pytest.approx(math.sqrt(alpha_bar) * 0.5, abs=0.02)
    assert landed.var().item() == pytest.approx(1 - alpha_bar, rel=0.03)
    # Exactly: the denoiser that knows the image left it whole at level 0.
    torch.testing.assert_close(landed, math.sqrt(alpha_bar) * image + math.sqrt(1 - alpha_bar) * given[4])


def test_every_level_has_the_variance_of_its_timestep() -> None:
    """Voxels of a standard normal prior have variance 1 at every level if the moves are right."""
    shape = (1, 1, 150, 150)
    variances = []

    def standard(x: Tensor, t: Tensor) -> Tensor:
        variances.append(x.var().item())
        return math.sqrt(1 - float(SCHEDULE.alpha_bar[int(t[0])])) * x

    everywhere = torch.ones(shape, dtype=torch.bool)
    noise = _noise(3)
    repaint(
        standard,
        noise(torch.Size(shape)),
        torch.zeros(shape),
        everywhere,
        SCHEDULE,
        SCHEDULE.timesteps(250),
        jump_length=10,
        resamples=2,
        noise=noise,
        clip=False,
    )
    # 22,500 voxels: a standard error of 0.01; the posterior's variance, the smaller choice, takes a little.
    assert min(variances) > 0.93
    assert max(variances) < 1.04


MEAN, STD, CORRELATION = 0.1, 0.25, 0.9


def _right_of_a_pair(resamples: int) -> tuple[float, float]:
    """Fill the right of two correlated voxels, given the left.

    Returns:
        The slope of the filled voxel on its conditional mean, 1 if it is right, and its deviation around that line.
    """
    covariance = STD**2 * torch.tensor([[1, CORRELATION], [CORRELATION, 1]])

    def gaussian(x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = float(SCHEDULE.alpha_bar[int(t[0])])
        noised = alpha_bar * covariance + (1 - alpha_bar) * torch.eye(2)
        return math.sqrt(1 - alpha_bar) * (x - math.sqrt(alpha_bar) * MEAN) @ torch.linalg.inv(noised)

    noise = _noise(1)
    known = MEAN + STD * torch.linspace(-1.5, 1.5, 2000).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    filled = repaint(
        gaussian,
        noise(known.shape),
        known,
        torch.tensor([False, True]).expand(2000, 1, 1, 2),
        SCHEDULE,
        SCHEDULE.timesteps(250),
        jump_length=10,
        resamples=resamples,
        noise=noise,
        clip=False,
    )
    wanted, got = CORRELATION * (known[..., 0] - MEAN).flatten(), (filled[..., 1] - MEAN).flatten()
    slope = (wanted * got).sum() / wanted.square().sum()
    return slope.item(), (got - slope * wanted).std().item()


def test_resampling_brings_a_gaussian_prior_to_its_conditional_distribution() -> None:
    slope, deviation = _right_of_a_pair(resamples=10)
    # The paper's settings. The known voxel of one level is not drawn together with the other voxel of that level, so
    # what is known weighs a little less than it should; without resampling a third less.
    assert slope == pytest.approx(1, abs=0.1)
    assert deviation == pytest.approx(STD * math.sqrt(1 - CORRELATION**2), rel=0.1)
    assert _right_of_a_pair(resamples=1)[0] < 0.75


def test_without_jumps_and_known_voxels_it_is_ddpm() -> None:
    shape = (2, 1, 6, 6)
    start, timesteps = _noise(5)(torch.Size(shape)), SCHEDULE.timesteps(7)
    everywhere = torch.ones(shape, dtype=torch.bool)
    noise = _noise(6)
    noise(torch.Size(shape))  # that of the known part at the start
    expected = ddpm(lambda x, t: torch.tanh(x), start, SCHEDULE, timesteps, noise=noise)
    filled = repaint(
        lambda x, t: torch.tanh(x),
        start,
        torch.zeros(shape),
        everywhere,
        SCHEDULE,
        timesteps,
        jump_length=3,
        resamples=1,
        noise=_noise(6),
    )
    torch.testing.assert_close(filled, expected)


# The task.


@pytest.mark.parametrize("settings", [(), ("network=pseudo-3d", "slab=4")], ids=["2d", "pseudo-3d"])
def test_seed_decides_and_batches_do_not(settings: tuple[str, ...]) -> None:
    config = _config(*settings)
    torch.manual_seed(0)
    model = resolve(registry().methods["lesion-prior"].build)(config).eval()
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(-1, 1, (1, 40, 50, 8)).astype(np.float32))
    mask = torch.from_numpy(rng.random((40, 50, 8)) < 0.003)
    with torch.inference_mode():
        filled = [
            fill_with_prior({"denoiser": model}, config, image, mask, PriorOptions(seed=seed, batch_size=size))
            for seed, size in ((0, 16), (0, 3), (1, 16))
        ]
    assert torch.allclose(filled[0], filled[1], atol=1e-4)
    assert not torch.allclose(filled[0], filled[2], atol=1e-2)
    assert torch.equal(filled[0][:, ~mask], image[:, ~mask])


def test_options_override_settings() -> None:
    config = _config()
    calls = []

    def denoiser(noisy: Tensor, timestep: Tensor) -> Tensor:
        calls.append(timestep)
        return torch.zeros_like(noisy)

    image, mask = torch.zeros(1, 16, 16, 3), torch.zeros(16, 16, 3, dtype=torch.bool)
    mask[4:8, 4:8, 1] = True
    for options, expected in ((PriorOptions(), 18), (PriorOptions(steps=6, jump_length=3, resamples=4), 15)):
        calls.clear()
        fill_with_prior({"denoiser": denoiser}, config, image, mask, options)
        assert len(calls) == expected
    assert "solver" not in PriorOptions.model_fields


# What the prior learns from.


@pytest.fixture(scope="module")
def packed(phantom: Path) -> PackedCohort:
    return pack_cohort(read_cohort(phantom), DataConfig(spacing_mm=4.0))


@pytest.mark.parametrize("settings", [(), ("network=pseudo-3d", "slab=3")], ids=["2d", "pseudo-3d"])
def test_slices_with_lesions_are_no_examples(packed: PackedCohort, settings: tuple[str, ...]) -> None:
    config = _config(*settings)
    examples = PriorExamples(config, packed)
    patients = {number for number, scan in enumerate(examples.scans) if scan.lesion_mask.any()}
    assert patients & {number for number, _ in examples.starts}
    for number, first in examples.starts:
        scan = examples.scans[number]
        assert not scan.lesion_mask[first : first + config.slab].any()
        assert scan.white_matter[first].any()
    healthy = PriorExamples(_config(*settings, "patients=false"), packed)
    assert 0 < len(healthy) < len(examples)
    assert not any(scan.lesion_mask.any() for scan in healthy.scans)


def test_examples_are_windows_of_the_packed_image(packed: PackedCohort) -> None:
    examples = PriorExamples(_config("augmentation.mirror=false", "augmentation.brightness_probability=0"), packed)
    for index in range(8):
        example = examples.example(index, np.random.default_rng(index))
        assert example.keys() == {"image"}
        image = example["image"]
        assert image.shape == (1, 32, 32)
        assert image.dtype == np.float32
        number, first = examples.starts[index]
        assert np.isin(image[image > -1], examples.scans[number].images[first].astype(np.float32)).all()


def _trainer(*assignments: str) -> PriorTrainer:
    config = _config(*assignments)
    torch.manual_seed(0)
    return PriorTrainer(config, resolve(registry().methods["lesion-prior"].build)(config), launch(1, "32-true"))


def test_loss_is_of_the_whole_window() -> None:
    trainer = _trainer("diffusion.prediction=noise")
    batch = {"image": torch.zeros(3, 1, 32, 32)}
    given: dict[str, Any] = {}

    def denoiser(noisy: Tensor, timestep: Tensor) -> Tensor:
        given["timestep"] = timestep
        sigma = (1 - torch.tensor(SCHEDULE.alpha_bar)[timestep]).sqrt().float().reshape(-1, 1, 1, 1)
        wrong = torch.zeros_like(noisy)
        wrong[:, :, :16] = 2
        return noisy / sigma + wrong  # the noise itself, except in half of the rows

    loss = trainer._loss(denoiser, batch, Randomness([1, 2, 3]))  # type: ignore[arg-type]
    assert loss.tolist() == pytest.approx([2, 2, 2], rel=1e-4)
    assert len(set(given["timestep"].tolist())) > 1


def test_training_learns_the_phantom(packed: PackedCohort) -> None:
    trainer = _trainer("training.images=100000")
    examples = PriorExamples(trainer.config, packed)
    losses = []
    for step in range(60):
        rows = [examples.example((8 * step + n) % len(examples), np.random.default_rng([step, n])) for n in range(8)]
        batch = {"image": torch.stack([torch.as_tensor(row["image"]) for row in rows])}
        losses.append(float(trainer.step(batch, Randomness(range(8 * step, 8 * step + 8)))["loss/denoise"]))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    pictures = trainer.preview(batch, Randomness(range(8)))
    assert pictures.shape == (8, 4, 32, 32)
    assert torch.isfinite(pictures).all()
