"""The denoising U-Net of the lesion-diffusion methods, in 2D and pseudo-3D.

Source: Uhr 2024 (MSc thesis, University of Bern), section 3.2 "U-Net Architectures", figures 3.6 and 3.7.
Where the text is silent, hyper-parameters are those of its library, diffusers' ``UNet2DModel``: attention heads of 8
channels, attention in the middle block, GroupNorm epsilon 1e-5, additive time embedding, and PyTorch's default
initialisation.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.descriptors import Part, TensorSpec
from zoo.errors import ConfigError, DataError
from zoo_lesion_diffusion.config import DenoiserConfig, FillingConfig, PriorConfig

NORM_EPS = 1e-5
MAX_PERIOD = 10_000


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Return the sinusoidal embedding of ``timestep``: the cosines, then the sines.

    Args:
        timestep: Steps of the noise schedule, int64 ``[N]``.
        channels: Even width of the embedding; frequencies fall geometrically from 1 to almost 1/10000.

    Returns:
        ``[N, channels]``, always float32, since half precision cannot hold the angles.

    Source: Ho et al. 2020, with the cosines first and no frequency shift, as in the thesis' library.
    """
    half = channels // 2
    exponent = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angle = timestep[:, None].float() * exponent.exp()  # [N, half]
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class PlaneConv(nn.Module):
    """3×3 convolution in the plane and, with ``across_slices``, then one of length 3 along the slice axis.

    The slice-axis convolution starts as the identity, so a pseudo-3D network starts like its 2D counterpart.

    Source: thesis figure 3.6, after Zhu et al. 2023 (Make-A-Volume). Departure: run as a Conv2d with kernel
    (3, 1) on ``[B, C, D, H·W]``, which equals the rearranged Conv1d, needs no copy if the memory is channels-last, and
    is 1.2 to 1.9 times as fast on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int, across_slices: bool) -> None:
        super().__init__()
        self.plane = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.across: nn.Conv2d | None = None
        if across_slices:
            self.across = nn.Conv2d(out_channels, out_channels, (3, 1), padding=(1, 0))
            nn.init.dirac_(self.across.weight)
            nn.init.zeros_(self.across.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, depth: int) -> Tensor:
        x = self.plane(x)
        if self.across is None:
            return x
        height, width = x.shape[-2:]
        volume = x.unflatten(0, (-1, depth)).transpose(1, 2).flatten(3)  # [B, C, D, H·W]
        return self.across(volume).unflatten(3, (height, width)).transpose(1, 2).flatten(0, 1)


class Attention(nn.Module):
    """Self-attention among the pixels of a slice, with a residual connection: GroupNorm, q/k/v, heads, projection."""

    def __init__(self, channels: int, head_dim: int, groups: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N, H·W, C]
        query, key, value = self.qkv(tokens).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value)  # [N, heads, H·W, head_dim]
        out = self.out(mixed.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).unflatten(2, (height, width))


class ResidualBlock(nn.Module):
    """Two normalised convolutions with the time embedding between them and a residual connection; then attention.

    Source: thesis figure 3.7.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_channels: int,
        groups: int,
        head_dim: int,
        attends: bool,
        across_slices: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=NORM_EPS)
        self.conv1 = PlaneConv(in_channels, out_channels, across_slices)
        self.time = nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=NORM_EPS)
        self.conv2 = PlaneConv(out_channels, out_channels, across_slices)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = Attention(out_channels, head_dim, groups) if attends else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, depth: int) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)), depth)
        hidden = hidden + self.time(time)[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)), depth)
        return self.attention(self.shortcut(x) + hidden)


class DownLevel(nn.Module):
    """One resolution of the encoder: halve it except at the first, then the blocks; every result is a skip."""

    def __init__(self, downsample: nn.Module | None, blocks: list[ResidualBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, time: Tensor, depth: int) -> list[Tensor]:
        skips = []
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        for block in self.blocks:
            x = block(x, time, depth)
            skips.append(x)
        return skips


class UpLevel(nn.Module):
    """One resolution of the decoder: double it except at the first, then the blocks, each with the last skip."""

    def __init__(self, upsample: nn.Module | None, blocks: list[ResidualBlock]) -> None:
        super().__init__()
        self.upsample = upsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, depth: int) -> Tensor:
        if self.upsample is not None:
            x = self.upsample(x)
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), time, depth)
        return x


class DenoisingUNet(nn.Module):
    """Predict the noise in an image, or in a slab of slices, from the image and its timestep.

    Conditions (known image, lesion mask) are further input channels, concatenated by the caller.

    Args:
        in_channels: Channels of the noisy image and of its conditions together.
        out_channels: Channels of the predicted noise.
        channels: Width of each resolution level, finest first; each level halves the image.
        blocks_per_level: Residual blocks per level of the encoder; the decoder has one more.
        attention_levels: Levels, counted from 0 at full resolution, with self-attention after every residual
            block. The middle block always has it.
        head_dim: Channels per attention head. It changes the function but not the shapes of the weights, so the saved
            configuration must hold it.
        groups: Groups of every GroupNorm; must divide each entry of ``channels``.
        pseudo_3d: Add a slice-axis convolution after each 3×3 convolution of the down and up residual blocks.
            The middle block, resampling, normalisation and attention work within a slice.

    Raises:
        ConfigError: Widths, levels or heads that do not fit together.

    Source: thesis section 3.2; the paper's network is ``channels=(128, 128, 256, 256, 512, 512)``, 2 blocks,
    attention at level 4 and heads of 8: 113.67 M parameters in 2D, 134.33 M in pseudo-3D.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: tuple[int, ...],
        blocks_per_level: int,
        attention_levels: tuple[int, ...],
        head_dim: int,
        groups: int = 32,
        pseudo_3d: bool,
    ) -> None:
        super().__init__()
        _check_architecture(channels, blocks_per_level, attention_levels, head_dim, groups)
        self.in_channels = in_channels
        self.pseudo_3d = pseudo_3d
        self.embedding_channels = channels[0]
        self.size_multiple = 2 ** (len(channels) - 1)
        time_channels = 4 * channels[0]

        block = partial(ResidualBlock, time_channels=time_channels, groups=groups, head_dim=head_dim)

        # Every block applies a SiLU to the embedding, so it is applied here once.
        self.time = nn.Sequential(
            nn.Linear(channels[0], time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)

        # Encoder; the decoder needs the width of every skip.
        self.down = nn.ModuleList()
        skip_channels = [channels[0]]
        for level, width in enumerate(channels):
            downsample: nn.Module | None = None
            if level > 0:
                previous = skip_channels[-1]
                downsample = nn.Conv2d(previous, previous, 3, stride=2, padding=1)
                skip_channels.append(previous)
            blocks = []
            for _ in range(blocks_per_level):
                previous = skip_channels[-1]
                blocks.append(block(previous, width, attends=level in attention_levels, across_slices=pseudo_3d))
                skip_channels.append(width)
            self.down.append(DownLevel(downsample, blocks))

        # Middle.
        deepest = channels[-1]
        self.middle = nn.ModuleList(
            [block(deepest, deepest, attends=attends, across_slices=False) for attends in (True, False)]
        )

        # Decoder: one block more per level, because the resampled image is a skip as well.
        self.up = nn.ModuleList()
        current = deepest
        for level, width in reversed(list(enumerate(channels))):
            upsample: nn.Module | None = None
            if level < len(channels) - 1:
                upsample = nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(current, current, 3, padding=1)
                )
            blocks = []
            for _ in range(blocks_per_level + 1):
                joined = current + skip_channels.pop()
                blocks.append(block(joined, width, attends=level in attention_levels, across_slices=pseudo_3d))
                current = width
            self.up.append(UpLevel(upsample, blocks))

        self.norm_out = nn.GroupNorm(groups, channels[0], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the predicted noise.

        Args:
            x: Noisy image and conditions, ``[B, in_channels, H, W]``, in pseudo-3D ``[B, in_channels, D, H, W]``
                with D neighbouring slices; intensities in [-1, 1] plus noise. H and W are multiples of
                ``size_multiple``; D is free.
            timestep: Step of the noise schedule, int64 ``[B]``; in pseudo-3D also ``[B, D]``, one per slice.

        Returns:
            ``[B, out_channels, H, W]`` or ``[B, out_channels, D, H, W]``.

        Raises:
            DataError: Shapes that do not fit.
        """
        self._check_input(x, timestep)
        if not self.pseudo_3d:
            return self._denoise_slices(x, timestep, depth=1)
        batch, _, depth = x.shape[:3]
        if timestep.dim() == 1:
            timestep = timestep[:, None].expand(batch, depth)
        slices = x.transpose(1, 2).flatten(0, 1)  # [B·D, C, H, W]
        noise = self._denoise_slices(slices, timestep.flatten(), depth)
        return noise.unflatten(0, (batch, depth)).transpose(1, 2)

    def _denoise_slices(self, x: Tensor, timestep: Tensor, depth: int) -> Tensor:
        """Run the network on slices ``[N, C, H, W]`` with one timestep each; ``depth`` slices in a row are a slab."""
        embedding = timestep_embedding(timestep, self.embedding_channels)
        time = self.time(embedding.to(self.conv_in.weight.dtype))

        skips = [self.conv_in(x)]
        for level in self.down:
            skips += level(skips[-1], time, depth)
        x = skips[-1]
        for block in self.middle:
            x = block(x, time, depth)
        for level in self.up:
            x = level(x, skips, time, depth)
        return self.conv_out(F.silu(self.norm_out(x)))

    def _check_input(self, x: Tensor, timestep: Tensor) -> None:
        dims, layout = (5, "[B, C, D, H, W]") if self.pseudo_3d else (4, "[B, C, H, W]")
        if x.dim() != dims or x.shape[1] != self.in_channels:
            raise DataError(
                f"The network takes {layout} with C = {self.in_channels} (noisy image and conditions), "
                f"got {list(x.shape)}."
            )
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise DataError(
                f"Height and width must be multiples of {self.size_multiple} for a network of {len(self.down)} "
                f"levels, got {height} × {width}; pad or crop the image."
            )
        per_image, per_slice = (x.shape[0],), (x.shape[0], x.shape[2])
        if timestep.shape != per_image and not (self.pseudo_3d and timestep.shape == per_slice):
            raise DataError(
                f"timestep must hold one step per image, {list(per_image)}, "
                f"{f'or one per slice, {list(per_slice)}, ' if self.pseudo_3d else ''}got {list(timestep.shape)}."
            )


def _check_architecture(
    channels: tuple[int, ...], blocks_per_level: int, attention_levels: tuple[int, ...], head_dim: int, groups: int
) -> None:
    if not channels or channels[0] % 2:
        raise ConfigError(
            "channels must name at least one level, the first of even width (cosines and sines of the timestep), "
            f"got {channels}."
        )
    if min(blocks_per_level, head_dim, groups) < 1:
        raise ConfigError(
            f"blocks_per_level, head_dim and groups must be at least 1, "
            f"got {blocks_per_level}, {head_dim} and {groups}."
        )
    if unfit := [width for width in channels if width % groups]:
        raise ConfigError(f"groups must divide every entry of channels; {groups} does not divide {unfit}.")
    if unknown := [level for level in attention_levels if not 0 <= level < len(channels)]:
        raise ConfigError(
            f"attention_levels must lie in 0 … {len(channels) - 1} for {len(channels)} levels, got {unknown}."
        )
    # The middle block attends too, at the width of the last level.
    attending = {channels[level] for level in attention_levels} | {channels[-1]}
    if unfit := sorted(width for width in attending if width % head_dim):
        raise ConfigError(
            f"head_dim must divide the width of every level with attention, the last included; "
            f"{head_dim} does not divide {unfit}."
        )


class LesionFiller(nn.Module):
    """The network that is trained and exported: predicts the noise in an image, given the known image and the mask.

    Source: thesis section 3.2 "Conditional Lesion Filling", equation 3.6: conditions concatenated as channels.
    Departures, all settings: the conditions may hold neighbouring slices and a biharmonic fill, the difference to that
    fill may be diffused, and the output may be the velocity.
    """

    def __init__(self, config: FillingConfig) -> None:
        super().__init__()
        contrasts, slices = len(config.data.contrasts), 1 + 2 * config.neighbours
        self.unet = DenoisingUNet(
            in_channels=contrasts + slices * (contrasts + 1),
            out_channels=contrasts,
            pseudo_3d=config.network == "pseudo-3d",
            **config.unet.model_dump(),
        )

    def forward(self, noisy: Tensor, context: Tensor, lesion_mask: Tensor, timestep: Tensor) -> Tensor:
        """Return the predicted noise or velocity; shapes as declared by `parts`."""
        return self.unet(torch.cat([noisy, context, lesion_mask], dim=1), timestep)


def build(config: FillingConfig) -> LesionFiller:
    """Return the untrained model of the settings."""
    return LesionFiller(config)


def build_prior(config: PriorConfig) -> DenoisingUNet:
    """Return the untrained model of the settings: the U-Net without conditions (thesis section 3.1)."""
    contrasts = len(config.data.contrasts)
    return DenoisingUNet(
        in_channels=contrasts,
        out_channels=contrasts,
        pseudo_3d=config.network == "pseudo-3d",
        **config.unet.model_dump(),
    )


def parts(config: FillingConfig) -> dict[str, Part]:
    """Return the one part: ``denoiser``."""
    contrasts, slices = len(config.data.contrasts), 1 + 2 * config.neighbours
    residual = config.diffusion.residual_scale
    coarse, diffused = ("biharmonic fill", f"(image - context) / {residual:g}") if residual else ("0", "image")
    beside = "" if slices == 1 else f", of {slices} neighbouring slices"
    context = TensorSpec(
        name="context",
        dtype="float32",
        shape=_shape(config, slices * contrasts),
        range=(-1, 1),
        meaning=f"image, {coarse} in the mask{beside}",
    )
    lesion_mask = TensorSpec(
        name="lesion_mask",
        dtype="float32",
        shape=_shape(config, slices),
        range=(0, 1),
        meaning=f"1 is filled{beside}",
    )
    return {"denoiser": _denoiser(config, diffused, context, lesion_mask)}


def prior_parts(config: PriorConfig) -> dict[str, Part]:
    """Return the one part: ``denoiser``."""
    return {"denoiser": _denoiser(config, "image")}


def _denoiser(config: DenoiserConfig, diffused: str, *conditions: TensorSpec) -> Part:
    """Return the part that predicts the noise, or the velocity, from what is ``diffused`` and its conditions."""
    image = _shape(config, len(config.data.contrasts))
    return Part(
        module="",
        inputs=(
            TensorSpec(name="noisy", dtype="float32", shape=image, range=None, meaning=f"{diffused} and noise, x_t"),
            *conditions,
            TensorSpec(
                name="timestep",
                dtype="int64",
                shape=("batch",),
                range=(0, config.diffusion.steps - 1),
                meaning="noise level t",
            ),
        ),
        outputs=(
            TensorSpec(
                name=config.diffusion.prediction,
                dtype="float32",
                shape=image,
                range=None,
                meaning="predicted epsilon" if config.diffusion.prediction == "noise" else "predicted v",
            ),
        ),
    )


def _shape(config: DenoiserConfig, channels: int) -> tuple[int | str, ...]:
    slab = () if config.network == "2d" else (config.slab,)
    return ("batch", channels, *slab, *config.window)
