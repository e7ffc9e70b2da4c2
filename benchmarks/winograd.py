"""What minimal filtering does to OpenVINO's convolutions: time and rounding error, by size and precision.

    python benchmarks/winograd.py [--seconds 2] [--threads 2] [--out FILE.jsonl]

Four convolutions of window 3 with leaky ReLUs between them, by the definition and by `zoo_openvino.winograd` (with
its points and with 0, ±1, ±2), for every size, those that `zoo` leaves to the definition, too. The three take turns in
one process; times are medians a convolution, errors relative to the definition in float32 (root mean squares).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import openvino
import torch
from openvino import opset13 as ops

from zoo.run import environment
from zoo_openvino import winograd

LAYERS = 4
SIDES = {2: (8, 16, 32, 64, 128), 3: (8, 16, 32)}
MOST_VALUES = 2**22
"""In a tensor of a case."""
CASES = [
    (dims, batch, channels, side)
    for dims, sides in SIDES.items()
    for batch in (1, 8)
    for channels in (64, 96, 128, 192, 256, 512)
    for side in sides
    if batch * channels * side**dims <= MOST_VALUES
]
WAYS = {
    "definition": None,
    "winograd": winograd.POINTS,
    "winograd, 0 ±1 ±2": np.array([0.0, 1.0, -1.0, 2.0, -2.0]),
}


def layers(dims: int, batch: int, channels: int, side: int) -> Any:
    """Return the convolutions as a model; a convolution of window 1 before and behind sets the memory's layout."""
    random = np.random.default_rng(0)

    def convolution(x: Any, outputs: int, window: int) -> Any:
        inputs = x.get_output_shape(0)[1]
        weight = random.standard_normal((outputs, inputs, *[window] * dims)) / np.sqrt(inputs * window**dims)
        ones, pads = [1] * dims, [window // 2] * dims
        return ops.convolution(x, ops.constant(weight.astype(np.float32)), ones, pads, pads, ones)

    source = ops.parameter([batch, 8, *[side] * dims], np.float32)
    x = convolution(source, channels, 1)
    for _ in range(LAYERS):
        x = ops.prelu(convolution(x, channels, 3), ops.constant(np.float32(0.2)))
    return openvino.Model([convolution(x, 8, 1)], [source], "layers")


def measure(core: Any, case: tuple[int, int, int, int], precision: str, least_seconds: float) -> list[dict[str, Any]]:
    """Return a row for each of `WAYS`."""
    dims, batch, channels, side = case
    requests: dict[str, Any] = {}
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    exact = core.compile_model(layers(*case), "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})
    for way, points in WAYS.items():
        model = layers(*case)
        if points is not None:
            with patch.multiple(winograd, LEAST_CHANNELS=1, LEAST_PRODUCTS=0, POINTS=points):
                assert winograd.use_winograd(model) == LAYERS
        hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        requests[way] = core.compile_model(
            model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": hint}
        ).create_infer_request()
    x = np.random.default_rng(1).standard_normal((batch, 8, *[side] * dims)).astype(np.float32)
    reference = exact([x])[0].copy()
    errors = {}
    for way, request in requests.items():
        found = next(iter(request.infer([x]).values()))
        errors[way] = float(np.sqrt(np.square(found - reference).mean() / np.square(reference).mean()))
    times: dict[str, list[float]] = {way: [] for way in requests}
    while len(times["definition"]) < 5 or sum(map(sum, times.values())) < least_seconds:
        for way, request in requests.items():
            began = time.perf_counter()
            request.infer([x], share_inputs=True)
            times[way].append((time.perf_counter() - began) / LAYERS)
    medians = {way: statistics.median(found) for way, found in times.items()}
    return [
        {"dims": dims, "batch": batch, "channels": channels, "side": side, "precision": precision, "way": way,
         "seconds": medians[way], "ratio": medians["definition"] / medians[way], "error": errors[way]}
        for way in WAYS
    ]  # fmt: skip


def main() -> None:
    """Measure and print; with ``--out`` append JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case and precision, at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    core = openvino.Core()
    for case in CASES:
        for precision in ("fp32", "bf16"):
            rows = measure(core, case, precision, arguments.seconds)
            plain, ours, usual = rows
            products = case[1] * case[2] ** 2 * (3 * case[3]) ** case[0]
            used = case[2] >= winograd.LEAST_CHANNELS and products >= winograd.LEAST_PRODUCTS
            print(
                f"{case[0]}D batch {case[1]} channels {case[2]:4d} side {case[3]:4d} {precision} "
                f"{plain['seconds'] * 1e3:8.3f} -> {ours['seconds'] * 1e3:8.3f} ms  {ours['ratio']:4.2f}x  "
                f"error {plain['error']:.1e} -> {ours['error']:.1e} (0 ±1 ±2: {usual['error']:.1e})"
                f"{'  used' if used else ''}",
                flush=True,
            )
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as file:
                    for row in rows:
                        file.write(json.dumps({**row, "threads": arguments.threads, "environment": environment()}))
                        file.write("\n")


if __name__ == "__main__":
    main()
