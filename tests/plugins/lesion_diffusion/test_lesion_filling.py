"""What lesion filling trains on, how it trains, and how it fills."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.config import DataConfig, MethodConfig, resolve_config
from zoo.descriptors import resolve
from zoo.errors import ConfigError, DataError
from zoo.imaging.cache import PackedCohort, pack_cohort
from zoo.imaging.cohort import read_cohort
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.training.launch import launch
from zoo_lesion_diffusion.baselines import biharmonic_fill
from zoo_lesion_diffusion.config import FillingOptions, SamplingConfig
from zoo_lesion_diffusion.examples import FillingExamples
from zoo_lesion_diffusion.schedule import noise_schedule
from zoo_lesion_diffusion.solve import Problem, random_draws, solve
from zoo_lesion_diffusion.tasks import fill
from zoo_lesion_diffusion.training import FillingTrainer


@pytest.fixture(scope="module")
def packed(phantom: Path) -> PackedCohort:
    cohort = read_cohort(phantom)
    return pack_cohort(cohort, DataConfig(spacing_mm=4.0), mask_bank=cohort, own_bank=True)


THESIS = (
    "neighbours=0",
    "diffusion.prediction=noise",
    "diffusion.residual_scale=0",
    "diffusion.pure_noise_share=0",
)


def _config(*assignments: str) -> MethodConfig:
    return resolve_config(
        registry().methods["lesion-filling"], preset="tiny", assignments=["data.spacing_mm=4.0", *assignments]
    )


def _many(examples: FillingExamples, count: int) -> list[dict[str, np.ndarray]]:
    return [examples.example(n % len(examples), np.random.default_rng(n)) for n in range(count)]


def test_circles_are_drawn_as_in_the_thesis(packed: PackedCohort) -> None:
    examples = FillingExamples(_config("masks=circles", "size=[256, 256]"), packed)
    radii, centres = [], []
    for n in range(400):
        mask = examples._circles(np.zeros((3, 256, 256), bool), np.random.default_rng(n))[1]
        radii.append(math.sqrt(mask.sum() / math.pi))
        if mask.any():
            centres.append(np.argwhere(mask).mean(axis=0))
    assert 2.5 <= min(radii) <= 6
    assert 45 <= max(radii) <= 50.5
    assert np.mean(radii) == pytest.approx(26.5, abs=2)
    assert np.mean(centres, axis=0) == pytest.approx([127.5, 127.5], abs=5)
    assert np.std(centres, axis=0) == pytest.approx([30, 30], abs=4)


def test_slab_has_one_centre_and_one_radius_per_slice(packed: PackedCohort) -> None:
    examples = FillingExamples(
        _config("masks=circles", "network=pseudo-3d", "slab=4", "neighbours=0", "size=[64, 64]"), packed
    )
    mask = examples._circles(np.zeros((4, 64, 64), bool), np.random.default_rng(3))
    assert mask.shape == (4, 64, 64)
    assert len({int(plane.sum()) for plane in mask}) == 4
    middles = [np.argwhere(plane).mean(axis=0) for plane in mask]
    assert np.ptp(middles, axis=0).max() < 1.5


@pytest.mark.parametrize("masks", ["circles", "lesions"])
def test_own_lesions_stay_visible_and_are_never_filled(packed: PackedCohort, masks: str) -> None:
    whole = FillingExamples(_config(f"masks={masks}", "size=[64, 64]", "augmentation.mirror=false"), packed)
    patients = [n for n, (scan, _) in enumerate(whole.starts) if whole.scans[scan].lesion_mask.any()]
    assert patients
    for n in patients[:20]:
        number, first = whole.starts[n]
        scan = whole.scans[number]
        mask = whole.example(n, np.random.default_rng(n))["lesion_mask"][1] > 0
        rows, columns = scan.shape[1:]
        top, left = -((rows - 64) // 2), -((columns - 64) // 2)
        assert not (mask[top : top + rows, left : left + columns] & scan.lesion_mask[first]).any()


def test_patients_can_be_left_out(packed: PackedCohort) -> None:
    healthy = FillingExamples(_config("lesions.in_context=false"), packed)
    assert healthy.scans
    assert not any(scan.lesion_mask.any() for scan in healthy.scans)


def test_lesion_masks_are_subsets_of_placed_lesions(packed: PackedCohort) -> None:
    examples = FillingExamples(_config("masks=lesions", "lesions.min_voxels=2"), packed)
    for n in range(60):
        rng = np.random.default_rng(n)
        number, first = examples.starts[n % len(examples)]
        drawn = examples._some_lesions(number, first, rng)
        sources = [laid.between(first - 1, first + 2) for laid in examples.lesions[number]]
        matching = [laid for laid in sources if {*map(tuple, drawn.voxels)} <= {*map(tuple, laid.voxels)}]
        assert matching
        _, counts = np.unique(drawn.between(first, first + 1).labels, return_counts=True)
        assert counts.min() >= 2
        assert {*drawn.labels} == {*drawn.between(first, first + 1).labels}
        _, there = np.unique(matching[0].between(first, first + 1).labels, return_counts=True)
        large = int((there >= 2).sum())
        assert len(counts) < large or large == 1  # never all, unless there is one


def _sparse(packed: PackedCohort) -> PackedCohort:
    """Keep the placed lesions on one slice of each scan, like children who have lesions on few slices."""
    lesions = []
    for laid in packed.lesions:
        slices = np.concatenate([one.voxels[:, 0] for one in laid])
        busiest = int(np.bincount(slices).argmax())
        lesions.append(tuple(one.between(busiest, busiest + 1) for one in laid))
    return PackedCohort(packed.scans, tuple(lesions))


def _lesion_share(examples: FillingExamples, count: int) -> float:
    """Return the share of examples whose mask is made of lesions, not circles."""
    windows = []
    circles = examples._circles
    examples._circles = lambda *args: windows.append(1) or circles(*args)  # type: ignore[method-assign, assignment, func-returns-value]
    for example in _many(examples, count):
        assert example["lesion_mask"][1].any()  # the slice that is filled, never its neighbours alone
    return 1 - len(windows) / count


@pytest.mark.parametrize(("masks", "share"), [("circles", 0), ("lesions", 1), ("mixture", 0.5)])
@pytest.mark.parametrize("size", [16, 64])
def test_masks_are_of_the_kind_in_the_settings(packed: PackedCohort, masks: str, share: float, size: int) -> None:
    examples = FillingExamples(_config(f"masks={masks}", f"size=[{size}, {size}]"), _sparse(packed))
    # 500 tosses of a coin: three standard deviations are 0.067.
    assert _lesion_share(examples, 500) == pytest.approx(share, abs=0.067 if masks == "mixture" else 0)


def test_lesion_examples_are_slices_with_lesions(packed: PackedCohort) -> None:
    sparse = _sparse(packed)
    every = FillingExamples(_config("masks=mixture"), sparse)
    only = FillingExamples(_config("masks=lesions"), sparse)
    assert 0 < len(only) < len(every)
    assert set(only.starts) < set(every.starts)
    for n in range(len(only)):
        number, first = only.starts[n]
        assert any((laid.voxels[:, 0] == first).any() for laid in sparse.lesions[number])


def test_lesions_too_small_for_the_settings_are_refused_by_their_size(packed: PackedCohort) -> None:
    for masks in ("lesions", "mixture"):
        with pytest.raises(DataError, match="lesions of 100000 voxels or more"):
            FillingExamples(_config(f"masks={masks}", "lesions.min_voxels=100000"), packed)


def test_circles_outside_the_window_are_drawn_again(packed: PackedCohort) -> None:
    examples = FillingExamples(_config("masks=circles", "circles.centre_sd=1"), packed)
    assert all(example["lesion_mask"][1].any() for example in _many(examples, 40))


def test_circles_that_find_no_place_are_refused(packed: PackedCohort) -> None:
    examples = FillingExamples(_config("masks=circles"), packed)
    with pytest.raises(DataError, match="circles in a row"):
        examples._circles(np.ones((3, 32, 32), bool), np.random.default_rng(0))


def test_examples_are_windows_of_the_packed_image(packed: PackedCohort) -> None:
    examples = FillingExamples(
        _config("masks=circles", "augmentation.mirror=false", "augmentation.brightness_probability=0"), packed
    )
    for n, example in enumerate(_many(examples, 12)):
        image, known, mask = example["image"], example["context"], example["lesion_mask"]
        assert image.shape == (1, 32, 32)
        assert known.shape == mask.shape == (3, 32, 32)
        assert set(np.unique(mask)) <= {0, 1}
        assert np.array_equal(known[1][mask[1] == 0], image[0][mask[1] == 0])
        scan = examples.scans[examples.starts[n][0]]
        inside = image[image > -1]
        assert np.isin(inside, np.unique(scan.images[examples.starts[n][1]].astype(np.float32))).all()


def test_lesion_masks_are_needed_unless_masks_are_circles(packed: PackedCohort) -> None:
    bare = PackedCohort(packed.scans, tuple(() for _ in packed.scans))
    with pytest.raises(DataError, match="--set masks=circles"):
        FillingExamples(_config("masks=mixture"), bare)
    assert len(FillingExamples(_config("masks=circles"), bare)) > 0


def test_scans_thinner_than_a_slab_are_refused(packed: PackedCohort) -> None:
    with pytest.raises(DataError, match="fewer than slab=400"):
        FillingExamples(_config("network=pseudo-3d", "slab=400", "neighbours=0"), packed)


def _trainer(*assignments: str) -> FillingTrainer:
    method = registry().methods["lesion-filling"]
    config = _config(*assignments)
    torch.manual_seed(0)
    return FillingTrainer(config, resolve(method.build)(config), launch(1, "32-true"))  # type: ignore[arg-type]


def _batch(*slab: int) -> dict[str, torch.Tensor]:
    """Return three examples without neighbours, with zeros in the holes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((3, 1, *slab, 32, 32), generator=generator) * 2 - 1
    mask = torch.zeros_like(image)
    mask[..., 8:16, 8:20] = 1
    return {"image": image, "context": image * (1 - mask), "lesion_mask": mask}


def test_loss_is_of_the_region_in_the_settings() -> None:
    trainer = _trainer(*THESIS)
    batch = _batch()

    def wrong_outside(noisy, known, mask, timestep):
        return noise * mask + 5 * (1 - mask)

    noise = Randomness([1, 2, 3])
    timestep = noise.integers(trainer.config.diffusion.steps)
    noise = noise.normal((1, 32, 32))
    assert timestep.shape == (3,)
    inside = trainer._loss(wrong_outside, batch, Randomness([1, 2, 3]))
    assert inside.tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    everywhere = _trainer(*THESIS, "diffusion.loss_region=image")._loss(wrong_outside, batch, Randomness([1, 2, 3]))
    assert (everywhere > 10).all()


SLAB = (*THESIS, "network=pseudo-3d", "slab=4", "diffusion.loss_region=image")


def _loss_of_zeros(*settings: str) -> tuple[FillingTrainer, torch.Tensor, torch.Tensor]:
    """Return a trainer, the loss of a network that predicts zeros on a batch of slabs, and its timesteps."""
    given: list[torch.Tensor] = []

    def denoiser(noisy, known, mask, timestep):
        given.append(timestep)
        return torch.zeros_like(noisy)

    trainer = _trainer(*SLAB, *settings)
    return trainer, trainer._loss(denoiser, _batch(4), Randomness([1, 2, 3])), given[0]


@pytest.mark.parametrize(("per", "shape"), [("slab", (3,)), ("slice", (3, 4))])
def test_a_slab_or_each_slice_has_a_noise_level(per: str, shape: tuple[int, ...]) -> None:
    _, _, timestep = _loss_of_zeros(f"diffusion.timestep_per={per}")
    assert timestep.shape == shape


def test_min_snr_weighs_the_loss_of_each_slice() -> None:
    _, loss, _ = _loss_of_zeros("diffusion.timestep_per=slice")
    trainer, weighted, timestep = _loss_of_zeros("diffusion.timestep_per=slice", "diffusion.min_snr_gamma=5")
    assert (weighted <= loss + 1e-6).all()
    assert torch.allclose(weighted, trainer.schedule.min_snr_weight(timestep, 5).mean(1) * loss, rtol=0.1)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    trainer = _trainer("training.images=1600", "training.batch_size=16", "optimiser.warmup_steps=10")
    rates = []
    for step in range(101):
        trainer.images_seen = 16 * step
        rates.append(trainer.learning_rate())
    peak = trainer.config.optimiser.learning_rate
    assert rates[0] == pytest.approx(peak / 10)
    assert rates[10] == pytest.approx(peak)
    assert rates[55] == pytest.approx(peak / 2)
    assert rates[100] == pytest.approx(0)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def _sample(config: MethodConfig, denoiser, known: torch.Tensor, mask: torch.Tensor, solver: str) -> torch.Tensor:
    noise = Randomness([1, 2, 3]).normal((1, 32, 32))
    problem = Problem(config, SamplingConfig(solver=solver, steps=6), known, mask)  # type: ignore[arg-type]
    return solve(denoiser, problem, noise, random_draws(Randomness([1, 2, 3])))


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm-solver++"])
def test_known_voxels_keep_their_values_while_sampling(solver: str) -> None:
    batch = _batch()
    image, mask = batch["image"], batch["lesion_mask"]
    filled = _sample(_config(*THESIS), lambda noisy, *_: torch.zeros_like(noisy), image, mask, solver)
    assert torch.allclose(filled * (1 - mask), image * (1 - mask), atol=2e-2)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm-solver++"])
@pytest.mark.parametrize("settings", [THESIS, ()], ids=["noise", "velocity of a difference"])
def test_a_network_that_knows_the_image_returns_it(solver: str, settings: tuple[str, ...]) -> None:
    config = _config(*settings)
    image, hole = _batch()["image"], _batch()["lesion_mask"]
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
    config = _config()
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
    config = _config("sampling.solver=ddim", "sampling.steps=4")
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
    config = _config("sampling.solver=ddim", "sampling.steps=4")
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
    config = _config()
    known, mask = (torch.cat([_batch()[name]] * 3, dim=1) for name in ("context", "lesion_mask"))
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
    plain = _config(*THESIS)
    volume, hole = torch.zeros(1, 32, 32, 4), torch.ones(32, 32, 4, dtype=torch.bool)
    with pytest.raises(ConfigError, match="only with a model that diffuses the difference"):
        fill({}, plain, volume, hole, FillingOptions(start=0.5))  # type: ignore[arg-type]


def test_a_share_of_the_examples_is_at_full_noise() -> None:
    given: list[torch.Tensor] = []

    def denoiser(noisy, known, mask, timestep):
        given.append(timestep)
        return torch.zeros_like(noisy)

    trainer = _trainer(*THESIS, "diffusion.pure_noise_share=0.4")
    for seed in range(100):
        trainer._loss(denoiser, _batch(), Randomness([3 * seed, 3 * seed + 1, 3 * seed + 2]))
    timesteps = torch.cat(given)
    assert (timesteps == 999).float().mean() == pytest.approx(0.4, abs=0.08)
    assert timesteps.float()[timesteps < 999].mean() == pytest.approx(499, abs=60)


def test_training_learns_the_phantom(packed: PackedCohort) -> None:
    trainer = _trainer("masks=circles", "training.images=100000", "diffusion.residual_scale=0")
    examples = FillingExamples(trainer.config, packed)  # type: ignore[arg-type]
    losses = []
    for step in range(60):
        rows = [examples.example((8 * step + n) % len(examples), np.random.default_rng([step, n])) for n in range(8)]
        batch = {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}
        losses.append(float(trainer.step(batch, Randomness(range(8 * step, 8 * step + 8)))["loss/denoise"]))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_a_fill_can_see_other_windows_than_training() -> None:
    config = _config("size=[64, 64]", "sampling.window=[48, 32]")
    seen = set()

    def denoiser(noisy: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(noisy.shape[-2:]))
        return torch.zeros_like(noisy)

    hole = torch.zeros(100, 90, 5, dtype=torch.bool)
    hole[40:44, 50:53, 2] = True
    fill({"denoiser": denoiser}, config, torch.zeros(1, 100, 90, 5), hole, FillingOptions())  # type: ignore[arg-type]
    assert seen == {(48, 32)}


def test_the_window_of_a_fill_is_that_of_exports_and_not_of_training() -> None:
    config = _config("size=[64, 64]", "sampling.window=[48, 32]")
    assert resolve(registry().methods["lesion-filling"].parts)(config)["denoiser"].inputs[0].shape[-2:] == (48, 32)
    assert config.while_training.window == (64, 64)  # type: ignore[attr-defined]


def test_a_window_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling\.window \(51, 48\) must be multiples of 2"):
        _config("sampling.window=[51, 48]")


# --- The task. ---


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
