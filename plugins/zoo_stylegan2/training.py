"""Training of ``stylegan2-ada``: adversarial losses, lazy regularisers and adaptive augmentation."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.metrics.features import texture_distance
from zoo.nn.augment import AdaptiveProbability, augment
from zoo.nn.ema import MovingAverage
from zoo.nn.stylegan import Generator, noise_shapes, style_count
from zoo.randomness import Randomness
from zoo.training.adversarial import frozen, mean_over_processes, update_network
from zoo.training.protocol import Batch
from zoo_stylegan2.config import StyleGANConfig
from zoo_stylegan2.networks import build_discriminator
from zoo_stylegan2.tasks import draw

PATH_DECAY = 0.01
"""Weight of a batch in the running mean of path lengths (StyleGAN2 paper, appendix B)."""
_PREVIEWS = 7


class StyleGANTrainer:
    """One step updates the generator, then the discriminator; each also by its regulariser at intervals ("lazily").

    Losses are non-saturating logistic. Each regulariser has its own optimiser step on the same Adam state and is
    computed in float32 at every precision.

    Source: StyleGAN2 paper, sections 3.1, 3.2 and appendix B; ADA paper, section 3 and appendix C. Departures:

    - The layer from which the second style is used is drawn per image, so an image does not depend on its batch.
    - Gradients that are not finite are not replaced; the host stops at the first loss that is not finite.
    - The probability of augmentation has an upper limit.
    - R1 is the gradient at the augmented image; the reference differentiates through the augmentation to the image
      itself. Both agree for mirroring, the paper's only augmentation; contrast and scale weigh the gradient
      differently.
    """

    def __init__(self, config: StyleGANConfig, model: Generator, fabric: Fabric) -> None:
        self.config = config
        self.fabric = fabric
        self.generator = model.to(fabric.device)
        self.discriminator = build_discriminator(config).to(fabric.device)
        self.moving_average = MovingAverage(model, config.optimiser.average_half_life_images)
        self.ema = cast(Generator, self.moving_average.model)
        loss = config.loss
        # DDP does not support the regularisers' double backward, so `update_network` averages gradients over processes.
        self.generator_optimiser, self.discriminator_optimiser = cast(
            tuple[Any, Any],
            fabric.setup_optimizers(
                lazy_adam(config, model, loss.path_interval if loss.path_weight else 0),
                lazy_adam(config, self.discriminator, loss.r1_interval if r1_gamma(config) else 0),
            ),
        )
        self.augmentation = AdaptiveProbability(
            config.augmentation.target, config.augmentation.images, config.augmentation.highest
        )
        self.path_mean = torch.zeros([], device=fabric.device)
        self.figures: dict[str, Tensor] = {}
        self.images_seen = 0

    # --- One step. ---

    def step(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Train both networks by one batch.

        Args:
            batch: ``image`` ``[B, image_channels, *size]`` in [-1, 1].
            random: One generator per image.

        Returns:
            Losses, scores, gradient norms and the probability of augmentation. Losses that this step did not compute
            keep their last value.
        """
        real, loss = batch["image"], self.config.loss
        number = self.images_seen // self.config.training.batch_size
        self._generator_step(random)
        if loss.path_weight and number % loss.path_interval == 0:
            self._path_length_step(random)
        self._discriminator_step(real, random)
        if r1_gamma(self.config) and number % loss.r1_interval == 0:
            self._r1_step(real, random)

        batch_size = len(real) * self.fabric.world_size
        self.images_seen += batch_size
        self.moving_average.update(self.images_seen, batch_size)
        if self.config.augmentation.kinds:
            self.augmentation.update(self.figures["score/real-sign"], batch_size)
            self.figures["augmentation/probability"] = torch.tensor(self.augmentation.value)
        return dict(self.figures)

    def _generator_step(self, random: Randomness) -> None:
        """Minimise ``-log sigmoid(D(G(z)))``, the non-saturating loss (Goodfellow et al. 2014, section 3)."""
        with self.fabric.autocast(), frozen(self.discriminator):
            loss = F.softplus(-self.discriminator(self._augment(self._generate(random), random))).mean()
        norm = update_network(self.fabric, self.generator, self.generator_optimiser, loss)
        self.figures |= {"loss/generator": loss.detach(), "gradient/generator": norm}

    def _path_length_step(self, random: Randomness) -> None:
        """Minimise ``(|J_w^T y| - a)^2`` with the running mean ``a`` of path lengths (StyleGAN2 paper, equation 4).

        Half of the batch is used, as in the reference implementation; it saves memory.
        """
        settings = self.config.loss
        half = max(len(random.generators) // 2, 1)
        styles = self._styles(random)[:half]
        noise = [maps[:half] for maps in self._noise(random)]
        image = self.generator.synthesis(styles, *noise)
        lengths = path_lengths(image, styles, random.normal(image.shape[1:])[:half])
        self.path_mean = self.path_mean.lerp(mean_over_processes(self.fabric, lengths.detach().mean()), PATH_DECAY)
        penalty = (lengths - self.path_mean).square().mean()
        update_network(
            self.fabric,
            self.generator,
            self.generator_optimiser,
            penalty * settings.path_weight * settings.path_interval,
        )
        self.figures |= {"loss/path-length": penalty.detach(), "path-length/mean": self.path_mean}

    def _discriminator_step(self, real: Tensor, random: Randomness) -> None:
        """Minimise ``-log(1 - sigmoid(D(G(z)))) - log sigmoid(D(x))`` (Goodfellow et al. 2014, equation 1)."""
        with self.fabric.autocast():
            with torch.no_grad():
                generated = self._generate(random)
            generated_scores = self.discriminator(self._augment(generated, random))
            real_scores = self.discriminator(self._augment(real, random))
        loss = F.softplus(generated_scores).mean() + F.softplus(-real_scores).mean()
        norm = update_network(self.fabric, self.discriminator, self.discriminator_optimiser, loss)
        self.figures |= {
            "loss/discriminator": loss.detach(),
            "gradient/discriminator": norm,
            "score/real": real_scores.detach().mean(),
            "score/generated": generated_scores.detach().mean(),
            "score/real-sign": mean_over_processes(
                self.fabric, real_scores.detach().sign().mean()
            ),  # r_t (ADA paper, equation 1)
        }

    def _r1_step(self, real: Tensor, random: Randomness) -> None:
        """Minimise ``gamma / 2 |grad D(x)|^2`` on real images (R1: Mescheder et al. 2018, equation 9)."""
        augmented = self._augment(real, random).detach().requires_grad_()
        penalty = gradient_penalty(self.discriminator(augmented), augmented)
        weight = r1_gamma(self.config) / 2 * self.config.loss.r1_interval
        update_network(self.fabric, self.discriminator, self.discriminator_optimiser, penalty * weight)
        self.figures["loss/r1"] = penalty.detach()

    # --- Shared by the steps. ---

    def _generate(self, random: Randomness) -> Tensor:
        styles = self._styles(random)
        return self.generator.synthesis(styles, *self._noise(random))

    def _styles(self, random: Randomness) -> Tensor:
        """Return styles ``[B, style_count, style_width]``, some of them mixed; updates the running mean of w."""
        # float32: half precision would lose small differences of z.
        with torch.autocast(self.fabric.device.type, enabled=False):
            return self._mixed_styles(random)

    def _mixed_styles(self, random: Randomness) -> Tensor:
        """Style mixing: a share of the images takes a second style from a random layer on (StyleGAN, section 3.1)."""
        mapping, count = self.generator.mapping, style_count(self.config.size)
        shape = (self.config.network.latent_width,)
        w = mapping(random.normal(shape))
        mapping.update_average(mean_over_processes(self.fabric, w.detach().mean(0)))
        styles = w[:, None].expand(-1, count, -1)
        if not self.config.loss.mixing:
            return styles
        second = mapping(random.normal(shape))
        mixed = random.uniform() < self.config.loss.mixing
        crossover = torch.where(mixed, 1 + random.integers(count - 1), count)
        takes_second = torch.arange(count, device=w.device)[None] >= crossover[:, None]
        return torch.where(takes_second[:, :, None], second[:, None], styles)

    def _noise(self, random: Randomness) -> list[Tensor]:
        return [random.normal((1, *shape)) for shape in noise_shapes(self.config.size)]

    def _augment(self, images: Tensor, random: Randomness) -> Tensor:
        return augment(images.float(), self.config.augmentation.kinds, self.augmentation.value, random)

    # --- Called by the host. ---

    def validate(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """Return ``texture-distance`` between the real images and as many generated ones.

        One validation image (a volume) has no spread to compare; the result is then empty.
        """
        if len(batch["image"]) < 2:
            return {}
        generated = draw(self._parts(), self.config, random, batch_size=self.config.training.batch_size)
        return {"texture-distance": torch.tensor(texture_distance(batch["image"].cpu(), generated.cpu()))}

    def preview(self, batch: Batch, random: Randomness) -> Tensor:
        """Return rows of a real image and seven generated ones, ``[B, 8, H, W]``: first channel, front on top."""
        drawn = [draw(self._parts(), self.config, random) for _ in range(_PREVIEWS)]
        images = torch.stack([batch["image"], *drawn], dim=1)[:, :, 0]
        slices = images if images.dim() == 4 else images[..., images.shape[-1] // 2]
        return slices.transpose(2, 3).flip(2)

    def _parts(self) -> dict[str, nn.Module]:
        """Return the averaged parts, with which validation and preview sample."""
        return {"mapping": self.ema.mapping, "synthesis": self.ema.synthesis}

    def state_dict(self) -> dict[str, Any]:
        """Return both networks, the average, both optimisers, the augmentation's state and the last figures."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.ema.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "augmentation": self.augmentation.state_dict(),
            "path_mean": self.path_mean,
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
        self.augmentation.load_state_dict(state["augmentation"])
        self.path_mean = state["path_mean"].to(self.fabric.device)
        self.figures = {name: value.to(self.fabric.device) for name, value in state["figures"].items()}
        self.images_seen = state["images_seen"]


def lazy_adam(config: StyleGANConfig, network: nn.Module, interval: int) -> torch.optim.Adam:
    """Return Adam for a network whose regulariser takes a step of its own every ``interval`` steps (0: none).

    ``interval`` = k steps become k + 1 steps. With ``c = k / (k + 1)``, the learning rate is multiplied by c and the
    betas are raised to the power of c, so the k + 1 steps move the weights as far as k steps did.

    Source: StyleGAN2 paper, appendix B, "Lazy regularization".
    """
    lazy = interval / (interval + 1) if interval else 1.0
    settings = config.optimiser
    return torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate * lazy, betas=(0.0, settings.beta2**lazy), eps=1e-8
    )


def r1_gamma(config: StyleGANConfig) -> float:
    """Return the weight gamma of R1; by default 0.0002 · pixels / batch (ADA paper, appendix C)."""
    gamma = config.loss.r1_gamma
    return 0.0002 * math.prod(config.size) / config.training.batch_size if gamma is None else gamma


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Return the squared norm of the gradient of each image's score, averaged over the batch: R1 without gamma / 2.

    Args:
        scores: ``[B]``, computed from ``images``.
        images: ``[B, C, *spatial]`` that require a gradient.

    Source: Mescheder et al. 2018, equation 9.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def path_lengths(images: Tensor, styles: Tensor, direction: Tensor) -> Tensor:
    """Return the path lengths ``|J_w^T y|``, ``[B]``: how far an image moves along y for a step in its styles.

    Args:
        images: ``[B, C, *spatial]``, computed from ``styles``.
        styles: ``[B, style_count, style_width]`` that require a gradient.
        direction: y, standard normal, the shape of ``images``.

    Source: StyleGAN2 paper, equation 4; y is divided by the square root of the number of pixels, and the squared norm
    is averaged over the styles of an image.
    """
    pixels = math.prod(images.shape[2:])
    (gradient,) = torch.autograd.grad((images * direction).sum() / math.sqrt(pixels), styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
