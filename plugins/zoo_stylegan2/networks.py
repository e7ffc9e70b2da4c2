"""Builds the networks of ``stylegan2-ada`` from the settings and describes the parts that are exported."""

from __future__ import annotations

from zoo.descriptors import Part, TensorSpec
from zoo.nn.stylegan import (
    Discriminator,
    Generator,
    MappingNetwork,
    SynthesisNetwork,
    level_channels,
    noise_shapes,
    style_count,
)
from zoo_stylegan2.config import StyleGANConfig


def build(config: StyleGANConfig) -> Generator:
    """Return the generator, which the model file holds and which is exported.

    Raises:
        ConfigError: `size` cannot be halved often enough.
    """
    network = config.network
    channels = level_channels(config.size, network.channel_budget, network.channel_limit)
    return Generator(
        MappingNetwork(network.latent_width, network.style_width, network.mapping_layers),
        SynthesisNetwork(config.size, channels, network.style_width, config.image_channels),
    )


def build_discriminator(config: StyleGANConfig) -> Discriminator:
    """Return the discriminator, which only training uses: checkpoints hold it, the model file does not."""
    network = config.network
    channels = level_channels(config.size, network.channel_budget, network.channel_limit)
    return Discriminator(config.size, channels, config.image_channels, network.group)


def parts(config: StyleGANConfig) -> dict[str, Part]:
    """Return ``mapping``, from z to w, and ``synthesis``, from the w of each layer and noise maps to the image."""
    network, styles = config.network, style_count(config.size)
    style = TensorSpec(
        name="w", dtype="float32", shape=("batch", network.style_width), range=None, meaning="style, for all layers"
    )
    noise = tuple(
        TensorSpec(
            name=f"noise_{number}",
            dtype="float32",
            shape=("batch", 1, *shape),
            range=None,
            meaning=f"standard normal, for convolution {number}",
        )
        for number, shape in enumerate(noise_shapes(config.size))
    )
    return {
        "mapping": Part(
            module="mapping",
            inputs=(
                TensorSpec(
                    name="z",
                    dtype="float32",
                    shape=("batch", network.latent_width),
                    range=None,
                    meaning="latent code, standard normal",
                ),
                TensorSpec(
                    name="truncation",
                    dtype="float32",
                    shape=("batch",),
                    range=(0, 1),
                    meaning="psi; 1 leaves w unchanged, 0 gives the mean w",
                ),
            ),
            outputs=(style,),
        ),
        "synthesis": Part(
            module="synthesis",
            inputs=(
                TensorSpec(
                    name="w",
                    dtype="float32",
                    shape=("batch", styles, network.style_width),
                    range=None,
                    meaning="style of each layer",
                ),
                *noise,
            ),
            outputs=(
                TensorSpec(
                    name="image",
                    dtype="float32",
                    shape=("batch", config.image_channels, *config.size),
                    range=None,
                    meaning="image, about [-1, 1], -1 is background",
                ),
            ),
        ),
    }
