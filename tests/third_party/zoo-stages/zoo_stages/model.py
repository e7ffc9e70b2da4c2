"""The whole model, one module per stage, and how it samples."""

import torch
from torch import nn

from zoo import Part, TensorSpec
from zoo.randomness import Randomness
from zoo.tasks import Samples


class Autoencoder(nn.Module):
    """A variational autoencoder of slices."""

    def __init__(self, size, width, latent):
        super().__init__()
        deep = (4 * width, size[0] // 8, size[1] // 8)
        count = deep[0] * deep[1] * deep[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(count, 2 * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, count), nn.Unflatten(1, deep),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1), nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1), nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, image, noise):
        """Return the reconstruction [B, 1, *size], and the mean and log variance of the latent [B, latent]."""
        mean, log_variance = self.encoder(image).chunk(2, dim=1)
        return self.decoder(mean + (log_variance / 2).exp() * noise), mean, log_variance


class Prior(nn.Module):
    """A normal distribution of latents; its buffers are filled by a fit."""

    def __init__(self, latent):
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("factor", torch.eye(latent))

    def forward(self, noise):
        return self.mean + noise @ self.factor.T


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.autoencoder = Autoencoder(config.size, config.autoencoder.width, config.autoencoder.latent)
        self.prior = Prior(config.autoencoder.latent)
        self.refiner = nn.Sequential(
            nn.Conv2d(1, config.width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(config.width, config.width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(config.width, 1, 3, padding=1),
        )  # fmt: skip


def build(config):
    return Model(config)


def parts(config):
    """Declare three graphs: noise to latent, latent to slice, slice to what it lacks."""
    vector, plane = ("batch", config.autoencoder.latent), ("batch", 1, *config.size)

    def spec(name, shape, limits, meaning):
        return TensorSpec(name=name, dtype="float32", shape=shape, range=limits, meaning=meaning)

    noise, latent = spec("noise", vector, None, "standard normal"), spec("latent", vector, None, "a slice's latent")
    blurred, error = spec("image", plane, (-1, 1), "reconstruction"), spec("error", plane, None, "what it lacks")
    return {
        "prior": Part(module="prior", inputs=(noise,), outputs=(latent,)),
        "decoder": Part(module="autoencoder.decoder", inputs=(latent,), outputs=(blurred,)),
        "refiner": Part(module="refiner", inputs=(blurred,), outputs=(error,)),
    }


def sample(parts, config, seeds, options):
    """Return one slice per seed."""
    noise = Randomness(seeds).normal((config.autoencoder.latent,))
    blurred = parts["decoder"](parts["prior"](noise)).cpu()
    images = (blurred + parts["refiner"](blurred).cpu()).clamp(-1, 1)
    spacing = config.data.spacing_mm
    return Samples(images=images, channels=config.data.contrasts, spacing_mm=(spacing, spacing, spacing))
