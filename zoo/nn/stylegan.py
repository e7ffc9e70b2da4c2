"""Layers and networks of StyleGAN2, for slices and volumes from one source.

Everything is made of plain torch operators with a double backward, so it runs and exports wherever torch does.
Weights are channels-last, which is up to four times as fast on a CPU. Shapes are ``[B, C, *spatial]``; spatial has
two or three sides, which need be neither equal nor powers of two.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2), and Karras et al.
2020, "Training Generative Adversarial Networks with Limited Data" (ADA), for widths and initial values.
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
"""Of every leaky ReLU."""
GAIN = math.sqrt(2)
"""By which every activation is multiplied, so that its second moment stays 1."""
CLAMP = 256.0
"""Largest activation in float16 (ADA paper, appendix D)."""

_CONVOLVE: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


# --- Sizes. ---


def halvings(size: Sequence[int]) -> int:
    """Return how often every side can be halved and none falls below 4.

    Args:
        size: Sides of the image.

    Raises:
        ConfigError: The smallest image left would have a side of 16 or more in each direction.
    """
    count = 0
    while all(side % 2 ** (count + 1) == 0 and side >> (count + 1) >= 4 for side in size):
        count += 1
    if min(side >> count for side in size) >= 16:
        step = 2 ** max(int(math.log2(min(size))) - 2, 0)
        near = tuple(-(-side // step) * step for side in size)
        raise ConfigError(
            f"size {tuple(size)} can be halved only {count} times, to {tuple(side >> count for side in size)}; use "
            f"multiples of a high power of two, like {near}"
        )
    return count


def level_channels(size: Sequence[int], budget: int, most: int) -> tuple[int, ...]:
    """Return channels a level, coarsest first: ``min(budget / r, most)`` at the nominal resolution r = 4, 8, 16 …

    Source: ADA paper, appendix C (there ``budget`` is 16384 below 512 pixels, ``most`` 512).
    """
    return tuple(max(min(budget // (4 << level), most), 1) for level in range(halvings(size) + 1))


def noise_shapes(size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the spatial shape of the noise of each convolution, coarsest first: one at the base, then two a level."""
    levels = halvings(size)
    shapes = [tuple(side >> (levels - level) for side in size) for level in range(levels + 1)]
    return [shapes[0], *(shape for shape in shapes[1:] for _ in range(2))]


def style_count(size: Sequence[int]) -> int:
    """Return how many style vectors an image takes: one a convolution, and one for the last to-image layer."""
    return 2 * halvings(size) + 2


# --- Resampling by [1, 3, 3, 1]. ---


def binomial_filter(dims: int) -> Tensor:
    """Return the separable filter [1, 3, 3, 1] as ``[1, 1, 4, …]``, float32, summing to 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = taps
    for _ in range(dims - 1):
        kernel = kernel[..., None] * taps
    return kernel[None, None]


def smooth(x: Tensor, kernel: Tensor, *, padding: int, stride: int = 1) -> Tensor:
    """Filter each channel alone, with zeros around.

    Args:
        x: ``[B, C, *spatial]``.
        kernel: ``[1, 1, *window]``.
        padding: On every side.
        stride: Of the result.
    """
    return _CONVOLVE[x.dim() - 2](x, _a_channel(kernel, x), stride=stride, padding=padding, groups=x.shape[1])


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter with `binomial_filter` and keep every other pixel: each side is halved."""
    return smooth(x, kernel, padding=1, stride=2)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double each side and filter with `binomial_filter`; away from the border this is bilinear interpolation.

    The filter is multiplied by 2 a dimension, so that a constant stays what it is in 2D and in 3D.
    """
    dims = x.dim() - 2
    gained = _a_channel(kernel * 2**dims, x)
    return _TRANSPOSE[dims](x, gained, stride=2, padding=1, groups=x.shape[1])


def _a_channel(kernel: Tensor, x: Tensor) -> Tensor:
    return kernel.to(x.dtype).expand(x.shape[1], *kernel.shape[1:])


# --- Layers. ---


class EqualLinear(nn.Module):
    """Fully connected layer whose weights are drawn from N(0, 1) and scaled when used.

    Args:
        inputs, outputs: Widths.
        bias: What the bias starts as.
        activate: Leaky ReLU and `GAIN` behind it.
        rate: Its learning rate, relative to other layers' (0.01 in the mapping network).

    Source: Karras et al. 2018, "Progressive Growing of GANs", section 4.1.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, activate: bool = False, rate: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.activate = activate
        self.rate = rate * (GAIN if activate else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs]`` to ``[B, outputs]``."""
        scale = self.rate / math.sqrt(self.weight.shape[1])
        # A positive factor passes the leaky ReLU, so the gain is folded into the weights.
        y = F.linear(x, self.weight * scale, self.bias * self.rate)
        return F.leaky_relu(y, SLOPE) if self.activate else y


class EqualConv(nn.Module):
    """Convolution whose weights are drawn from N(0, 1) and scaled when used; it can halve the image.

    Args:
        inputs, outputs: Channels.
        kernel: Side of the window, odd.
        dims: 2 or 3.
        down: Filter, then convolve with stride 2.
        activate: Bias, leaky ReLU and `GAIN` behind it; without, there is no bias.
        gain: Multiplies the result.
    """

    taps: Tensor

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
            self.register_buffer("taps", binomial_filter(dims), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, *spatial]`` to ``[B, outputs, *spatial]``, halved with ``down``."""
        window = self.weight.shape[2]
        weight = self.weight * (self.gain / math.sqrt(self.weight[0].numel()))
        bias = None if self.bias is None else self.bias * self.gain
        stride, padding = 1, window // 2
        if self.down and window == 1:
            x = downsample(x, self.taps)
        elif self.down:
            x = smooth(x, self.taps, padding=window // 2 + 1)
            stride, padding = 2, 0
        y = _CONVOLVE[x.dim() - 2](x, weight, bias, stride=stride, padding=padding)
        return y if bias is None else _clamped(F.leaky_relu(y, SLOPE, inplace=True), self.gain)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    gain: float = 1.0,
    up_filter: Tensor | None = None,
) -> Tensor:
    """Convolve each sample with weights scaled by its own style, without a weight tensor of its own.

    With ``w' = style * weight`` scaled to unit norm a filter, ``conv(x, w')`` equals ``d * conv(style * x, weight)``,
    whose weights all samples share: one convolution for the batch, and a graph in which the batch may vary.

    Args:
        x: ``[B, inputs, *spatial]``.
        weight: ``[outputs, inputs, *window]``.
        style: ``[B, inputs]``.
        demodulate: Scale each filter to unit norm.
        gain: To that norm instead.
        up_filter: `binomial_filter`, to double each side by a transposed convolution and this filter.

    Source: StyleGAN2 paper, section 2.2 and equations 1 and 3.
    """
    dims = x.dim() - 2
    if demodulate and x.dtype == torch.float16:
        # Demodulation undoes any scale of the style; near 1 its products cannot leave float16.
        style = style / style.abs().amax(1, keepdim=True)
    shape = (len(x), -1, *[1] * dims)
    scaled = x * style.reshape(shape).to(x.dtype)
    if up_filter is None:
        y = _CONVOLVE[dims](scaled, weight, padding=weight.shape[2] // 2)
    else:
        y = _TRANSPOSE[dims](scaled, weight.transpose(0, 1), stride=2)
        y = smooth(y, up_filter * 2**dims, padding=1)
    if not demodulate:
        return y
    power = _whole(weight).square().flatten(2).sum(2)  # [outputs, inputs]
    norm = torch.rsqrt(F.linear(_whole(style).square(), power) + 1e-8)
    return y * (gain * norm).reshape(shape).to(y.dtype)


def _whole(x: Tensor) -> Tensor:
    """Return half precision as float32, and all else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _clamped(x: Tensor, gain: float) -> Tensor:
    return x.clamp(-CLAMP * gain, CLAMP * gain) if x.dtype == torch.float16 else x


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU.

    Args:
        inputs, outputs: Channels.
        style_width: Of w.
        dims: 2 or 3.
        up: Double each side.

    Source: StyleGAN2 paper, figure 2d.
    """

    taps: Tensor | None

    def __init__(self, inputs: int, outputs: int, style_width: int, dims: int, *, up: bool) -> None:
        super().__init__()
        self.affine = EqualLinear(style_width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[3] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.up = up
        self.register_buffer("taps", binomial_filter(dims) if up else None, persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Return ``[B, outputs, *spatial]``.

        Args:
            x: ``[B, inputs, *spatial]``.
            w: ``[B, style_width]``.
            noise: One plane for all channels, ``[B, 1, *spatial]`` of the result.
        """
        # A positive factor passes the leaky ReLU, so the gain goes where a product is made anyway.
        y = modulated_conv(x, self.weight, self.affine(w), gain=GAIN, up_filter=self.taps)
        y += (noise * (self.noise_strength * GAIN)).to(y.dtype)
        y += (self.bias * GAIN).reshape(-1, *[1] * (x.dim() - 2)).to(y.dtype)
        return _clamped(F.leaky_relu(y, SLOPE, inplace=True), GAIN)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the image's channels: no demodulation, no noise, linear."""

    def __init__(self, inputs: int, outputs: int, style_width: int, dims: int) -> None:
        super().__init__()
        self.affine = EqualLinear(style_width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *[1] * dims))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return float32 ``[B, outputs, *spatial]`` of ``x`` ``[B, inputs, *spatial]`` and ``w``."""
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = modulated_conv(x, self.weight, style, demodulate=False)
        return _whole(y) + self.bias.reshape(-1, *[1] * (x.dim() - 2))


# --- Networks. ---


class Mapping(nn.Module):
    """From a latent code z to a style w.

    Args:
        latent_width, style_width: Of z and w.
        layers: Fully connected layers.
        width: Of those in between; as ``style_width`` when it is ``None``.

    Attributes:
        average: Running mean of w, which truncation pulls to; `track` moves it.
    """

    average: Tensor

    def __init__(self, latent_width: int, style_width: int, layers: int, width: int | None = None) -> None:
        super().__init__()
        widths = [latent_width, *[width or style_width] * (layers - 1), style_width]
        self.layers = nn.Sequential(*(EqualLinear(a, b, activate=True, rate=0.01) for a, b in pairwise(widths)))
        self.register_buffer("average", torch.zeros(style_width))

    def forward(self, z: Tensor, truncation: Tensor | None = None) -> Tensor:
        """Return w ``[B, style_width]``.

        Args:
            z: ``[B, latent_width]``, standard normal; only its direction counts.
            truncation: psi, ``[B]``: w becomes ``average + psi (w - average)``.

        Source: StyleGAN2 paper, section 2; ``z`` is scaled to a second moment of 1, epsilon 1e-8.
        """
        w: Tensor = self.layers(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))
        return w if truncation is None else self.average + truncation[:, None] * (w - self.average)

    @torch.no_grad()
    def track(self, mean: Tensor, decay: float = 0.995) -> None:
        """Move `average` towards the mean w of a batch, ``[style_width]``."""
        self.average.lerp_(mean.float(), 1 - decay)


class Synthesis(nn.Module):
    """From styles and noise to an image: a learned constant, styled convolutions, and a sum of images over scales.

    Args:
        size: Sides of the image.
        channels: Of each level, coarsest first; one more than `halvings`.
        style_width: Of w.
        image_channels: Of the image.

    Source: StyleGAN2 paper, figure 7 ("output skips").
    """

    taps: Tensor

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
        self.register_buffer("taps", binomial_filter(self.dims), persistent=False)
        self.to(memory_format=_CHANNELS_LAST[self.dims])

    def forward(self, w: Tensor, *noise: Tensor) -> Tensor:
        """Return the image, float32 ``[B, image_channels, *size]``.

        Args:
            w: ``[B, style_count, style_width]``. Convolution n takes style n; a to-image layer takes that of the
                convolution behind it, and the last one has its own.
            noise: One ``[B, 1, *spatial]`` a convolution, see `noise_shapes`.
        """
        x = self.constant.expand(len(w), *self.constant.shape[1:])
        x = x.contiguous(memory_format=_CHANNELS_LAST[self.dims])
        x = self.convs[0](x, w[:, 0], noise[0])
        image = self.to_image[0](x, w[:, 1])
        for level in range(1, len(self.to_image)):
            last = 2 * level
            x = self.convs[last - 1](x, w[:, last - 1], noise[last - 1])
            x = self.convs[last](x, w[:, last], noise[last])
            image = upsample(image, self.taps) + self.to_image[level](x, w[:, last + 1])
        return image


class Generator(nn.Module):
    """A mapping and a synthesis network, each usable alone."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis


class _Halving(nn.Module):
    """Residual block of the discriminator that halves the image."""

    def __init__(self, inputs: int, outputs: int, dims: int) -> None:
        super().__init__()
        half = math.sqrt(0.5)
        self.first = EqualConv(inputs, inputs, 3, dims)
        self.second = EqualConv(inputs, outputs, 3, dims, down=True, gain=half)
        self.skip = EqualConv(inputs, outputs, 1, dims, down=True, activate=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.second(self.first(x))


class Discriminator(nn.Module):
    """From images to a score each, higher for what looks real.

    Args:
        size: Sides of the image.
        channels: Of each level, coarsest first.
        image_channels: Of the image.
        group: Images over which the spread is taken (minibatch standard deviation); 1 leaves it out.

    Source: StyleGAN2 paper, figure 7 ("residual nets"); Karras et al. 2018 for the minibatch standard deviation.
    """

    def __init__(self, size: Sequence[int], channels: Sequence[int], image_channels: int, group: int = 4) -> None:
        super().__init__()
        dims = len(size)
        coarsest = channels[0]
        self.group = group
        self.from_image = EqualConv(image_channels, channels[-1], 1, dims)
        falling = list(channels)[::-1]
        self.blocks = nn.ModuleList(_Halving(a, b, dims) for a, b in pairwise(falling))
        self.conv = EqualConv(coarsest + (group > 1), coarsest, 3, dims)
        pixels = math.prod(side >> (len(channels) - 1) for side in size)
        self.hidden = EqualLinear(coarsest * pixels, coarsest, activate=True)
        self.score = EqualLinear(coarsest, 1)
        self.to(memory_format=_CHANNELS_LAST[dims])

    def forward(self, image: Tensor) -> Tensor:
        """Return scores, float32 ``[B]``, of ``image`` ``[B, image_channels, *size]``; B is a multiple of the group."""
        x = self.from_image(image.contiguous(memory_format=_CHANNELS_LAST[image.dim() - 2]))
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):
            x = _whole(x)
            if self.group > 1:
                x = torch.cat([x, batch_spread(x, self.group)], dim=1)
            x = self.conv(x)
            return self.score(self.hidden(x.flatten(1)))[:, 0]


def batch_spread(x: Tensor, group: int) -> Tensor:
    """Return how much the images of a group differ, one plane ``[B, 1, *spatial]``.

    Args:
        x: ``[B, C, *spatial]``.
        group: Images a group, at most B; members lie ``B / group`` apart.

    Raises:
        ConfigError: The groups do not divide the batch.
    """
    members = min(group, len(x))
    if len(x) % members:
        raise ConfigError(f"A batch of {len(x)} cannot be divided into groups of {members}; use a multiple.")
    grouped = x.reshape(members, -1, *x.shape[1:])
    spread = (grouped.var(0, correction=0) + 1e-8).sqrt().flatten(1).mean(1)  # [B / group]
    return spread.repeat(members).reshape(-1, 1, *[1] * (x.dim() - 2)).expand(-1, 1, *x.shape[2:])
