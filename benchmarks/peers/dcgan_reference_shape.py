"""Speed of a DCGAN's generator as usually written and in the zoo, with the same weights on the same machine.

    zoo export RUN --onnx --openvino
    zoo export RUN --openvino --precision bf16
    python benchmarks/peers/dcgan_reference_shape.py RUN [--patches 10000] [--rounds 3] [--threads 2] [--out FILE.jsonl]

The usual form doubles the image by nearest neighbour and convolves (Odena et al. 2016), in contiguous memory and in
float32. Each round every form generates all patches in batches of 64, by turns, each in a fresh process: the zoo keeps
freed memory as its commands do (`benchmarks/studies/freed_memory.py`), the usual form runs with the defaults of the C
library. Ratios are medians over rounds. Outputs must agree.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.artifact import Artifact
from zoo.models.golden import example_inputs
from zoo.models.run import environment
from zoo.models.runtime import Runtime
from zoo.nn.upconv import Upconvolution
from zoo.system.allocator import keep_freed_memory
from zoo_multiparametric_gan.config import GANConfig
from zoo_multiparametric_gan.networks import Generator, one_hot

BATCH = 64
WARM_UP = 5
HOWS = {
    "torch fp32": Runtime("torch", "fp32", "cpu"),
    "onnxruntime fp32": Runtime("onnxruntime", "fp32", "cpu"),
    "openvino fp32": Runtime("openvino", "fp32", "cpu"),
    "openvino bf16": Runtime("openvino", "bf16", "cpu"),
}
SAME = {"fp32": 1e-4, "bf16": 0.2}
"""Largest difference of a pixel, in [-1, 1]."""

Generate = Callable[[Tensor, Tensor], Tensor]


class _Usual(nn.Module):
    """An upconvolution as it is usually written."""

    def __init__(self, layer: Upconvolution) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight.detach().contiguous(), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), self.weight, self.bias, padding=1)


def usual(artifact: Artifact) -> Generate:
    """Return the generator in its usual form."""
    network = cast(Generator, artifact.build())
    layers = nn.Sequential(
        *(_Usual(layer) if isinstance(layer, Upconvolution) else layer for layer in network.layers)
    ).eval()

    @torch.inference_mode()
    def generate(z: Tensor, y: Tensor) -> Tensor:
        return layers(network.projection(torch.cat([z, y], dim=1)).unflatten(1, network.base))

    return generate


def forms(artifact: Artifact, how: str) -> Generate:
    """Return a form of the generator by its name."""
    return usual(artifact) if how == "usual" else artifact.parts(HOWS[how])["generator"]


def inputs(artifact: Artifact) -> tuple[Tensor, Tensor]:
    """Return noise and classes of a batch."""
    z = example_inputs(artifact.part_specs()["generator"], seed=0, axes={"batch": BATCH})["z"]
    config = cast(GANConfig, artifact.config)
    return z, one_hot(torch.arange(BATCH) % len(config.class_names), config)


def seconds_of(run: Path, how: str, threads: int, calls: int) -> float:
    """Time the calls of one form in this process, after a few that are not counted."""
    if how != "usual":
        keep_freed_memory()
    torch.set_num_threads(threads)
    artifact = Artifact.open(run)
    form, (z, y) = forms(artifact, how), inputs(artifact)
    for _ in range(WARM_UP):
        form(z, y)
    began = time.perf_counter()
    for _ in range(calls):
        form(z, y)
    return time.perf_counter() - began


def main() -> None:
    """Time all forms by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--patches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    artifact = Artifact.open(arguments.run)
    z, y = inputs(artifact)
    expected = usual(artifact)(z, y)
    for how in HOWS:
        error = float((forms(artifact, how)(z, y) - expected).abs().max())
        assert error < SAME["bf16" if "bf16" in how else "fp32"], (how, error)

    calls = -(-arguments.patches // BATCH)
    seconds: dict[str, list[float]] = {how: [] for how in ("usual", *HOWS)}
    for _ in range(arguments.rounds):
        for how, times in seconds.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                times.append(pool.apply(seconds_of, (arguments.run, how, arguments.threads, calls)))
            print(f"{how}: {times[-1]:.2f} s", flush=True)
    widths = cast(GANConfig, artifact.config).network.widths
    rows = []
    for how, times in seconds.items():
        ratios = [slow / fast for slow, fast in zip(seconds["usual"], times, strict=True)]
        row = {"how": how, "widths": widths, "patches": calls * BATCH, "batch": BATCH, "threads": arguments.threads,
               "seconds": [round(time, 3) for time in times], "ratio": statistics.median(ratios),
               "range": [min(ratios), max(ratios)], "environment": environment()}  # fmt: skip
        rows.append(row)
        print(f"{how:18} {statistics.median(times):6.2f} s, {row['ratio']:.2f} times")
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)


if __name__ == "__main__":
    main()
