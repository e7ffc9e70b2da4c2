"""Training of the denoisers: predict the noise, for filling given what is known of the image and the mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.imaging.masks import circle
from zoo.metrics.image import masked_mean, ssim_map
from zoo.nn.ema import MovingAverage
from zoo.randomness import Randomness
from zoo.training.protocol import Batch
from zoo_lesion_diffusion.conditions import middle
from zoo_lesion_diffusion.config import DenoiserConfig, FillingConfig, PriorConfig
from zoo_lesion_diffusion.samplers import ddim
from zoo_lesion_diffusion.schedule import noise_schedule
from zoo_lesion_diffusion.solve import PriorProblem, Problem, random_draws, solve, solve_by_repaint


class DenoisingTrainer:
    """Training shared by all denoisers; subclasses define the loss and the pictures.

    Attributes:
        ema: The model with the exponential moving average of the weights; it is validated and saved. The model itself
            if ``optimiser.average_half_life_images`` is 0.

    Source: Uhr 2024, section 3.1 and table 3.1. Departures, all settings: one noise level per slab, averaged weights,
    min-SNR weights of the loss (Hang et al. 2023; tried in section 3.4).
    """

    def __init__(self, config: DenoiserConfig, model: nn.Module, fabric: Fabric) -> None:
        self.config = config
        self.fabric = fabric
        self.schedule = noise_schedule(config)
        # Channels-last is 1.1 to 1.5 times as fast on CPUs and on tensor cores.
        self.model = model.to(fabric.device).to(memory_format=torch.channels_last)
        self._moving_average = MovingAverage(self.model, config.optimiser.average_half_life_images)
        self.ema = self._moving_average.model
        optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.optimiser.learning_rate, weight_decay=config.optimiser.weight_decay
        )
        self.denoise, self.optimiser = fabric.setup(self.model, optimiser)
        self.images_seen = 0

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Do one optimisation step and return the loss and the gradient's norm before clipping."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        loss = self._loss(self.denoise, batch, random).mean()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.denoise, self.optimiser, max_norm=self.config.optimiser.gradient_clip, error_if_nonfinite=False
        )
        self.optimiser.step()
        self.optimiser.zero_grad()
        images = len(batch["image"]) * self.fabric.world_size
        self.images_seen += images
        self._moving_average.update(self.images_seen, images)
        return {"loss/denoise": loss.detach(), "gradient/norm": torch.as_tensor(norm)}

    def learning_rate(self) -> float:
        """Return the rate of the next step: a linear rise, then half a cosine down to 0 at the last image."""
        settings, training = self.config.optimiser, self.config.training
        step = self.images_seen // training.batch_size
        total = max(training.images // training.batch_size, 1)
        if step < settings.warmup_steps:
            return settings.learning_rate * (step + 1) / settings.warmup_steps
        progress = min((step - settings.warmup_steps) / max(total - settings.warmup_steps, 1), 1.0)
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def _loss(self, denoise: nn.Module, batch: Batch, random: Randomness) -> Tensor:
        """Return the loss of each image, ``[B]``."""
        raise NotImplementedError

    def _error(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        image: Tensor,
        random: Randomness,
        pure_noise_share: float = 0.0,
    ) -> Tensor:
        """Return the weighted squared error of the predicted noise or velocity, the shape of ``image``.

        Args:
            denoise: Callable ``(noisy, timestep) -> noise or velocity``.
            image: What is diffused, ``[B, C, (D,) H, W]``.
            random: Source of timesteps and noise.
            pure_noise_share: Share of examples at the last timestep.

        Source: Ho et al. 2020, equation 14; for velocity Salimans and Ho 2022, section 4.
        """
        diffusion = self.config.diffusion
        slices = image.shape[2:3] if diffusion.timestep_per == "slice" and image.dim() == 5 else ()
        timestep = random.integers(diffusion.steps, slices)
        noise = random.normal(image.shape[1:])
        begins = random.uniform(slices) < pure_noise_share
        timestep = torch.where(begins, diffusion.steps - 1, timestep)
        predicted = denoise(self.schedule.add_noise(image, noise, timestep), timestep)
        velocity = diffusion.prediction == "velocity"
        target = self.schedule.velocity(image, noise, timestep) if velocity else noise
        error = (predicted.float() - target).square()
        if diffusion.min_snr_gamma is not None:
            weight = self.schedule.min_snr_weight(timestep, diffusion.min_snr_gamma, diffusion.prediction)  # [B(, D)]
            error = error * weight.reshape(len(weight), 1, *weight.shape[1:], *[1] * (error.dim() - 1 - weight.dim()))
        return error

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Return the noise-prediction loss of the averaged model, ``[B]``."""
        self.ema.eval()
        return {"loss": self._loss(self.ema, batch, random)}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, their moving average, the optimiser's state and the images seen."""
        return {
            "model": self.model.state_dict(),
            "average": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "images_seen": self.images_seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.images_seen = state["images_seen"]


class FillingTrainer(DenoisingTrainer):
    """Training of conditional noise prediction.

    Source: Uhr 2024, equation 3.6, figure 3.9 and table 3.1. Departures, all settings: those of `DenoisingTrainer`;
    a loss of the voxels in the mask alone.
    """

    config: FillingConfig

    def _loss(self, denoise: nn.Module, batch: Batch, random: Randomness) -> Tensor:
        known, holes, diffusion = batch["context"], batch["lesion_mask"], self.config.diffusion
        image, mask = batch["image"], middle(holes, self.config)
        if diffusion.residual_scale:
            image = (image - middle(known, self.config)) / diffusion.residual_scale
        error = self._error(
            lambda noisy, timestep: denoise(noisy, known, holes, timestep), image, random, diffusion.pure_noise_share
        )
        if diffusion.loss_region == "image":
            return error.flatten(1).mean(1)
        inside = (error * mask).flatten(1).sum(1) / error.shape[1]
        return inside / mask.flatten(1).sum(1).clamp(min=1)

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Return the averaged model's loss, ``[B]``; before it, if the settings say so, 1 - SSIM in the masks."""
        loss = super().validate(batch, random)
        if self.config.checkpoint_score == "loss":
            return loss
        image, mask = batch["image"], middle(batch["lesion_mask"], self.config)
        truth, filled = (_slices(stack) for stack in (image, self._filled(batch, random)))
        similarity = ssim_map(filled, truth).reshape(len(image), -1, *image.shape[-2:])
        inside = masked_mean(similarity, mask.flatten(1, -3).repeat(1, image.shape[1], 1, 1))
        return {"one minus ssim": 1 - inside, **loss}

    def _filled(self, batch: Batch, random: Randomness) -> Tensor:
        """Return the images with the masks filled by the averaged model."""
        self.ema.eval()
        image, mask = batch["image"], middle(batch["lesion_mask"], self.config)
        problem = Problem(self.config, self.config.sampling, batch["context"], batch["lesion_mask"])
        noise = random.normal(image.shape[1:])
        filled = solve(self.ema, problem, noise, random_draws(random))
        return image * (1 - mask) + filled * mask

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        """Return true image, image with a hole and filled image, ``[B, 3, H, W]``: first channel, middle slice."""
        image, mask = batch["image"], middle(batch["lesion_mask"], self.config)
        filled = self._filled(batch, random)
        shown = torch.stack([image, image * (1 - mask) - mask, filled], dim=1)[:, :, 0]
        return _pictures(shown)


class PriorTrainer(DenoisingTrainer):
    """Training of unconditional noise prediction, over the whole window.

    Source: Uhr 2024, sections 3.1 and 3.2 "Unconditional Lesion Filling", after Ho et al. 2020, algorithm 1.
    Departures: those of `DenoisingTrainer`.
    """

    config: PriorConfig

    def _loss(self, denoise: nn.Module, batch: Batch, random: Randomness) -> Tensor:
        return self._error(denoise, batch["image"], random).flatten(1).mean(1)

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        """Return true image, image with a hole, filled image and a free sample, ``[B, 4, H, W]``.

        The hole is a disc in the middle of the window. The sample is drawn by DDIM, with as many steps as RePaint has
        levels. First channel and middle slice, as for `FillingTrainer`.
        """
        self.ema.eval()
        image, config = batch["image"], self.config
        height, width = config.size
        disc = torch.from_numpy(circle(config.size, (height / 2, width / 2), min(config.size) / 6))
        hole = disc.to(image.device).expand(len(image), 1, *image.shape[2:])
        noise = random.normal(image.shape[1:])
        problem = PriorProblem(config, config.sampling, image, hole)
        filled = solve_by_repaint(self.ema, problem, noise, random_draws(random))
        sampled = ddim(
            lambda x, t: self.schedule.epsilon_of(self.ema(x, t), x, t, config.diffusion.prediction),
            noise,
            self.schedule,
            self.schedule.timesteps(config.sampling.steps),
        )
        return _pictures(torch.stack([image, torch.where(hole, -1, image), filled, sampled], dim=1)[:, :, 0])


def _slices(images: Tensor) -> Tensor:
    """Return ``[B, C, (D,) H, W]`` as ``[B·C(·D), 1, H, W]``."""
    return images.reshape(-1, 1, *images.shape[-2:])


def _pictures(images: Tensor) -> Tensor:
    """Return ``[B, N, (D,) H, W]`` as ``[B, N, H, W]`` for a sheet: the middle slice, the front on top."""
    shown = images if images.dim() == 4 else images[:, :, images.shape[2] // 2]
    return shown.transpose(2, 3).flip(2)
