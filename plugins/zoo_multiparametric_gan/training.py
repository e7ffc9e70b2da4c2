"""Training of ``dcgan`` and ``wgan``."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.metrics.features import texture_distance
from zoo.nn.ema import MovingAverage
from zoo.randomness import Randomness
from zoo.training.adversarial import frozen, update_network
from zoo.training.protocol import Batch
from zoo_multiparametric_gan.config import DCGANConfig, GANConfig, WGANConfig
from zoo_multiparametric_gan.networks import Generator, Norm, build_discriminator, one_hot
from zoo_multiparametric_gan.tasks import draw

_PREVIEWS = 2
"""Samples of each class on the sample sheet."""

Settings = TypeVar("Settings", bound=GANConfig)
Optimisers = tuple[torch.optim.Optimizer, torch.optim.Optimizer]


class GANTrainer(Generic[Settings]):
    """What both methods share: networks, optimisers, average, scores and state; a child does the step.

    Args:
        config: Settings.
        model: The generator.
        fabric: Launched.
        norm: Of the discriminator.
        half_life_images: Half-life of the average.
    """

    def __init__(
        self, config: Settings, model: Generator, fabric: Fabric, *, norm: Norm, half_life_images: float
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.generator = model.to(fabric.device)
        self.discriminator = build_discriminator(config, norm).to(fabric.device)
        self.moving_average = MovingAverage(model, half_life_images)
        self.ema = cast(Generator, self.moving_average.model)
        # DDP does not support a double backward, so `update_network` averages gradients over processes.
        self.generator_optimiser, self.discriminator_optimiser = cast(
            tuple[Any, Any], fabric.setup_optimizers(*self.optimisers())
        )
        self.figures: dict[str, Tensor] = {}
        self.images_seen = 0

    def optimisers(self) -> Optimisers:
        """Return the optimiser of the generator and of the discriminator."""
        raise NotImplementedError

    # --- Shared by the steps. ---

    def _generate(self, y: Tensor, random: Randomness) -> Tensor:
        """Return one generated image per row of the classes ``y``, one-hot."""
        return self.generator(random.normal((self.config.network.latent_width,)), y)

    def _finish_step(self, batch: Batch) -> dict[str, Tensor]:
        """Count the images and update the average; return the figures. Those not computed keep their last value."""
        batch_size = len(batch["image"]) * self.fabric.world_size
        self.images_seen += batch_size
        self.moving_average.update(self.images_seen, batch_size)
        return dict(self.figures)

    # --- Called by the host. ---

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Return the distance of features between real and as many generated images, for each class and their mean.

        A class of which the batch has fewer than two images is left out; without any the result is empty.
        """
        names, labels = self.config.class_names, batch["label"]
        self.ema.eval()
        z = random.normal((self.config.network.latent_width,))
        rows = torch.arange(len(labels), device=labels.device).split(self.config.training.batch_size)
        generated = torch.cat([draw({"generator": self.ema}, self.config, z[some], labels[some]) for some in rows])
        found: dict[str, Tensor] = {}
        for label, name in enumerate(names):
            own = labels == label
            if own.sum() > 1:
                distance = texture_distance(batch["image"][own].cpu(), generated[own].cpu())
                found[f"texture-distance/{name}"] = torch.tensor(distance)
        return {"texture-distance": torch.stack(list(found.values())).mean(), **found} if found else {}

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        """Return one row per class with the contrasts of two generated images, ``[classes, 2 * C, H, W]``.

        The rows are made from the same noise; front on top.
        """
        self.ema.eval()
        classes = len(self.config.class_names)
        z = random.normal((self.config.network.latent_width,))[:_PREVIEWS].repeat(classes, 1)
        labels = torch.arange(classes, device=z.device).repeat_interleave(len(z) // classes)
        images = draw({"generator": self.ema}, self.config, z, labels)
        slices = images if images.dim() == 4 else images[..., images.shape[-1] // 2]
        return slices.unflatten(0, (classes, -1)).flatten(1, 2).transpose(2, 3).flip(2)

    def state_dict(self) -> dict[str, Any]:
        """Return both networks, the average, both optimisers and the last figures."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.ema.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "figures": self.figures,
            "images_seen": self.images_seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.load_state_dict(state["average"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        self.figures = {name: value.to(self.fabric.device) for name, value in state["figures"].items()}
        self.images_seen = state["images_seen"]


class DCGANTrainer(GANTrainer[DCGANConfig]):
    """One step updates the discriminator, then the generator by the same generated images.

    Source: paper 3.1, after Radford et al. 2016. Equation 1 of the paper has a misprint: its second term reads
    ``E[log D(x~)]`` for ``E[log(1 - D(x~))]`` (Goodfellow et al. 2014, equation 1).
    """

    def __init__(self, config: DCGANConfig, model: Generator, fabric: Fabric) -> None:
        half_life = config.optimiser.average_half_life_images
        super().__init__(config, model, fabric, norm="batch", half_life_images=half_life)

    def optimisers(self) -> Optimisers:
        """Return Adam for both networks."""
        settings = self.config.optimiser
        networks = self.generator, self.discriminator
        first, second = (
            torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=settings.betas)
            for network in networks
        )
        return first, second

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Train both networks by one batch: ``image`` ``[B, C, *size]`` in [-1, 1], ``label`` int64 ``[B]``."""
        real, y = batch["image"], one_hot(batch["label"], self.config)
        with self.fabric.autocast():
            generated = self._generate(y, random)
            # Apart, so that batch norm does not mix real and generated images.
            real_scores = self.discriminator(real, y)
            generated_scores = self.discriminator(generated.detach(), y)
            # Equation 1, negated: -log D(x) - log(1 - D(x~)), where D is the sigmoid of the score.
            loss = F.softplus(-real_scores).mean() + F.softplus(generated_scores).mean()
        norm = update_network(self.fabric, self.discriminator, self.discriminator_optimiser, loss)
        self.figures |= {
            "loss/discriminator": loss.detach(),
            "gradient/discriminator": norm,
            "score/real": real_scores.detach().mean(),
            "score/generated": generated_scores.detach().mean(),
        }
        with self.fabric.autocast(), frozen(self.discriminator):
            # -log D(x~) instead of log(1 - D(x~)), whose gradient vanishes (Goodfellow et al. 2014, section 3).
            loss = F.softplus(-self.discriminator(generated, y)).mean()
        norm = update_network(self.fabric, self.generator, self.generator_optimiser, loss)
        self.figures |= {"loss/generator": loss.detach(), "gradient/generator": norm}
        return self._finish_step(batch)


class WGANTrainer(GANTrainer[WGANConfig]):
    """One step updates the critic; every ``critic.steps``-th also the generator, so each sees fresh real images.

    Images seen are those that the critic has seen.

    Source: paper 3.2, after Arjovsky et al. 2017, algorithm 1. The paper's text names equation 1 as the loss of its
    WGAN; equation 2 is meant. It takes "all hyperparameters" from Gulrajani et al. 2017, which has no RMSProp and no
    clipping; their rates are those of Arjovsky et al. [choice].
    """

    def __init__(self, config: WGANConfig, model: Generator, fabric: Fabric) -> None:
        norms: dict[str, Norm] = {"clipping": "batch", "gradient-penalty": "layer", "spectral": "spectral"}
        half_life = config.optimiser.average_half_life_images
        super().__init__(config, model, fabric, norm=norms[config.critic.lipschitz], half_life_images=half_life)

    def optimisers(self) -> Optimisers:
        """Return RMSProp for both networks with clipping, else Adam."""
        settings = self.config.optimiser
        networks = self.generator.parameters(), self.discriminator.parameters()
        if self.config.critic.lipschitz == "clipping":  # Arjovsky et al. 2017, algorithm 1
            first, second = (torch.optim.RMSprop(weights, lr=settings.rmsprop_rate) for weights in networks)
            return first, second
        betas = (0.0, 0.9)  # Gulrajani et al. 2017, algorithm 1; Miyato et al. 2018, setting C
        one, other = (torch.optim.Adam(weights, lr=settings.adam_rate, betas=betas) for weights in networks)
        return one, other

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Train by one batch: ``image`` ``[B, C, *size]`` in [-1, 1], ``label`` int64 ``[B]``."""
        y = one_hot(batch["label"], self.config)
        self._critic_step(batch["image"], y, random)
        number = self.images_seen // self.config.training.batch_size
        if (number + 1) % self.config.critic.steps == 0:
            self._generator_step(y, random)
        return self._finish_step(batch)

    def _critic_step(self, real: Tensor, y: Tensor, random: Randomness) -> None:
        settings = self.config.critic
        with self.fabric.autocast():
            with torch.no_grad():
                generated = self._generate(y, random)
            real_scores = self.discriminator(real, y)
            generated_scores = self.discriminator(generated, y)
            # Equation 2, negated: E[D(x~)] - E[D(x)].
            loss = generated_scores.mean() - real_scores.mean()
        self.figures |= {
            "loss/critic": loss.detach(),
            "score/real": real_scores.detach().mean(),
            "score/generated": generated_scores.detach().mean(),
        }
        if settings.lipschitz == "gradient-penalty":
            penalty = self._gradient_penalty(real, generated.float(), y, random)
            loss = loss + settings.penalty * penalty  # equation 3
            self.figures["loss/gradient-penalty"] = penalty.detach()
        self.figures["gradient/critic"] = update_network(
            self.fabric, self.discriminator, self.discriminator_optimiser, loss
        )
        if settings.lipschitz == "clipping":
            self.figures["critic/weights-at-limit"] = clip_weights(self.discriminator, settings.clip)

    def _gradient_penalty(self, real: Tensor, generated: Tensor, y: Tensor, random: Randomness) -> Tensor:
        """Return ``E[(|grad D(x^)| - 1)^2]`` at random points between real and generated images, in float32.

        Equation 3 of the paper writes the points as x~, the generated images; its text names them rightly.
        """
        share = random.uniform([1] * (real.dim() - 1))
        between = (share * real + (1 - share) * generated).requires_grad_()
        scores = self.discriminator(between, y)
        (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    def _generator_step(self, y: Tensor, random: Randomness) -> None:
        with self.fabric.autocast(), frozen(self.discriminator):
            loss = -self.discriminator(self._generate(y, random), y).mean()  # equation 2, the generator's term
        norm = update_network(self.fabric, self.generator, self.generator_optimiser, loss)
        self.figures |= {"loss/generator": loss.detach(), "gradient/generator": norm}


@torch.no_grad()
def clip_weights(network: nn.Module, limit: float) -> Tensor:
    """Clip all parameters to [-limit, limit] and return the share of them that lies at the limit.

    Source: Arjovsky et al. 2017, algorithm 1.
    """
    parameters: list[Tensor] = list(network.parameters())
    torch._foreach_clamp_min_(parameters, -limit)
    torch._foreach_clamp_max_(parameters, limit)
    at_limit = sum(((parameter.abs() >= limit).sum() for parameter in parameters), torch.zeros([]))
    return at_limit / sum(parameter.numel() for parameter in parameters)
