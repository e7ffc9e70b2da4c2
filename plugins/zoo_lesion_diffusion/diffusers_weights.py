"""The weights of the 2D network under the names of diffusers' ``UNet2DModel``, the thesis' library."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo_lesion_diffusion.networks import DenoisingUNet, ResidualBlock


def diffusers_options(unet: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``UNet2DModel`` for the settings of a `UNetConfig`, except input and output channels."""
    attends = [level in unet["attention_levels"] for level in range(len(unet["channels"]))]
    return {
        "block_out_channels": tuple(unet["channels"]),
        "layers_per_block": unet["blocks_per_level"],
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        "attention_head_dim": unet["head_dim"],
        "norm_num_groups": unet["groups"],
    }


def diffusers_state_dict(unet: DenoisingUNet) -> dict[str, Tensor]:
    """Return the weights of a 2D network under the names of ``UNet2DModel``.

    A resampler is the last layer of a level there, and the first layer of the next level here.

    Raises:
        ConfigError: The network is pseudo-3D, which ``UNet2DModel`` cannot be.
    """
    if unet.pseudo_3d:
        raise ConfigError("diffusers' UNet2DModel has no slice-axis convolutions; only network=2d has its weights.")
    state: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        state.update({f"{name}.{key}": tensor for key, tensor in module.state_dict().items()})

    def put_block(level: str, number: int, block: ResidualBlock) -> None:
        residual, attention = f"{level}.resnets.{number}", f"{level}.attentions.{number}"
        put(f"{residual}.norm1", block.norm1)
        put(f"{residual}.conv1", block.conv1.plane)
        put(f"{residual}.time_emb_proj", block.time)
        put(f"{residual}.norm2", block.norm2)
        put(f"{residual}.conv2", block.conv2.plane)
        put(f"{residual}.conv_shortcut", block.shortcut)
        if isinstance(block.attention, nn.Identity):
            return
        put(f"{attention}.group_norm", block.attention.norm)
        put(f"{attention}.to_out.0", block.attention.out)
        for name, tensor in block.attention.qkv.state_dict().items():
            query, key, value = tensor.chunk(3)
            state.update({f"{attention}.to_q.{name}": query, f"{attention}.to_k.{name}": key})
            state[f"{attention}.to_v.{name}"] = value

    put("time_embedding.linear_1", unet.time[0])
    put("time_embedding.linear_2", unet.time[2])
    put("conv_in", unet.conv_in)
    put("conv_norm_out", unet.norm_out)
    put("conv_out", unet.conv_out)
    down: list[Any] = list(unet.down)
    up: list[Any] = list(unet.up)
    blocks = [(f"down_blocks.{index}", list(level.blocks)) for index, level in enumerate(down)]
    blocks += [(f"up_blocks.{index}", list(level.blocks)) for index, level in enumerate(up)]
    for place, several in [*blocks, ("mid_block", list(unet.middle))]:
        for number, block in enumerate(several):
            put_block(place, number, block)
    for index, level in enumerate(down[1:]):
        put(f"down_blocks.{index}.downsamplers.0.conv", level.downsample)
    for index, level in enumerate(up[1:]):
        put(f"up_blocks.{index}.upsamplers.0.conv", level.upsample[1])
    return state
