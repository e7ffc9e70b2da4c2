from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo_lesion_diffusion.diffusers_weights import diffusers_options, diffusers_state_dict
from zoo_lesion_diffusion.networks import DenoisingUNet, timestep_embedding

PAPER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 1,
    "channels": (128, 128, 256, 256, 512, 512),
    "blocks_per_level": 2,
    "attention_levels": (4,),
    "head_dim": 8,
    "groups": 32,
}
SMALL: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 1,
    "channels": (16, 16, 32),
    "blocks_per_level": 1,
    "attention_levels": (1,),
    "head_dim": 8,
    "groups": 8,
}


def build(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return DenoisingUNet(**{**SMALL, "pseudo_3d": False, **changes}).eval()


def scramble(network: nn.Module, seed: int = 1) -> None:
    """Change every parameter from its initial value, since an identity or a gain of 1 could hide an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def image(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def norm_epsilons(network: nn.Module) -> set[float]:
    return {module.eps for module in network.modules() if isinstance(module, nn.GroupNorm)}


def diffusers_unet(config: dict[str, Any]) -> Any:
    diffusers = pytest.importorskip("diffusers")
    channels = {name: config[name] for name in ("in_channels", "out_channels")}
    return diffusers.UNet2DModel(**channels, **diffusers_options(config)).eval()


def test_paper_networks_have_the_parameter_counts_of_the_paper():
    with torch.device("meta"):
        assert count_parameters(DenoisingUNet(**PAPER, pseudo_3d=False)) == 113_670_913
        assert count_parameters(DenoisingUNet(**PAPER, pseudo_3d=True)) == 134_332_673


def test_paper_network_has_as_many_parameters_as_the_thesis_library():
    with torch.device("meta"):
        assert count_parameters(diffusers_unet(PAPER)) == 113_670_913


@pytest.mark.parametrize("attention_levels", [(2,), (0, 3)])
def test_2d_network_agrees_with_the_thesis_library(attention_levels):
    config = {
        **SMALL,
        "channels": (32, 32, 64, 64),
        "blocks_per_level": 2,
        "attention_levels": attention_levels,
    }
    ours = DenoisingUNet(**config, pseudo_3d=False).eval()
    scramble(ours)  # off the initial values, where a wrong name could go unnoticed
    theirs = diffusers_unet(config)
    theirs.load_state_dict(diffusers_state_dict(ours))
    x, timestep = image(2, 3, 16, 24), torch.tensor([7, 981])
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, timestep), theirs(x, timestep).sample, atol=1e-5, rtol=1e-5)
    # Too small to show in the numbers above, but not in a flat background.
    assert norm_epsilons(ours) == norm_epsilons(theirs)


def test_timestep_embedding_agrees_with_the_thesis_library():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    timestep = torch.tensor([0, 1, 40, 500, 999])
    expected = embeddings.get_timestep_embedding(timestep, 128, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_embedding(timestep, 128), expected, atol=1e-6, rtol=0)


def test_timestep_embedding_has_cosines_first_and_the_fastest_frequency_one():
    embedding = timestep_embedding(torch.tensor([0, 3]), 4)
    assert embedding[0].tolist() == [1, 1, 0, 0]
    angle = torch.tensor([3.0, 0.03])  # frequencies 1 and 10000 ** -0.5
    torch.testing.assert_close(embedding[1], torch.cat([angle.cos(), angle.sin()]))


def test_pseudo_3d_network_starts_as_its_2d_twin():
    flat, slab = build(), build(pseudo_3d=True)
    missing, unexpected = slab.load_state_dict(flat.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".across." in name for name in missing)
    x, timestep = image(2, 3, 5, 8, 12), torch.tensor([30, 800])
    with torch.inference_mode():
        expected = torch.stack([flat(x[:, :, k], timestep) for k in range(5)], dim=2)
        torch.testing.assert_close(slab(x, timestep), expected, atol=1e-6, rtol=1e-5)


def test_slice_convolution_equals_a_conv3d_and_stays_within_its_slab():
    network = build(pseudo_3d=True)
    scramble(network)
    convolution: Any = network.get_submodule("down.0.blocks.0.conv1")
    x = image(2, 16, 5, 8, 12)
    reference: Any = nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0))
    with torch.no_grad():
        reference.weight.copy_(convolution.across.weight[..., None])
        reference.bias.copy_(convolution.across.bias)
        plane = torch.stack([convolution.plane(x[:, :, k]) for k in range(5)], dim=2)
        ours = convolution(x.transpose(1, 2).flatten(0, 1), 5).unflatten(0, (2, 5)).transpose(1, 2)
        torch.testing.assert_close(ours, reference(plane), atol=1e-5, rtol=1e-5)


def test_slice_convolutions_follow_every_plane_convolution_except_in_the_middle():
    network = build(pseudo_3d=True)
    across = [name for name, module in network.named_modules() if name.endswith(".across")]
    blocks = sum(len(level.blocks) for level in (*network.down, *network.up))
    assert len(across) == 2 * blocks
    assert not any(name.startswith("middle") for name in across)


def test_slices_inform_their_neighbours_but_not_other_slabs():
    network = build(pseudo_3d=True)
    scramble(network)
    x, timestep = image(2, 3, 4, 8, 8), torch.tensor([10, 500])
    changed = x.clone()
    changed[0, :, 0] += 1
    with torch.inference_mode():
        difference = (network(changed, timestep) - network(x, timestep)).abs().amax(dim=(1, 3, 4))  # [B, D]
    assert (difference[0] > 1e-4).all()
    assert (difference[1] == 0).all()


def test_equal_timesteps_of_all_slices_are_the_timestep_of_the_slab():
    network = build(pseudo_3d=True)
    scramble(network)
    x = image(2, 3, 4, 8, 8)
    with torch.inference_mode():
        per_slab = network(x, torch.tensor([10, 500]))
        per_slice = network(x, torch.tensor([[10] * 4, [500] * 4]))
        mixed = network(x, torch.tensor([[10, 10, 10, 900], [500] * 4]))
    torch.testing.assert_close(per_slice, per_slab)
    assert (mixed[0] - per_slab[0]).abs().max() > 1e-4
    torch.testing.assert_close(mixed[1], per_slab[1])


@pytest.mark.parametrize("pseudo_3d", [False, True])
def test_channels_last_gives_the_same_values(pseudo_3d):
    network = build(pseudo_3d=pseudo_3d)
    scramble(network)
    x, timestep = image(2, 3, *([3] if pseudo_3d else []), 8, 12), torch.tensor([10, 500])
    with torch.inference_mode():
        expected = network(x, timestep)
        actual = network.to(memory_format=torch.channels_last)(x, timestep)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pseudo_3d", [False, True])
def test_trains_under_bfloat16_autocast(pseudo_3d):
    network = build(pseudo_3d=pseudo_3d)
    x, timestep = image(2, 3, *([3] if pseudo_3d else []), 8, 8), torch.tensor([10, 500])
    expected = network(x, timestep)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = network(x, timestep)
    assert (actual - expected).norm() < 0.05 * expected.norm()
    actual.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in network.parameters())


def test_runs_with_bfloat16_weights():
    network = build()
    x, timestep = image(2, 3, 8, 8), torch.tensor([10, 990])
    with torch.inference_mode():
        expected = network(x, timestep)
        actual = network.to(torch.bfloat16)(x.to(torch.bfloat16), timestep)
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("pseudo_3d", [False, True])
def test_traces_with_free_batch_and_depth(pseudo_3d):
    network = build(pseudo_3d=pseudo_3d)
    scramble(network)
    batch, depth = torch.export.Dim("batch", max=64), torch.export.Dim("depth", max=64)
    axes = {0: batch, 2: depth} if pseudo_3d else {0: batch}
    example = (image(2, 3, *([3] if pseudo_3d else []), 8, 8), torch.tensor([10, 500]))
    program = torch.export.export(network, example, dynamic_shapes={"x": axes, "timestep": {0: batch}})
    x, timestep = image(3, 3, *([5] if pseudo_3d else []), 8, 8), torch.tensor([0, 20, 999])
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(x, timestep), network(x, timestep), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ()}, "at least one level"),
        ({"channels": (15, 30), "groups": 5}, "even width"),
        ({"groups": 12}, r"12 does not divide \[16, 16, 32\]"),
        ({"groups": 0}, "at least 1"),
        ({"attention_levels": (3,)}, r"0 … 2 for 3 levels, got \[3\]"),
        ({"head_dim": 24}, r"24 does not divide \[16, 32\]"),
        ({"head_dim": 32}, r"32 does not divide \[16\]"),
    ],
)
def test_refuses_an_architecture_that_does_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("pseudo_3d", "shape", "timestep_shape", "message"),
    [
        (False, (2, 3, 4, 8, 8), (2,), r"takes \[B, C, H, W\]"),
        (True, (2, 3, 8, 8), (2,), r"takes \[B, C, D, H, W\]"),
        (False, (2, 1, 8, 8), (2,), r"C = 3 .* got \[2, 1, 8, 8\]"),
        (False, (2, 3, 8, 10), (2,), "multiples of 4 for a network of 3 levels, got 8 × 10"),
        (False, (2, 3, 8, 8), (1,), r"one step per image, \[2\], got \[1\]"),
        (False, (2, 3, 8, 8), (2, 8), r"got \[2, 8\]"),
        (True, (2, 3, 4, 8, 8), (2, 3), r"or one per slice, \[2, 4\], got \[2, 3\]"),
    ],
)
def test_refuses_input_that_does_not_fit(pseudo_3d, shape, timestep_shape, message):
    with pytest.raises(DataError, match=message):
        build(pseudo_3d=pseudo_3d)(torch.zeros(shape), torch.zeros(timestep_shape, dtype=torch.int64))
