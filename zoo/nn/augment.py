"""Adaptive discriminator augmentation (ADA) in 2D and 3D, with a double backward.

Images are ``[B, C, *spatial]`` with -1 as the background; the first spatial axis is left to right. Each augmentation is
applied to each image with the same probability p. A controller keeps p just high enough to prevent the discriminator
from overfitting.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", sections 2 and 3. Departures:
linear interpolation with background beyond the border instead of wavelet filters; moderate scale, rotation and shift,
because heads are roughly aligned; a smooth bias field instead of colour changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from zoo.randomness import Randomness

GEOMETRIC = ("mirror", "shift", "scale", "rotate")
INTENSITY = ("brightness", "contrast", "bias-field", "noise")
KINDS = (*GEOMETRIC, *INTENSITY)

SHIFT = 0.125
"""Largest shift, as a share of each side."""
SCALE = 0.2
"""Standard deviation of the scale, octaves."""
ROTATION = math.pi / 6
"""Largest rotation, radians."""
BRIGHTNESS = 0.2
"""Standard deviation of the constant added to an image in [-1, 1]."""
CONTRAST = 0.5
"""Standard deviation of the factor of intensities above the background, octaves."""
FIELD = 0.3
"""Standard deviation of each coefficient of a bias field's logarithm."""
NOISE = 0.1
"""Standard deviation of the (half-normal) strength of the noise."""


def augment(images: Tensor, kinds: Sequence[str], probability: float, random: Randomness) -> Tensor:
    """Augment images at random.

    Args:
        images: ``[B, C, *spatial]`` in about [-1, 1].
        kinds: Augmentations to apply, of `KINDS`; always in the order of `KINDS`.
        probability: p, the probability of each augmentation per image. Mirroring happens with probability p / 2: at
            p = 1 both orientations are equally likely; below, the generator can learn which one is real.
        random: One generator per image.
    """
    if not probability or not kinds:
        return images
    dims = images.dim() - 2
    affine = _affine(images.shape[2:], kinds, probability, random).to(images.dtype)
    if "mirror" in kinds:
        chosen = _chosen(probability / 2, random, images)
        images = torch.where(chosen, images.flip(2), images)
    if any(kind in kinds for kind in ("shift", "scale", "rotate")):
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        # grid_sample pads with 0, so the background moves from -1 to 0 and back.
        images = F.grid_sample(images + 1, grid, align_corners=False) - 1
    if "brightness" in kinds:
        offset = random.normal((1, *[1] * (dims + 1)))[:, 0] * BRIGHTNESS
        images = torch.where(_chosen(probability, random, images), images + offset, images)
    if "contrast" in kinds:
        factor = torch.exp2(random.normal((1, *[1] * (dims + 1)))[:, 0] * CONTRAST)
        images = torch.where(_chosen(probability, random, images), (images + 1) * factor - 1, images)
    if "bias-field" in kinds:
        field = _fields(images.shape[2:], random).exp()
        images = torch.where(_chosen(probability, random, images), (images + 1) * field - 1, images)
    if "noise" in kinds:
        strength = random.normal((1, *[1] * (dims + 1)))[:, 0].abs() * NOISE
        noisy = images + strength * random.normal(images.shape[1:])
        images = torch.where(_chosen(probability, random, images), noisy, images)
    return images


def _chosen(probability: float, random: Randomness, images: Tensor) -> Tensor:
    """Return which images are augmented, bool ``[B, 1, …]``."""
    return (random.uniform() < probability).reshape(-1, *[1] * (images.dim() - 1))


def _affine(size: Sequence[int], kinds: Sequence[str], probability: float, random: Randomness) -> Tensor:
    """Return the shift, scale and rotation of each image as the matrix of `affine_grid`, ``[B, dims, dims + 1]``.

    `affine_grid` counts axes from the last and scales every side to length 2, so rotations are converted from pixels.
    """
    dims = len(size)
    count = len(random.generators)
    sides = torch.tensor([float(side) for side in reversed(size)], device=random.device)
    linear = torch.eye(dims, device=random.device).repeat(count, 1, 1)
    offset = torch.zeros(count, dims, device=random.device)
    if "rotate" in kinds:
        chosen = random.uniform() < probability
        for first in range(dims):
            for second in range(first + 1, dims):
                angle = (2 * random.uniform() - 1) * ROTATION * chosen
                turn = torch.eye(dims, device=random.device).repeat(count, 1, 1)
                turn[:, first, first] = turn[:, second, second] = angle.cos()
                turn[:, first, second], turn[:, second, first] = -angle.sin(), angle.sin()
                linear = linear @ turn
        linear = linear * sides[None, None, :] / sides[None, :, None]
    if "scale" in kinds:
        octaves = random.normal((1,)) * SCALE * (random.uniform((1,)) < probability)
        linear = linear * torch.exp2(octaves)[:, :, None]
    if "shift" in kinds:
        offset = (2 * random.uniform((dims,)) - 1) * 2 * SHIFT * (random.uniform((1,)) < probability)
    return torch.cat([linear, offset[:, :, None]], dim=2)


def _fields(size: Sequence[int], random: Randomness) -> Tensor:
    """Return one smooth random field per image, ``[B, 1, *size]``: a line and a parabola per axis, 0 in the middle."""
    dims = len(size)
    surface = torch.zeros(len(random.generators), 1, *size, device=random.device)
    weights = (random.normal((2 * dims,)) * FIELD).reshape(-1, 2 * dims, *[1] * dims)
    for axis, side in enumerate(size):
        shape = [1] * (dims + 1)
        shape[axis + 1] = side
        along = torch.linspace(-1, 1, side, device=random.device).reshape(shape)
        surface = surface + weights[:, 2 * axis : 2 * axis + 1] * along
        surface = surface + weights[:, 2 * axis + 1 : 2 * axis + 2] * along.square()
    return surface


class AdaptiveProbability:
    """Controller of p: raises it while the discriminator overfits (r_t above the target), lowers it otherwise.

    Args:
        target: Target of r_t, the mean sign of the scores of real images.
        images: Images in which p can rise from 0 to 1.
        highest: Upper limit of p. Above 0.8, augmentations leak into the generated images.
        every: Steps between changes of p.

    Attributes:
        value: p.
        sign: r_t at the last change.

    Source: ADA paper, section 3.1, equation 1 (r_t). Departure: the upper limit.
    """

    def __init__(self, target: float, images: int, highest: float, every: int = 4) -> None:
        self.target = target
        self.images = images
        self.highest = highest
        self.every = every
        self.value = 0.0
        self.sign = 0.0
        self._signs: list[Tensor | float] = []

    def update(self, sign: Tensor | float, batch_size: int) -> None:
        """Update p after a step.

        Args:
            sign: Mean sign of the scores of the step's real images.
            batch_size: Images of the step, over all devices.
        """
        self._signs.append(sign)
        if len(self._signs) < self.every:
            return
        # Numbers are fetched only here, so the GPU is not synchronised at every step.
        self.sign = sum(float(each) for each in self._signs) / len(self._signs)
        direction = (self.sign > self.target) - (self.sign < self.target)
        moved = self.value + direction * batch_size * self.every / self.images
        self.value = min(max(moved, 0.0), self.highest)
        self._signs.clear()

    def state_dict(self) -> dict[str, float | list[Tensor | float]]:
        """Return the state on which the next change depends."""
        return {"value": self.value, "sign": self.sign, "signs": list(self._signs)}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state that `state_dict` returned."""
        self.value, self.sign, self._signs = state["value"], state["sign"], list(state["signs"])
