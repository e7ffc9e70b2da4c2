"""How lesion filling trains: its loss, its noise levels and its learning rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.plugins.lesion_diffusion.filling import THESIS, batch_of_three, filling_config
from zoo.descriptors import resolve
from zoo.imaging.cache import PackedCohort
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.training.launch import launch
from zoo_lesion_diffusion.examples import FillingExamples
from zoo_lesion_diffusion.training import FillingTrainer


def _trainer(*assignments: str) -> FillingTrainer:
    method = registry().methods["lesion-filling"]
    config = filling_config(*assignments)
    torch.manual_seed(0)
    return FillingTrainer(config, resolve(method.build)(config), launch(1, "32-true"))  # type: ignore[arg-type]


def test_loss_is_of_the_region_in_the_settings() -> None:
    trainer = _trainer(*THESIS)
    batch = batch_of_three()

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
    return trainer, trainer._loss(denoiser, batch_of_three(4), Randomness([1, 2, 3])), given[0]


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


def test_a_share_of_the_examples_is_at_full_noise() -> None:
    given: list[torch.Tensor] = []

    def denoiser(noisy, known, mask, timestep):
        given.append(timestep)
        return torch.zeros_like(noisy)

    trainer = _trainer(*THESIS, "diffusion.pure_noise_share=0.4")
    for seed in range(100):
        trainer._loss(denoiser, batch_of_three(), Randomness([3 * seed, 3 * seed + 1, 3 * seed + 2]))
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
