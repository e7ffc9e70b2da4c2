"""StyleGAN2 as it is usually written beside the zoo's, with the same weights on the same machine.

    python benchmarks/peers/stylegan2_reference_shape.py [--size 256 256] [--rounds 5] [--threads 2] [--out FILE.jsonl]

The usual shape: weights modulated for each sample and a grouped convolution (transposed convolution and filter where
it doubles the image), then noise, bias, activation and gain one after the other, memory contiguous, float32. It is
built here from the definition in the StyleGAN2 paper (equations 1 and 3), by putting that layer into the zoo's
networks; outputs must agree. Ratios are of medians; both sides are timed in turn, so that a change of the machine's
pace meets both. Generators and training run in processes of their own, where the zoo's keeps freed memory as its
commands do (`benchmarks/freed_memory.py` shows what that does) and the other has the C library's usual memory;
projections run in one process with usual memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from zoo.allocator import keep_freed_memory
from zoo.config import resolve_config
from zoo.metrics.perceptual import load_distance
from zoo.nn import stylegan
from zoo.registry import registry
from zoo.run import environment
from zoo.sampling import Randomness, example_inputs
from zoo_onnx.runtime import open_session
from zoo_onnx.write import write_onnx
from zoo_openvino.runtime import open_model
from zoo_stylegan2.config import StyleGANConfig, StyleGANProjectOptions
from zoo_stylegan2.networks import build, parts
from zoo_stylegan2.projection import project
from zoo_stylegan2.training import StyleGANTrainer

BATCHES = (1, 8)
ITERATIONS = 20
CALLS = 4
"""Timed calls a turn."""
OPTIONAL = ("onnxruntime", "openvino")
HOWS = ("usual shape", "torch fp32", "torch bf16", "onnxruntime fp32", "openvino fp32", "openvino bf16")
SAME = 1e-4
"""Largest difference of two formulations, relative to the largest value."""


def grouped_modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    gain: float = 1.0,
    up_filter: Tensor | None = None,
) -> Tensor:
    """Do what `zoo.nn.stylegan.modulated_conv` does with a weight of its own for each sample."""
    batch, inputs, height, width = x.shape
    outputs, _, side, _ = weight.shape
    own = weight[None] * style[:, None, :, None, None]
    if demodulate:
        own = own * (gain * torch.rsqrt(own.square().sum((2, 3, 4), keepdim=True) + 1e-8))
    grouped = x.reshape(1, batch * inputs, height, width)
    if up_filter is None:
        flat = own.reshape(batch * outputs, inputs, side, side)
        y = F.conv2d(grouped, flat, padding=side // 2, groups=batch)
        return y.reshape(batch, outputs, *y.shape[2:])
    turned = own.transpose(1, 2).reshape(batch * inputs, outputs, side, side)
    y = F.conv_transpose2d(grouped, turned, stride=2, groups=batch)
    y = y.reshape(batch, outputs, *y.shape[2:])
    return F.conv2d(y, (up_filter * 4).expand(outputs, 1, -1, -1), padding=1, groups=outputs)


def plain_styled_conv(self: stylegan.StyledConv, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Do what `zoo.nn.stylegan.StyledConv` does in the order of the paper: noise, bias, activation, gain."""
    y = grouped_modulated_conv(x, self.weight, self.affine(w), up_filter=self.taps)
    y = y.add_(noise * self.noise_strength) + self.bias[:, None, None]
    return F.leaky_relu(y, stylegan.SLOPE) * stylegan.GAIN


@contextmanager
def usual_shape() -> Iterator[None]:
    """Build and run networks in the usual shape inside the block."""
    ours = stylegan.modulated_conv, stylegan._CHANNELS_LAST, stylegan.StyledConv.forward
    stylegan.modulated_conv = grouped_modulated_conv
    stylegan._CHANNELS_LAST = {2: torch.contiguous_format, 3: torch.contiguous_format}
    stylegan.StyledConv.forward = plain_styled_conv  # type: ignore[method-assign]
    try:
        yield
    finally:
        stylegan.modulated_conv, stylegan._CHANNELS_LAST, stylegan.StyledConv.forward = ours  # type: ignore[method-assign]


def settled(assignments: tuple[str, ...]) -> StyleGANConfig:
    """Return the settings of `small`, changed by ``assignments``."""
    config = resolve_config(registry().methods["stylegan2-ada"], assignments=assignments)
    assert isinstance(config, StyleGANConfig)
    return config


def seconds_in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each call, all of them timed once a round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def synthesis_of(config: StyleGANConfig) -> stylegan.Synthesis:
    """Return a synthesis network with random weights, the same ones each time."""
    torch.manual_seed(0)
    synthesis = build(config).eval().synthesis
    for name, parameter in synthesis.named_parameters():
        if name.endswith("noise_strength"):  # it starts at 0, where noise would not be compared
            torch.nn.init.normal_(parameter, std=0.1)
    return synthesis


def generator_call(how: str, config: StyleGANConfig, file: Path) -> Callable[..., Tensor]:
    """Return the synthesis network as a callable, run in one of `HOWS`."""
    runtime, _, precision = how.partition(" ")
    if runtime == "onnxruntime":
        return open_session(file, parts(config)["synthesis"], "cpu")
    if runtime == "openvino":
        return open_model(file, parts(config)["synthesis"], precision)
    synthesis = synthesis_of(config)

    def call(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return synthesis(*inputs)

    return call


def serve_generator(connection: Connection, how: str, settings: tuple[str, ...], threads: int, file: Path) -> None:
    """Time calls of a batch whenever the parent asks for them, until it asks for none."""
    torch.set_num_threads(threads)
    config = settled(settings)
    if how != "usual shape":
        keep_freed_memory()  # as every command of the zoo does
    with usual_shape() if how == "usual shape" else nullcontext(), torch.inference_mode():
        call = generator_call(how, config, file)
        while batch := connection.recv():
            inputs = example_inputs(parts(config)["synthesis"], seed=0, axes={"batch": batch}).values()
            image = call(*inputs)
            seconds = []
            for _ in range(CALLS):
                began = time.perf_counter()
                call(*inputs)
                seconds.append(time.perf_counter() - began)
            connection.send((seconds, image.float().numpy()))


def measure_generator(settings: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Return seconds, ratio and error of each way to run the synthesis network, each in a process of its own."""
    config = settled(settings)
    installed = [how for how in HOWS if how.split()[0] not in OPTIONAL or importlib.util.find_spec(how.split()[0])]
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "synthesis.onnx"
        if any(how.split()[0] in OPTIONAL for how in installed):
            write_onnx(synthesis_of(config), parts(config)["synthesis"], file, opset=21, about={})
        lines = {}
        for how in installed:
            lines[how], theirs = spawn.Pipe()
            child = spawn.Process(
                target=serve_generator, args=(theirs, how, settings, torch.get_num_threads(), file), daemon=True
            )
            child.start()
            stack.callback(child.terminate)
        for batch in BATCHES:
            times: dict[str, list[float]] = {how: [] for how in installed}
            images = {}
            for number in range(rounds + 1):
                for how, line in lines.items():
                    line.send(batch)
                    seconds, images[how] = line.recv()
                    times[how] += seconds if number else []  # the first round warms up
            reference = images["usual shape"]
            errors = {
                how: float(np.abs(image - reference).max() / np.abs(reference).max()) for how, image in images.items()
            }
            unlike = [how for how, error in errors.items() if "bf16" not in how and error > SAME]
            if unlike:
                raise SystemExit(f"{unlike[0]} differs by {errors[unlike[0]]:.1e}; there is nothing to compare.")
            medians = {how: statistics.median(found) for how, found in times.items()}
            rows += [
                {"what": "generator", "batch": batch, "how": how, "seconds": seconds, "error": errors[how],
                 "ratio": medians["usual shape"] / seconds}
                for how, seconds in medians.items()
            ]  # fmt: skip
    return rows


def training_seconds(settings: tuple[str, ...], side: str, threads: int) -> float:
    """Return seconds of one step in this process, the mean of a whole cycle of lazy regularisers after another."""
    torch.set_num_threads(threads)
    config = settled(settings)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    cycle = max(config.loss.r1_interval, config.loss.path_interval)
    image = torch.rand(config.training.batch_size, config.image_channels, *config.size) * 2 - 1
    if side == "zoo":
        keep_freed_memory()  # as `zoo train` does
    with usual_shape() if side == "usual" else nullcontext():
        torch.manual_seed(0)
        trainer = StyleGANTrainer(config, build(config), fabric)
        for number in range(2 * cycle):
            if number == cycle:
                began = time.perf_counter()
            trainer.step({"image": image}, Randomness([number * 1000 + index for index in range(len(image))]))
    return (time.perf_counter() - began) / cycle


def measure_training(settings: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Return seconds of one step of each, every time in a fresh process, as the memory they keep differs."""
    config = settled(settings)
    times: dict[str, list[float]] = {"usual": [], "zoo": []}
    for _ in range(rounds):
        for side, found in times.items():
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                found.append(fresh.apply(training_seconds, (settings, side, torch.get_num_threads())))
    names = {"usual": "usual shape", "zoo": "torch fp32, kept"}
    medians = {side: statistics.median(found) for side, found in times.items()}
    return [
        {"what": "training step", "batch": config.training.batch_size, "how": names[side], "seconds": seconds,
         "ratio": medians["usual"] / seconds}
        for side, seconds in medians.items()
    ]  # fmt: skip


def measure_projection(settings: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Return seconds an iteration and image: the usual shape one image at a time, ours eight at once."""
    config = settled(settings)
    torch.manual_seed(0)
    ours = build(config).eval()
    with usual_shape():
        usual = build(config).eval()
    usual.load_state_dict(ours.state_dict())
    images = torch.rand(BATCHES[-1], config.image_channels, *config.size) * 2 - 1
    distance = load_distance("ssim+l2", None).measure
    options = StyleGANProjectOptions(iterations=ITERATIONS, candidates=2)

    def one_at_a_time() -> None:
        with usual_shape():
            for number, image in enumerate(images[:2]):  # two are enough to know what one takes
                project(usual, config, image[None], [number], distance, options)

    def together() -> None:
        project(ours, config, images, range(len(images)), distance, options)

    times = seconds_in_turn({"usual shape, one by one": one_at_a_time, "torch fp32, together": together}, rounds)
    each = {
        "usual shape, one by one": times["usual shape, one by one"] / 2,
        "torch fp32, together": times["torch fp32, together"] / len(images),
    }
    return [
        {"what": "projection", "batch": len(images), "how": name, "seconds": seconds / ITERATIONS,
         "ratio": each["usual shape, one by one"] / seconds}
        for name, seconds in each.items()
    ]  # fmt: skip


def main() -> None:
    """Measure and print; with ``--out`` append JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("generator", "training", "projection"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = f"size={arguments.size[0]},{arguments.size[1]}"
    large = ("network.channel_budget=16384", "network.channel_limit=512", "network.style_width=512")
    rows: list[dict[str, Any]] = []
    for name, measure, settings in (
        ("generator", measure_generator, (size, *large)),
        ("training", measure_training, ()),
        ("projection", measure_projection, ()),
    ):
        if arguments.only in (None, name):
            rows += [{**row, "size": settled(settings).size} for row in measure(settings, arguments.rounds)]
    for row in rows:
        error = f"  error {row['error']:.1e}" if "error" in row else ""
        print(
            f"{row['what']:<14} {row['size']} batch {row['batch']:<3} {row['how']:<17} "
            f"{row['seconds'] * 1e3:9.1f} ms  {row['ratio']:5.2f}x{error}"
        )
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({**row, "threads": arguments.threads, "environment": environment()}) + "\n")


if __name__ == "__main__":
    main()
