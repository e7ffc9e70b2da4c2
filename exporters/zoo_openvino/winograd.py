"""Winograd convolutions for OpenVINO, which otherwise computes convolutions directly.

Four neighbouring results of a window of 3 take 12 products directly, and 6 by Winograd's minimal filtering F(4, 3) with
a few sums before and after. It is applied along one side of the image and built from OpenVINO's operators: depthwise
convolutions with stride 4 for the first sums, six convolutions over the window's other sides, and the sums of the
results. Volumes are treated in the same way.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4. Departures: along one side
of the image instead of both; the points are 0, ±sqrt(1/2) and ±sqrt(2), whose rounding errors are a quarter smaller
than those of 0, ±1 and ±2 (`benchmarks/studies/winograd.py`).
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

TILE = 4
"""Neighbouring results that are computed together."""
WINDOW = 3
SPAN = TILE + WINDOW - 1
"""Input lines, and products, of these results."""
POINTS = np.array([0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2)])
"""Points where the two polynomials are multiplied; infinity is one more."""
LEAST_CHANNELS = 128
"""Fewest input and output channels: with fewer, the sums take longer than the products that they save."""
LEAST_PRODUCTS = 200e6
"""Fewest products of the direct convolution: with fewer, starting more operators takes longer than they save."""


def transforms() -> tuple[Matrix, Matrix, Matrix]:
    """Return the matrices B^T ``[SPAN, SPAN]``, G ``[SPAN, WINDOW]`` and A^T ``[TILE, SPAN]``.

    ``A^T [(G w) * (B^T d)]`` are the `TILE` results of the window w on the lines d.
    """
    powers = np.vander(POINTS, TILE, increasing=True)
    others = [np.delete(POINTS, number) for number in range(len(POINTS))]
    products = np.array([np.prod(point - rest) for point, rest in zip(POINTS, others, strict=True)])
    lines = np.array([*(np.append(np.poly(rest)[::-1], 0) for rest in others), np.poly(POINTS)[::-1]])
    window = np.vstack([powers[:, :WINDOW] / products[:, None], np.eye(WINDOW)[-1]])
    results = np.column_stack([powers.T, np.eye(TILE)[-1]])
    return lines, window, results


def use_winograd(model: Any) -> int:
    """Replace the convolutions of an OpenVINO model that gain from it, and return their number.

    Convolutions qualify if they have stride 1 and constant weights, keep the size of a side whose window is `WINDOW`
    and whose length is a multiple of `TILE`, and are large enough (`LEAST_CHANNELS`, `LEAST_PRODUCTS`).

    Args:
        model: A model whose sizes are all known; it is changed in place.
    """
    replaced = 0
    for node in model.get_ordered_ops():
        side = _side(node) if node.get_type_name() == "Convolution" else None
        if side is not None:
            node.output(0).replace(_minimal(node, side).output(0))
            replaced += 1
    return replaced


def _side(node: Any) -> int | None:
    """Return the axis along which a convolution qualifies, if any."""
    about = node.get_attributes()
    outputs, inputs, *window = node.input(1).get_shape()
    batch, _, *spatial = node.output(0).get_shape()
    if (
        node.input_value(1).get_node().get_type_name() != "Constant"
        or any(step != 1 for step in (*about["strides"], *about["dilations"]))
        or min(inputs, outputs) < LEAST_CHANNELS
        or batch * inputs * outputs * math.prod((*window, *spatial)) < LEAST_PRODUCTS
    ):
        return None
    padding = zip(about["pads_begin"], about["pads_end"], strict=True)
    for axis, (taps, length, pads) in enumerate(zip(window, spatial, padding, strict=True), 2):
        if taps == WINDOW and length % TILE == 0 and pads == (1, 1):
            return axis
    return None


def _minimal(node: Any, axis: int) -> Any:
    """Return an operator that computes the convolution ``node`` by F(4, 3) along ``axis``."""
    from openvino import opset13 as ops

    source, weight = node.input_value(0), node.input_value(1).get_node().data
    shape = list(node.output(0).get_shape())
    dims = len(shape) - 2
    pads = [list(node.get_attributes()[name]) for name in ("pads_begin", "pads_end")]

    def along(value: int, others: int) -> list[int]:
        return [value if side == axis else others for side in range(2, 2 + dims)]

    ones = [1] * dims
    across = [[0 if side == axis else pad for side, pad in enumerate(side_pads, 2)] for side_pads in pads]
    before, window, behind = (matrix.astype(np.float32) for matrix in transforms())
    thin = window @ np.moveaxis(weight, axis, 0).reshape(WINDOW, -1)
    thin = thin.reshape(SPAN, *(1 if side == axis else length for side, length in enumerate(weight.shape)))
    products = []
    for sums, taps in zip(before, thin, strict=True):
        kernel = np.broadcast_to(sums.reshape(along(SPAN, 1)), (weight.shape[1], 1, 1, *along(SPAN, 1)))
        lines = ops.group_convolution(source, _constant(kernel), along(TILE, 1), along(1, 0), along(1, 0), ones)
        products.append(ops.convolution(lines, _constant(taps), ones, *across, ones))
    results = []
    for row in behind:
        terms = [ops.multiply(product, _constant(part)) for part, product in zip(row, products, strict=True) if part]
        results.append(ops.unsqueeze(functools.reduce(operator.add, terms), np.int64(axis + 1)))
    return ops.reshape(ops.concat(results, axis + 1), np.array(shape), False)


def _constant(values: npt.ArrayLike) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.ascontiguousarray(values, dtype=np.float32))
