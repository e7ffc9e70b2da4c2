"""OpenVINO's convolutions by minimal filtering give what the definition gives, and only where they should."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo_openvino.runtime
from zoo.descriptors import Part, TensorSpec
from zoo_openvino.winograd import TILE, WINDOW, transforms, use_winograd

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")

BATCH = 2
WIDTH = 128


def test_transforms_give_neighbouring_results() -> None:
    before, window, behind = transforms()
    lines, taps = np.random.default_rng(0).standard_normal((2, len(before)))
    taps = taps[:WINDOW]
    found = behind @ ((window @ taps) * (before @ lines))
    np.testing.assert_allclose(found, np.correlate(lines, taps, "valid"), rtol=0, atol=1e-13)
    assert len(found) == TILE


def _model(size: tuple[int, ...], *, window: tuple[int, ...] = (), channels: int = WIDTH, step: int = 1) -> Any:
    """Return a leaky ReLU, a convolution with a bias and a leaky ReLU; weights are the same each time."""
    dims = len(size)
    window = window or (WINDOW,) * dims
    source = opset.parameter([BATCH, channels, *size], np.float32, name="x")
    random = np.random.default_rng(0)
    weight = random.standard_normal((WIDTH, channels, *window)).astype(np.float32) * np.float32(0.02)
    bias = random.standard_normal((1, WIDTH, *[1] * dims)).astype(np.float32)
    slope = opset.constant(np.float32(0.2))
    pads = [side // 2 for side in window]
    y = opset.prelu(source, slope)
    y = opset.convolution(y, opset.constant(weight), [step] * dims, pads, pads, [1] * dims)
    y = opset.prelu(opset.add(y, opset.constant(bias)), slope)
    y.output(0).set_names({"y"})
    return openvino.Model([y], [source], "one")


def _kinds(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


@pytest.mark.parametrize(
    "size",
    [
        (32, 24),  # along the first side
        (30, 24),  # the first is no multiple of 4, the second is
        (8, 10, 12),
        (5, 16, 12),
    ],
)
def test_results_are_those_of_the_definition(
    size: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(size)
    weight, bias = (
        torch.from_numpy(node.data.copy())
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.data.size > 1
    )
    x = torch.randn(BATCH, WIDTH, *size)
    convolve = F.conv2d if len(size) == 2 else F.conv3d
    expected = F.leaky_relu(convolve(F.leaky_relu(x, 0.2), weight, padding=1) + bias, 0.2)

    found: list[Counter[str]] = []

    def watched(model: Any) -> int:
        replaced = use_winograd(model)
        found.append(_kinds(model))
        return replaced

    monkeypatch.setattr(zoo_openvino.runtime, "use_winograd", watched)
    openvino.save_model(model, tmp_path / "one.xml", compress_to_fp16=False)
    tensor = {"dtype": "float32", "shape": ("batch", WIDTH, *size), "range": None, "meaning": ""}
    part = Part(module="", inputs=(TensorSpec(name="x", **tensor),), outputs=(TensorSpec(name="y", **tensor),))
    call = zoo_openvino.runtime.open_model(tmp_path / "one.xml", part, "fp32")
    torch.testing.assert_close(call(x), expected, rtol=0, atol=3e-5)
    assert found[0]["Convolution"] == found[0]["GroupConvolution"] == TILE + WINDOW - 1


@pytest.mark.parametrize(
    ("size", "about"),
    [
        pytest.param((30, 26), {}, id="no side is a multiple of 4"),
        pytest.param((32, 24), {"channels": WIDTH - 1}, id="few channels"),
        pytest.param((16, 12), {}, id="few products"),
        pytest.param((64, 48), {"step": 2}, id="stride"),
        pytest.param((64, 48), {"window": (1, 1)}, id="window of 1"),
        pytest.param((64, 48), {"window": (5, 5)}, id="window of 5"),
    ],
)
def test_other_convolutions_stay(size: tuple[int, ...], about: dict[str, Any]) -> None:
    model = _model(size, **about)
    before = _kinds(model)
    assert use_winograd(model) == 0
    assert _kinds(model) == before
