"""Time and rounding error of Winograd convolutions in OpenVINO, by size and precision.

    python benchmarks/studies/winograd.py [--seconds 2] [--threads 2] [--out FILE.jsonl]
    python benchmarks/studies/winograd.py --model RUN --part denoiser --batch 1 [--out FILE.jsonl]

Four convolutions of window 3 with leaky ReLUs between them are computed directly and by `zoo_openvino.winograd` (with
its points and with 0, ±1, ±2), for all sizes, including those that `zoo` computes directly. The ways alternate in one
process; times are medians per convolution, errors are root mean squares relative to the direct result in float32. With
`--model`, a whole exported part (`zoo export --openvino`) runs as in `zoo` and with direct convolutions, alternately in
fresh processes, because two compiled models in one process compete for its cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import opset13 as ops

from zoo.exporting.files import FOLDER
from zoo.models.artifact import Artifact
from zoo.models.golden import example_inputs
from zoo.models.run import environment
from zoo.system.allocator import keep_freed_memory
from zoo_openvino import runtime, winograd
from zoo_openvino.runtime import open_model

Array = npt.NDArray[np.float32]

LAYERS = 4
SIDES = {2: (8, 16, 32, 64, 128), 3: (8, 16, 32)}
MOST_VALUES = 2**22
"""Most values in a tensor of a case."""
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
    """Return the convolutions as a model; convolutions of window 1 before and after set the memory layout."""
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


def measure(case: tuple[int, int, int, int], precision: str, least_seconds: float) -> list[dict[str, Any]]:
    """Return one row for each of `WAYS`."""
    core = runtime._core()
    dims, batch, channels, side = case
    requests: dict[str, Any] = {}
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    exact = core.compile_model(layers(*case), "CPU", settings | {"INFERENCE_PRECISION_HINT": runtime._HINTS["fp32"]})
    for way, points in WAYS.items():
        model = layers(*case)
        if points is not None:
            with patch.multiple(winograd, LEAST_CHANNELS=1, LEAST_PRODUCTS=0, POINTS=points):
                assert winograd.use_winograd(model) == LAYERS
        hint = {"INFERENCE_PRECISION_HINT": runtime._HINTS[precision]}
        requests[way] = core.compile_model(model, "CPU", settings | hint).create_infer_request()
    x = np.random.default_rng(1).standard_normal((batch, 8, *[side] * dims)).astype(np.float32)
    reference = exact([x])[0].copy()
    calls: dict[str, Callable[[], Array]] = {way: partial(_infer, request, x) for way, request in requests.items()}
    about = {"dims": dims, "batch": batch, "channels": channels, "side": side, "precision": precision}
    rows = by_turns(calls, reference, least_seconds)
    return [{**about, **row, "seconds": row["seconds"] / LAYERS} for row in rows]


def _infer(request: Any, x: Array) -> Array:
    found: Array = next(iter(request.infer([x], share_inputs=True).values()))
    return found


def _error(found: Array, reference: Array) -> float:
    return float(np.sqrt(np.square(found - reference).mean() / np.square(reference).mean()))


def by_turns(calls: dict[str, Callable[[], Array]], reference: Array, least_seconds: float) -> list[dict[str, Any]]:
    """Return median seconds, the ratio to the first call, and the error of each call."""
    errors = {way: _error(call(), reference) for way, call in calls.items()}
    times: dict[str, list[float]] = {way: [] for way in calls}
    while min(map(len, times.values())) < 5 or sum(map(sum, times.values())) < least_seconds:
        for way, call in calls.items():
            began = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - began)
    medians = {way: statistics.median(found) for way, found in times.items()}
    first = next(iter(medians.values()))
    return [
        {"way": way, "seconds": seconds, "ratio": first / seconds, "error": errors[way]}
        for way, seconds in medians.items()
    ]


def one_process(folder: Path, part: str, batch: int, precision: str, way: str, threads: int) -> tuple[float, Array]:
    """Return the median seconds of an exported part in this process, and its result."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as every command of the zoo does
    artifact = Artifact.open(folder)
    spec = artifact.part_specs()[part]
    inputs = example_inputs(spec, seed=0, axes={"batch": batch}).values()
    file = artifact.folder / FOLDER / "openvino" / f"{part}.fp32.xml"  # the same in both precisions
    call = open_model(file, spec, precision)
    with patch.object(runtime, "use_winograd", winograd.use_winograd if way == "winograd" else lambda model: 0):
        found = call(*inputs)  # compiles
    times: list[float] = []
    while len(times) < 5 or sum(times) < 3:
        began = time.perf_counter()
        call(*inputs)
        times.append(time.perf_counter() - began)
    return statistics.median(times), found.numpy()


def measure_model(folder: Path, part: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return rows of an exported part with direct convolutions and as in `zoo`, each time in a fresh process."""
    artifact = Artifact.open(folder)
    sizes = [spec.shape for spec in artifact.part_specs()[part].inputs]
    about = {"model": artifact.method.name, "part": part, "batch": batch, "inputs": sizes}
    rows = []
    reference: Array | None = None
    for precision in ("fp32", "bf16"):
        times: dict[str, list[float]] = {"definition": [], "winograd": []}
        errors = {}
        for _ in range(rounds):
            for way, seconds in times.items():
                job = (folder, part, batch, precision, way, torch.get_num_threads())
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    median, found = fresh.apply(one_process, job)
                seconds.append(median)
                reference = found if reference is None else reference
                errors[way] = _error(found, reference)
        ratios = [plain / ours for plain, ours in zip(*times.values(), strict=True)]
        rows += [
            {**about, "precision": precision, "way": way, "seconds": statistics.median(seconds),
             "ratio": statistics.median(ratios) if way == "winograd" else 1.0, "error": errors[way]}
            for way, seconds in times.items()
        ]  # fmt: skip
    return rows


def main() -> None:
    """Measure and print; with ``--out`` append JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="a run or export, not layers")
    parser.add_argument("--part", default="denoiser")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case and precision, at least")
    parser.add_argument("--rounds", type=int, default=3, help="of a model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.model:
        found: Iterable[list[dict[str, Any]]] = [
            measure_model(arguments.model, arguments.part, arguments.batch, arguments.rounds)
        ]
    else:
        found = (measure(case, precision, arguments.seconds) for case in CASES for precision in ("fp32", "bf16"))
    for rows in found:
        for row in rows:
            print(
                *(value for name, value in row.items() if name not in ("inputs", "seconds", "ratio", "error")),
                f"{row['seconds'] * 1e3:8.3f} ms  {row['ratio']:4.2f}x  error {row['error']:.1e}",
                flush=True,
            )
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as file:
                    about = {"threads": arguments.threads, "environment": environment()}
                    file.write(json.dumps({**row, **about}) + "\n")


if __name__ == "__main__":
    main()
