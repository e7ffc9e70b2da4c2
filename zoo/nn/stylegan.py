"""Layers and networks of StyleGAN2 for slices (2D) and volumes (3D).

All operators are plain torch with a double backward, so the networks run and export wherever torch does. Weights are
channels-last, which is up to four times as fast on a CPU. Shapes are ``[B, C, *spatial]``; the two or three spatial
sides need be neither equal nor powers of two.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2 paper); Karras et al.
2020, "Training Generative Adversarial Networks with Limited Data" (ADA paper), for widths and initial values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""
GAIN = math.sqrt(2)
"""Factor of every activation; it keeps the second moment at 1."""
CLAMP = 256.0
"""Largest activation in float16 (ADA paper, appendix D)."""

_CONVOLVE: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


# --- Sizes. ---


def num_halvings(size: Sequence[int]) -> int:
    """Return how many times all sides can be halved with none below 4.

    Args:
        size: Sides of the image, pixels.

    Raises:
        ConfigError: Every side of the smallest image would still be 16 or more.
    """
    count = 0
    while all(side % 2 ** (count + 1) == 0 and side >> (count + 1) >= 4 for side in size):
        count += 1
    if min(side >> count for side in size) >= 16:
        step = 2 ** max(int(math.log2(min(size))) - 2, 0)
        near = tuple(-(-side // step) * step for side in size)
        raise ConfigError(
            f"size {tuple(size)} can be halved only {count} times, to {tuple(side >> count for side in size)}; use "
            f"multiples of a high power of two, such as {near}"
        )
    return count


def level_channels(size: Sequence[int], budget: int, limit: int) -> tuple[int, ...]:
    """Return the channels of each level, coarsest first: ``min(budget / r, limit)`` at the resolutions r = 4, 8, 16 …

    Source: ADA paper, appendix C (there ``budget`` is 16384 below 512 pixels, ``limit`` is 512).
    """
    return tuple(max(min(budget // (4 << level), limit), 1) for level in range(num_halvings(size) + 1))


def noise_shapes(size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the spatial shape of each convolution's noise map, coarsest first: one at the base, then two per level."""
    levels = num_halvings(size)
    shapes = [tuple(side >> (levels - level) for side in size) for level in range(levels + 1)]
    return [shapes[0], *(shape for shape in shapes[1:] for _ in range(2))]


def style_count(size: Sequence[int]) -> int:
    """Return the number of style vectors w of an image: one per convolution, and one for the last `ToImage`."""
    return 2 * num_halvings(size) + 2


# --- Resampling by [1, 3, 3, 1]. ---


def binomial_filter(dims: int) -> Tensor:
    """Return the separable filter [1, 3, 3, 1] as ``[1, 1, 4, …]``, float32, summing to 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    resample_filter = taps
    for _ in range(dims - 1):
        resample_filter = resample_filter[..., None] * taps
    return resample_filter[None, None]


def blur(x: Tensor, resample_filter: Tensor, *, padding: int, stride: int = 1) -> Tensor:
    """Filter each channel by itself, with zeros beyond the border.

    Args:
        x: ``[B, C, *spatial]``.
        resample_filter: ``[1, 1, *window]``.
        padding: Zeros on each side, pixels.
        stride: Step between the pixels that are kept.
    """
    weight = _per_channel(resample_filter, x)
    return _CONVOLVE[x.dim() - 2](x, weight, stride=stride, padding=padding, groups=x.shape[1])


def downsample(x: Tensor, resample_filter: Tensor) -> Tensor:
    """Halve each side: filter with `binomial_filter` and keep every other pixel."""
    return blur(x, resample_filter, padding=1, stride=2)


def upsample(x: Tensor, resample_filter: Tensor) -> Tensor:
    """Double each side and filter with `binomial_filter`; away from the border this is bilinear interpolation.

    The factor 2 per dimension keeps a constant image constant.
    """
    dims = x.dim() - 2
    weight = _per_channel(resample_filter * 2**dims, x)
    return _TRANSPOSE[dims](x, weight, stride=2, padding=1, groups=x.shape[1])


def _per_channel(resample_filter: Tensor, x: Tensor) -> Tensor:
    """Return the filter as the weight of a depthwise convolution of ``x``."""
    return resample_filter.to(x.dtype).expand(x.shape[1], *resample_filter.shape[1:])


# --- Layers. ---


class EqualLinear(nn.Module):
    """Fully connected layer with equalized learning rate: weights start as N(0, 1) and are scaled when used.

    Args:
        inputs, outputs: Widths.
        bias: Initial value of the bias.
        activate: Apply a leaky ReLU and `GAIN`.
        lr_multiplier: Learning rate of this layer relative to the others (0.01 in the mapping network).

    Source: Karras et al. 2018, "Progressive Growing of GANs", section 4.1.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, activate: bool = False, lr_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.activate = activate
        self.gain = lr_multiplier * (GAIN if activate else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs]`` to ``[B, outputs]``."""
        scale = self.gain / math.sqrt(self.weight.shape[1])
        # leaky_relu(gain * x) = gain * leaky_relu(x) for a positive gain, so the weights carry it.
        y = F.linear(x, self.weight * scale, self.bias * self.gain)
        return F.leaky_relu(y, SLOPE) if self.activate else y


class EqualConv(nn.Module):
    """Convolution with equalized learning rate: weights start as N(0, 1) and are scaled when used.

    Args:
        inputs, outputs: Channels.
        kernel: Side of the window, odd.
        dims: 2 or 3.
        down: Halve each side: blur, then convolve with stride 2.
        activate: Add a bias, then apply a leaky ReLU and `GAIN`; otherwise the layer is linear and has no bias.
        gain: Factor of the result.
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        dims: int,
        *,
        down: bool = False,
        activate: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[kernel] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs)) if activate else None
        self.down = down
        self.gain = gain * (GAIN if activate else 1.0)
        if down:
            self.register_buffer("resample_filter", binomial_filter(dims), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, *spatial]`` to ``[B, outputs, *spatial]``, halved with ``down``."""
        window = self.weight.shape[2]
        weight = self.weight * (self.gain / math.sqrt(self.weight[0].numel()))
        bias = None if self.bias is None else self.bias * self.gain
        stride, padding = 1, window // 2
        if self.down and window == 1:
            x = downsample(x, self.resample_filter)
        elif self.down:
            x = blur(x, self.resample_filter, padding=window // 2 + 1)
            stride, padding = 2, 0
        y = _CONVOLVE[x.dim() - 2](x, weight, bias, stride=stride, padding=padding)
        return y if bias is None else _clamp_float16(F.leaky_relu(y, SLOPE, inplace=True), self.gain)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    gain: float = 1.0,
    up_filter: Tensor | None = None,
) -> Tensor:
    """Convolve each sample with weights modulated by its own style.

    The paper scales the weights of each sample: ``w' = style * weight`` (equation 1), then ``w'' = d * w'`` with
    ``d = 1 / norm(w')`` per filter (equation 3). Convolution is linear, so ``conv(x, w'')`` equals
    ``d * conv(style * x, weight)``. All samples then share one weight tensor: the batch takes one convolution, and the
    graph takes any batch size.

    Args:
        x: ``[B, inputs, *spatial]``.
        weight: ``[outputs, inputs, *window]``.
        style: ``[B, inputs]``.
        demodulate: Scale each filter to the norm ``gain`` (equation 3).
        gain: Norm of each filter after demodulation.
        up_filter: `binomial_filter`, to double each side by a transposed convolution and this filter; ``None`` keeps
            the size.

    Source: StyleGAN2 paper, section 2.2, equations 1 and 3.
    """
    dims = x.dim() - 2
    if demodulate and x.dtype == torch.float16:
        # Demodulation cancels the scale of the style; a scale of 1 keeps the products within float16.
        style = style / style.abs().amax(1, keepdim=True)
    shape = (len(x), -1, *[1] * dims)
    scaled = x * style.reshape(shape).to(x.dtype)
    if up_filter is None:
        y = _CONVOLVE[dims](scaled, weight, padding=weight.shape[2] // 2)
    else:
        y = _TRANSPOSE[dims](scaled, weight.transpose(0, 1), stride=2)
        y = blur(y, up_filter * 2**dims, padding=1)
    if not demodulate:
        return y
    # d of equation 3, [B, outputs]: the squares of style * weight, summed over inputs and window.
    squared_weight = _to_float32(weight).square().flatten(2).sum(2)
    demodulation = torch.rsqrt(F.linear(_to_float32(style).square(), squared_weight) + 1e-8)
    return y * (gain * demodulation).reshape(shape).to(y.dtype)


def _to_float32(x: Tensor) -> Tensor:
    """Return half precision as float32; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _clamp_float16(x: Tensor, gain: float) -> Tensor:
    """Limit float16 activations to `CLAMP` times the gain; other types stay as they are."""
    return x.clamp(-CLAMP * gain, CLAMP * gain) if x.dtype == torch.float16 else x


class StyledConv(nn.Module):
    """Style block of the synthesis network: modulated 3x3 convolution, noise, bias, leaky ReLU.

    Args:
        inputs, outputs: Channels.
        style_width: Width of w.
        dims: 2 or 3.
        up: Double each side.

    Source: StyleGAN2 paper, figure 2d.
    """

    resample_filter: Tensor | None

    def __init__(self, inputs: int, outputs: int, style_width: int, dims: int, *, up: bool) -> None:
        super().__init__()
        self.affine = EqualLinear(style_width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[3] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.up = up
        self.register_buffer("resample_filter", binomial_filter(dims) if up else None, persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Return ``[B, outputs, *spatial]``.

        Args:
            x: ``[B, inputs, *spatial]``.
            w: ``[B, style_width]``.
            noise: One map for all channels, ``[B, 1, *spatial]`` of the result.
        """
        # leaky_relu(gain * x) = gain * leaky_relu(x) for a positive gain, so each summand carries it.
        y = modulated_conv(x, self.weight, self.affine(w), gain=GAIN, up_filter=self.resample_filter)
        y += (noise * (self.noise_strength * GAIN)).to(y.dtype)
        y += (self.bias * GAIN).reshape(-1, *[1] * (x.dim() - 2)).to(y.dtype)
        return _clamp_float16(F.leaky_relu(y, SLOPE, inplace=True), GAIN)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the channels of the image ("tRGB"): linear, without demodulation and noise."""

    def __init__(self, inputs: int, outputs: int, style_width: int, dims: int) -> None:
        super().__init__()
        self.affine = EqualLinear(style_width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[1] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return float32 ``[B, outputs, *spatial]`` of ``x`` ``[B, inputs, *spatial]`` and ``w``."""
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = modulated_conv(x, self.weight, style, demodulate=False)
        return _to_float32(y) + self.bias.reshape(-1, *[1] * (x.dim() - 2))


# --- Networks. ---


class MappingNetwork(nn.Module):
    """The mapping network f: from a latent code z to a style w.

    Args:
        latent_width, style_width: Widths of z and w.
        layers: Number of fully connected layers.
        width: Width of the layers in between; ``None``: ``style_width``.

    Attributes:
        average: Running mean of w, the centre of truncation; `update_average` moves it.
    """

    average: Tensor

    def __init__(self, latent_width: int, style_width: int, layers: int, width: int | None = None) -> None:
        super().__init__()
        widths = [latent_width, *[width or style_width] * (layers - 1), style_width]
        self.layers = nn.Sequential(
            *(EqualLinear(a, b, activate=True, lr_multiplier=0.01) for a, b in pairwise(widths))
        )
        self.register_buffer("average", torch.zeros(style_width))

    def forward(self, z: Tensor, truncation: Tensor | None = None) -> Tensor:
        """Return w ``[B, style_width]``.

        Args:
            z: ``[B, latent_width]``, standard normal. It is scaled to a second moment of 1, so only its direction
                counts.
            truncation: psi, ``[B]``: w becomes ``average + psi (w - average)``.

        Source: StyleGAN2 paper, section 2, with epsilon 1e-8 in the scaling of z.
        """
        w: Tensor = self.layers(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))
        return w if truncation is None else self.average + truncation[:, None] * (w - self.average)

    @torch.no_grad()
    def update_average(self, mean: Tensor, decay: float = 0.995) -> None:
        """Move `average` towards the mean w of a batch, ``[style_width]``."""
        self.average.lerp_(mean.float(), 1 - decay)


class SynthesisNetwork(nn.Module):
    """The synthesis network g: from styles w and noise to an image.

    A learned constant passes through styled convolutions; the images of all levels are summed.

    Args:
        size: Sides of the image, pixels.
        channels: Channels of each level, coarsest first; one more than `num_halvings`.
        style_width: Width of w.
        image_channels: Channels of the image.

    Source: StyleGAN2 paper, figure 7 ("output skips").
    """

    resample_filter: Tensor

    def __init__(self, size: Sequence[int], channels: Sequence[int], style_width: int, image_channels: int) -> None:
        super().__init__()
        self.dims = len(size)
        base = [side >> (len(channels) - 1) for side in size]
        self.constant = nn.Parameter(torch.randn(1, channels[0], *base))
        self.convs = nn.ModuleList([StyledConv(channels[0], channels[0], style_width, self.dims, up=False)])
        for before, after in pairwise(channels):
            self.convs.append(StyledConv(before, after, style_width, self.dims, up=True))
            self.convs.append(StyledConv(after, after, style_width, self.dims, up=False))
        self.to_image = nn.ModuleList(ToImage(width, image_channels, style_width, self.dims) for width in channels)
        self.register_buffer("resample_filter", binomial_filter(self.dims), persistent=False)
        self.to(memory_format=_CHANNELS_LAST[self.dims])

    def forward(self, w: Tensor, *noise: Tensor) -> Tensor:
        """Return the image, float32 ``[B, image_channels, *size]``.

        Args:
            w: ``[B, style_count, style_width]``. Convolution n takes style n; a `ToImage` takes the style of the
                next convolution, and the last one has its own.
            noise: One map ``[B, 1, *spatial]`` per convolution, see `noise_shapes`.
        """
        x = self.constant.expand(len(w), *self.constant.shape[1:])
        x = x.contiguous(memory_format=_CHANNELS_LAST[self.dims])
        x = self.convs[0](x, w[:, 0], noise[0])
        image = self.to_image[0](x, w[:, 1])
        for level in range(1, len(self.to_image)):
            first, second = 2 * level - 1, 2 * level
            x = self.convs[first](x, w[:, first], noise[first])
            x = self.convs[second](x, w[:, second], noise[second])
            image = upsample(image, self.resample_filter) + self.to_image[level](x, w[:, second + 1])
        return image


class Generator(nn.Module):
    """A mapping and a synthesis network, each usable alone."""

    def __init__(self, mapping: MappingNetwork, synthesis: SynthesisNetwork) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis


class DiscriminatorBlock(nn.Module):
    """Residual block of the discriminator; it halves each side.

    Args:
        inputs, outputs: Channels.
        dims: 2 or 3.

    Source: StyleGAN2 paper, figure 7 ("residual nets"); the sum is scaled by sqrt(1/2) to keep the second moment.
    """

    def __init__(self, inputs: int, outputs: int, dims: int) -> None:
        super().__init__()
        gain = math.sqrt(0.5)
        self.first = EqualConv(inputs, inputs, 3, dims)
        self.second = EqualConv(inputs, outputs, 3, dims, down=True, gain=gain)
        self.skip = EqualConv(inputs, outputs, 1, dims, down=True, activate=False, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, *spatial]`` to ``[B, outputs, *spatial / 2]``."""
        return self.skip(x) + self.second(self.first(x))


class Discriminator(nn.Module):
    """The discriminator: one score per image, higher for images that look real.

    Args:
        size: Sides of the image, pixels.
        channels: Channels of each level, coarsest first.
        image_channels: Channels of the image.
        group_size: Images per group of the minibatch standard deviation; 1: the discriminator has none.

    Source: StyleGAN2 paper, figure 7 ("residual nets"); Karras et al. 2018 for the minibatch standard deviation.
    """

    def __init__(self, size: Sequence[int], channels: Sequence[int], image_channels: int, group_size: int = 4) -> None:
        super().__init__()
        dims = len(size)
        coarsest = channels[0]
        self.group_size = group_size
        self.from_image = EqualConv(image_channels, channels[-1], 1, dims)
        finest_first = list(channels)[::-1]
        self.blocks = nn.ModuleList(DiscriminatorBlock(a, b, dims) for a, b in pairwise(finest_first))
        self.conv = EqualConv(coarsest + (group_size > 1), coarsest, 3, dims)
        pixels = math.prod(side >> (len(channels) - 1) for side in size)
        self.hidden = EqualLinear(coarsest * pixels, coarsest, activate=True)
        self.score = EqualLinear(coarsest, 1)
        self.to(memory_format=_CHANNELS_LAST[dims])

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores of images, float32 ``[B]``.

        Args:
            image: ``[B, image_channels, *size]``; B is a multiple of ``group_size``, or below it.

        Raises:
            ConfigError: The groups do not divide the batch.
        """
        x = self.from_image(image.contiguous(memory_format=_CHANNELS_LAST[image.dim() - 2]))
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):
            x = _to_float32(x)
            if self.group_size > 1:
                x = torch.cat([x, minibatch_std(x, self.group_size)], dim=1)
            x = self.conv(x)
            return self.score(self.hidden(x.flatten(1)))[:, 0]


def minibatch_std(x: Tensor, group_size: int) -> Tensor:
    """Return the standard deviation over the images of each group, averaged to one map ``[B, 1, *spatial]``.

    Args:
        x: ``[B, C, *spatial]``.
        group_size: Images per group, at most B; the images of a group lie ``B / group_size`` apart.

    Raises:
        ConfigError: The groups do not divide the batch.

    Source: Karras et al. 2018, "Progressive Growing of GANs", section 3. Departure: over groups instead of the whole
    batch, as in the reference implementation.
    """
    members = min(group_size, len(x))
    if len(x) % members:
        raise ConfigError(f"A batch of {len(x)} cannot be divided into groups of {members}; use a multiple.")
    grouped = x.reshape(members, -1, *x.shape[1:])
    std = (grouped.var(0, correction=0) + 1e-8).sqrt().flatten(1).mean(1)  # [B / group_size]
    return std.repeat(members).reshape(-1, 1, *[1] * (x.dim() - 2)).expand(-1, 1, *x.shape[2:])
