"""Transposed convolutions that OpenVINO computes as ordinary ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo_openvino.transposed import phase_windows, use_convolutions

openvino = pytest.importorskip("openvino")

SIZES = [(5, 4), (3, 4, 2)]


def _model(size: tuple[int, ...], weight: np.ndarray, *, stride: int = 2, padding: int = 1) -> Any:
    from openvino import opset13 as ops

    dims = len(size)
    image = ops.parameter([2, weight.shape[0], *size], openvino.Type.f32)
    pads = [padding] * dims
    node = ops.convolution_backprop_data(image, ops.constant(weight), [stride] * dims, None, pads, pads)
    return openvino.Model([node], [image])


def _run(model: Any, image: np.ndarray) -> np.ndarray:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found: np.ndarray = openvino.Core().compile_model(model, "CPU", settings)([image])[0]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_the_phases_are_those_of_the_transposed_convolution(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, *[4] * len(size), dtype=torch.double)
    image = torch.randn(2, 3, *size, dtype=torch.double)
    windows = torch.from_numpy(phase_windows(weight.numpy()))
    places = 2 ** len(size)
    convolve, transpose = (F.conv2d, F.conv_transpose2d) if len(size) == 2 else (F.conv3d, F.conv_transpose3d)
    phases = convolve(image, windows, padding=1).unflatten(1, (2, places))
    expected = transpose(image, weight, stride=2, padding=1)
    for place in range(places):
        offsets = [place >> (len(size) - 1 - axis) & 1 for axis in range(len(size))]
        there = expected[(..., *(slice(offset, None, 2) for offset in offsets))]
        assert (phases[:, :, place] - there).abs().max() < 1e-12


@pytest.mark.parametrize("size", SIZES)
def test_a_model_computes_the_same_afterwards(size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2, *[4] * len(size))).astype(np.float32)
    image = rng.standard_normal((2, 3, *size)).astype(np.float32)
    before = _run(_model(size, weight), image)
    model = _model(size, weight)
    assert use_convolutions(model) == 1
    assert not any(node.get_type_name() == "ConvolutionBackpropData" for node in model.get_ops())
    assert np.abs(_run(model, image) - before).max() < 1e-5


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (4, 1, 1), (4, 2, 0)])
def test_other_transposed_convolutions_stay(window: int, stride: int, padding: int) -> None:
    weight = np.ones((3, 2, window, window), np.float32)
    assert use_convolutions(_model((5, 4), weight, stride=stride, padding=padding)) == 0
