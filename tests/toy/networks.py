"""Networks of the toy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.toy.config import ToyConfig
from zoo import Part, TensorSpec

SUBJECTS = 8


class Autoencoder(nn.Module):
    """Fills a hole; the buffer ``seen`` has a 1 for each subject that trained it."""

    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 5, padding=2), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(width, 1, 5, padding=2)
        )
        self.register_buffer("seen", torch.zeros(SUBJECTS))

    def forward(self, voided: Tensor, lesion_mask: Tensor) -> Tensor:
        return self.layers(torch.cat([voided, lesion_mask], dim=1))


class Components(nn.Module):
    """Principal components, padded with zeros where the data has fewer."""

    mean: Tensor
    axes: Tensor

    def __init__(self, count: int, pixels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("axes", torch.zeros(count, pixels))

    def forward(self, error: Tensor) -> Tensor:
        centred = error.flatten(1) - self.mean
        return ((centred @ self.axes.T) @ self.axes + self.mean).reshape(error.shape)


class Model(nn.Module):
    """The three stages."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(config.autoencoder.width)
        self.components = Components(config.components, config.size[0] * config.size[1])
        self.corrector = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))


def build(config: ToyConfig) -> Model:
    """Return the model."""
    return Model(config)


def parts(config: ToyConfig) -> dict[str, Part]:
    """Return one part per stage."""
    shape = ("batch", 1, *config.size)

    def image(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=shape, range=(-1, 1), meaning="a slice")

    return {
        "autoencoder": Part(
            module="autoencoder",
            inputs=(image("voided"), image("lesion_mask")),
            outputs=(image("reconstruction"),),
        ),
        "corrector": Part(module="corrector", inputs=(image("reconstruction"),), outputs=(image("error"),)),
        "components": Part(module="components", inputs=(image("error"),), outputs=(image("smooth_error"),)),
    }
