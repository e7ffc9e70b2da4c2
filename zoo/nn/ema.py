"""Exponential moving average (EMA) of the weights of a model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average (EMA) of weights, with a half-life in images.

    Args:
        model: The model that is trained. Its parameters are averaged, its buffers copied.
        half_life_images: Images after which a weight counts half; 0 keeps no average: `model` is then the trained one.
        ramp_up: The half-life is at most this share of the images seen, so the average forgets the initial weights.

    Attributes:
        model: The averaged model.

    Source: Karras et al. 2020 (ADA), appendix: half-life with a ramp-up of 0.05.
    """

    def __init__(self, model: nn.Module, half_life_images: float, ramp_up: float = 0.05) -> None:
        self.source = model
        self.half_life_images = half_life_images
        self.ramp_up = ramp_up
        self.model = copy.deepcopy(model).eval().requires_grad_(False) if half_life_images else model

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Update the average after a step.

        Args:
            images_seen: Images seen so far, including this step.
            batch_size: Images of this step.
        """
        if self.model is self.source:
            return
        half_life = min(self.half_life_images, max(self.ramp_up * images_seen, 1e-8))
        decay = 0.5 ** (batch_size / half_life)
        averaged: list[Tensor] = list(self.model.parameters())
        current: list[Tensor] = list(self.source.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, buffer in zip(self.model.buffers(), self.source.buffers(), strict=True):
            kept.copy_(buffer)
