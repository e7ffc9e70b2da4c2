"""The upconvolution is nearest-neighbour enlarging and a convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.upconv import Upconvolution, transposed_window

SIZES = [(5, 4), (3, 4, 2)]


def _enlarged_and_convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolve = F.conv2d if x.dim() == 4 else F.conv3d
    return convolve(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


@pytest.mark.parametrize("size", SIZES)
def test_it_equals_enlarging_and_convolving_with_borders(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = Upconvolution(3, 2, len(size), bias=True).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 3, *size, dtype=torch.double)
    assert (layer(x) - _enlarged_and_convolved(x, layer.weight, layer.bias)).abs().max() < 1e-10


@pytest.mark.parametrize("size", SIZES)
def test_its_gradients_are_those_of_enlarging_and_convolving(size: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    layer = Upconvolution(3, 2, len(size), bias=False).double()
    x = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    direction = torch.randn(2, 2, *[2 * side for side in size], dtype=torch.double)
    found = torch.autograd.grad((layer(x) * direction).sum(), (x, layer.weight))
    expected = torch.autograd.grad(
        (_enlarged_and_convolved(x, layer.weight, None) * direction).sum(), (x, layer.weight)
    )
    assert all((one - other).abs().max() < 1e-10 for one, other in zip(found, expected, strict=True))


def test_the_window_keeps_the_sum_of_the_weights_for_each_result() -> None:
    weight = torch.rand(4, 3, 3, 3)
    window = transposed_window(weight)
    assert window.shape == (3, 4, 4, 4)
    # Of each axis every result takes two of the window's four weights.
    assert torch.allclose(window.sum((2, 3)), 4 * weight.sum((2, 3)).T)
