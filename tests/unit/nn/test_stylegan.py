"""StyleGAN2's layers against their plain formulation, known answers and finite differences, in 2D and 3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError
from zoo.nn.stylegan import (
    Discriminator,
    EqualConv,
    EqualLinear,
    MappingNetwork,
    SynthesisNetwork,
    binomial_filter,
    downsample,
    level_channels,
    minibatch_std,
    modulated_conv,
    noise_shapes,
    num_halvings,
    style_count,
    upsample,
)

SIZES = [(16, 24), (8, 16, 12)]
CONV = {2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _synthesis(size: tuple[int, ...], channels: int = 2) -> SynthesisNetwork:
    torch.manual_seed(0)
    network = SynthesisNetwork(size, level_channels(size, 64, 8), 6, channels)
    for parameter in network.parameters():  # biases and strengths begin at 0, where they could not be seen
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter)
    return network.eval()


def _inputs(size: tuple[int, ...], batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(batch, style_count(size), 6, generator=generator, dtype=dtype)
    return w, [torch.randn(batch, 1, *shape, generator=generator, dtype=dtype) for shape in noise_shapes(size)]


# --- Sizes. ---


def test_sizes_of_the_paper() -> None:
    assert (num_halvings((256, 256)), style_count((256, 256))) == (6, 14)
    assert level_channels((256, 256), 16384, 512) == (512, 512, 512, 512, 256, 128, 64)
    assert [style_count((side, side)) for side in (64, 128, 512)] == [10, 12, 16]


def test_sides_need_not_be_equal() -> None:
    assert num_halvings((160, 224)) == 5
    assert noise_shapes((16, 24)) == [(4, 6), (8, 12), (8, 12), (16, 24), (16, 24)]
    assert num_halvings((80, 96, 80)) == 4


def test_a_size_that_leaves_too_much_at_the_base_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"168, 224.*only 3 times, to \(21, 28\)"):
        num_halvings((168, 224))


# --- Resampling. ---


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_stays_what_it_is_away_from_the_border(dims: int) -> None:
    image, taps = torch.full((1, 3, *[8] * dims), 2.5), binomial_filter(dims)
    doubled, halved = upsample(image, taps), downsample(image, taps)
    assert doubled.shape[2:] == (16,) * dims
    assert halved.shape[2:] == (4,) * dims
    for result in (doubled, halved):
        inner = result[(..., *[slice(1, -1)] * dims)]
        assert torch.allclose(inner, torch.full_like(inner, 2.5))


def test_upsampling_is_bilinear_away_from_the_border() -> None:
    image = torch.randn(2, 3, 6, 5)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(upsample(image, binomial_filter(2))[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-6)


def test_an_impulse_spreads_as_the_filter_says() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 1, 2] = 1
    taps = torch.tensor([1.0, 3, 3, 1]) / 4
    expected = torch.zeros(8, 8)
    expected[1:5, 3:7] = taps[:, None] * taps
    assert torch.allclose(upsample(image, binomial_filter(2))[0, 0], expected)
    assert torch.allclose(downsample(expected[None, None], binomial_filter(2))[0, 0, 1, 2], (expected**2).sum() / 4)


# --- Layers. ---


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulation_equals_a_weight_for_each_sample(dims: int, up: bool, demodulate: bool) -> None:
    torch.manual_seed(1)
    batch, inputs, outputs, side = 3, 4, 5, 6
    x, weight, style = torch.randn(batch, inputs, *[side] * dims), torch.randn(outputs, inputs, *[3] * dims), None
    style = torch.randn(batch, inputs) + 1
    taps = binomial_filter(dims)
    own = weight[None] * style.reshape(batch, 1, inputs, *[1] * dims)
    if demodulate:
        own = own / (own.square().flatten(2).sum(2) + 1e-8).sqrt().reshape(batch, outputs, *[1] * (dims + 1))
    grouped = x.reshape(1, batch * inputs, *[side] * dims)
    if up:
        turned = own.transpose(1, 2).reshape(batch * inputs, outputs, *[3] * dims)
        y = TRANSPOSE[dims](grouped, turned, stride=2, groups=batch)
        y = y.reshape(batch * outputs, 1, *y.shape[2:])
        expected = CONV[dims](y, taps * 2**dims, padding=1).reshape(batch, outputs, *[2 * side] * dims)
    else:
        y = CONV[dims](grouped, own.reshape(batch * outputs, inputs, *[3] * dims), padding=1, groups=batch)
        expected = y.reshape(batch, outputs, *[side] * dims)
    result = modulated_conv(x, weight, style, demodulate=demodulate, up_filter=taps if up else None)
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()


def test_half_precision_does_not_overflow_where_styles_are_large() -> None:
    x, weight = torch.randn(1, 4, 6, 6), torch.randn(5, 4, 3, 3)
    style = torch.tensor([[3e4, 1e4, -2e4, 5e3]])
    exact = modulated_conv(x, weight, style)
    half = modulated_conv(x.half(), weight.half(), style)
    assert (half.float() - exact).abs().max() < 2e-2 * exact.abs().max()


def test_second_moments_stay_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 128)
    layer = EqualLinear(128, 256, activate=True, lr_multiplier=0.01)
    assert float(layer(x).detach().square().mean()) == pytest.approx(1, rel=0.1)
    image = torch.randn(4, 32, 16, 16)
    assert float(EqualConv(32, 64, 1, 2)(image).detach().square().mean()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_layer_halves_the_image(window: int, dims: int) -> None:
    layer = EqualConv(3, 4, window, dims, down=True)
    assert layer(torch.randn(2, 3, *[8] * dims)).shape == (2, 4, *[4] * dims)


# --- Networks. ---


@pytest.mark.parametrize("size", SIZES)
def test_the_image_depends_on_each_style_and_each_noise(size: tuple[int, ...]) -> None:
    network, (w, noise) = _synthesis(size), _inputs(size, 2)
    w.requires_grad_()
    for plane in noise:
        plane.requires_grad_()
    image = network(w, *noise)
    assert image.shape == (2, 2, *size)
    gradients = torch.autograd.grad(image.square().sum(), [w, *noise])
    assert (gradients[0].abs().sum(2) > 0).all()
    assert all((gradient.flatten(1).abs().sum(1) > 0).all() for gradient in gradients[1:])


def test_only_the_direction_of_z_counts() -> None:
    torch.manual_seed(0)
    mapping, z = MappingNetwork(8, 6, 3), torch.randn(4, 8)
    assert torch.allclose(mapping(3 * z), mapping(z), atol=1e-6)


def test_the_mean_style_follows_the_batches() -> None:
    mapping = MappingNetwork(8, 6, 3)
    for _ in range(2):
        mapping.update_average(torch.ones(6), decay=0.9)
    assert torch.allclose(mapping.average, torch.full((6,), 0.19))


@pytest.mark.parametrize("psi", [0.0, 0.5, 1.0, 2.0])
def test_truncation_moves_w_relative_to_the_mean_style(psi: float) -> None:
    torch.manual_seed(0)
    mapping, z = MappingNetwork(8, 6, 3), torch.randn(4, 8)
    mapping.update_average(torch.ones(6), decay=0.0)
    expected = 1 + psi * (mapping(z) - 1)
    assert torch.allclose(mapping(z, torch.full((4,), psi)), expected, atol=1e-6)


def test_the_standard_deviation_is_of_each_group() -> None:
    x = torch.zeros(4, 1, 2, 2)
    x[2] = 2.0  # in groups of two, images 0 and 2 are together, and 1 and 3
    std = minibatch_std(x, 2)[:, 0, 0, 0]
    assert torch.allclose(std, torch.tensor([1.0, 0.0, 1.0, 0.0]), atol=1e-3)


def test_groups_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 6"):
        minibatch_std(torch.zeros(6, 1, 2, 2), 4)


def _discriminator(size: tuple[int, ...], group_size: int) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(size, level_channels(size, 64, 8), 2, group_size)


@pytest.mark.parametrize("size", SIZES)
def test_without_groups_a_score_does_not_depend_on_the_batch(size: tuple[int, ...]) -> None:
    discriminator, images = _discriminator(size, group_size=1), torch.randn(4, 2, *size)
    scores = discriminator(images)
    assert scores.shape == (4,)
    assert torch.allclose(discriminator(images[2:3]), scores[2:3], atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_with_groups_a_score_depends_on_the_variety_of_the_batch(size: tuple[int, ...]) -> None:
    discriminator, images = _discriminator(size, group_size=4), torch.randn(4, 2, *size)
    copies = images[:1].expand(4, *images.shape[1:])
    assert not torch.allclose(discriminator(copies)[0], discriminator(images)[0], atol=1e-3)


# --- Export. ---


@pytest.mark.parametrize("size", [(8, 12), (8, 8, 12)])
def test_exported_parts_agree_for_any_batch(size: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    mapping = MappingNetwork(6, 6, 2).eval()
    mapping.update_average(torch.randn(6), decay=0.0)
    z = (torch.randn(2, 6), torch.rand(2))
    w, noise = _inputs(size, 2)
    batch = torch.export.Dim.DYNAMIC
    cases = [
        (mapping, z, ({0: batch}, {0: batch})),
        (_synthesis(size), (w, *noise), ({0: batch}, tuple({0: batch} for _ in noise))),
    ]
    for module, example, axes in cases:
        names = [f"input_{number}" for number in range(len(example))]
        path = tmp_path / "part.onnx"
        program = torch.onnx.export(
            module, example, dynamo=True, dynamic_shapes=axes, input_names=names, opset_version=18, verbose=False
        )
        program.save(path)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            values = [torch.randn(count, *tensor.shape[1:]) for tensor in example]
            (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, values, strict=True)})
            with torch.no_grad():
                expected = module(*values).numpy()
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
