"""Transposed convolutions as ordinary ones, for bfloat16: OpenVINO computes transposed ones in float32 always.

A transposed convolution with stride 2 doubles each side. Results at even and at odd places have windows of their own,
so all kinds of places (4 in slices, 8 in volumes) are channels of one convolution, which then go to their places. More
than half of its weights are 0, but matrix units for bfloat16 are that much faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np

STRIDE, WINDOW, PADDING = 2, 4, 1
"""Of the transposed convolutions that are replaced, along each axis."""


def use_convolutions(model: Any) -> int:
    """Replace the transposed convolutions of an OpenVINO model that double each side, and return their number.

    Args:
        model: A model whose sizes are all known; it is changed in place, and what depends on constants alone is
            computed.
    """
    from openvino.passes import ConstantFolding, Manager

    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    replaced = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ConvolutionBackpropData" and _qualifies(node):
            node.output(0).replace(_convolution(node).output(0))
            replaced += 1
    return replaced


def _qualifies(node: Any) -> bool:
    about = node.get_attributes()
    inputs, _, *window = node.input(1).get_shape()
    source, result = node.input(0).get_shape(), node.output(0).get_shape()
    return (
        node.input_value(1).get_node().get_type_name() == "Constant"
        and set(window) == {WINDOW}
        and {*about["strides"]} == {STRIDE}
        and {*about["pads_begin"], *about["pads_end"]} == {PADDING}
        and {*about["dilations"]} == {1}
        and source[1] == inputs
        and [STRIDE * side for side in source[2:]] == [*result[2:]]
    )


def _convolution(node: Any) -> Any:
    """Return an operator that computes the transposed convolution ``node``."""
    from openvino import opset13 as ops

    weight = phase_windows(node.input_value(1).get_node().data)
    ones = [1] * (weight.ndim - 2)
    phases = ops.convolution(node.input_value(0), ops.constant(weight), ones, ones, ones, ones)
    return ops.depth_to_space(phases, "depth_first", STRIDE)


def phase_windows(weight: np.ndarray) -> np.ndarray:
    """Return the windows of an ordinary convolution with the results of each kind of place as channels.

    Along one axis, with the window (p, q, r, s), even results are ``s x[i-1] + q x[i]`` and odd ones
    ``r x[i] + p x[i+1]``: the windows (s, q, 0) and (0, r, p).

    Args:
        weight: Of the transposed convolution, ``[inputs, outputs, 4, 4(, 4)]``.

    Returns:
        ``[outputs * places, inputs, 3, 3(, 3)]``; the places of a channel follow each other, the last axis fastest.
    """
    inputs, outputs, *window = weight.shape
    dims = len(window)
    windows = np.swapaxes(weight, 0, 1)[:, None]  # [outputs, places, inputs, *window]
    for axis in range(3, 3 + dims):
        p, q, r, s = np.moveaxis(windows, axis, 0)
        nothing = np.zeros_like(p)
        even, odd = np.stack([s, q, nothing], axis), np.stack([nothing, r, p], axis)
        windows = np.stack([even, odd], 2).reshape(outputs, -1, *even.shape[2:])
    return np.ascontiguousarray(windows.reshape(-1, inputs, *[3] * dims))
