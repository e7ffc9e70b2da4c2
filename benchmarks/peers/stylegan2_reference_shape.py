"""Speed of StyleGAN2 in its usual formulation and in the zoo's, with the same weights on the same machine.

    python benchmarks/peers/stylegan2_reference_shape.py [--size 256 256] [--rounds 5] [--threads 2] [--out FILE.jsonl]

The usual shape modulates the weights per sample and runs a grouped convolution (a transposed convolution and a filter
to double the image), then noise, bias, activation and gain in sequence, with contiguous memory, in float32. It is
written from the StyleGAN2 paper (equations 1 and 3) by replacing that layer in the zoo's networks; outputs must agree.
Both are timed alternately, so changes of the machine's speed affect both; ratios are medians over rounds. Generators
and training run in a fresh process each round, because their speed depends on how the C library treats freed memory:
the zoo keeps it as its commands do (`benchmarks/studies/freed_memory.py`), the usual shape runs with the defaults of
the C library. Projections run in one process with the defaults.
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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from zoo.config import resolve_config
from zoo.metrics.perceptual import load_distance
from zoo.models.golden import example_inputs
from zoo.models.run import environment
from zoo.nn import stylegan
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.system.allocator import keep_freed_memory
from zoo_onnx.runtime import open_session
from zoo_onnx.write import write_onnx
from zoo_openvino.runtime import open_model
from zoo_stylegan2.config import StyleGANConfig, StyleGANProjectOptions
from zoo_stylegan2.networks import build, parts
from zoo_stylegan2.projection import project
from zoo_stylegan2.training import StyleGANTrainer

BATCHES = (1, 8)
ITERATIONS = 20
CALLS, SECONDS = 5, 3.0
"""Least number of calls, and of seconds, that a process times."""
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
    """Compute `zoo.nn.stylegan.modulated_conv` with a separate weight tensor per sample."""
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
    """Compute `zoo.nn.stylegan.StyledConv` in the order of the paper: noise, bias, activation, gain."""
    y = grouped_modulated_conv(x, self.weight, self.affine(w), up_filter=self.resample_filter)
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
    """Return the settings of `small` with ``assignments``."""
    config = resolve_config(registry().methods["stylegan2-ada"], assignments=assignments)
    assert isinstance(config, StyleGANConfig)
    return config


def compared(usual: list[float], found: list[float]) -> dict[str, Any]:
    """Return median seconds, and the ratio to the usual shape: median, minimum and maximum over rounds."""
    ratios = [theirs / ours for theirs, ours in zip(usual, found, strict=True)]
    return {
        "seconds": statistics.median(found),
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "rounds": len(found),
    }


def seconds_in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call; every round times all calls once."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return times


def synthesis_of(config: StyleGANConfig) -> stylegan.SynthesisNetwork:
    """Return a synthesis network with random weights of seed 0."""
    torch.manual_seed(0)
    synthesis = build(config).eval().synthesis
    for name, parameter in synthesis.named_parameters():
        if name.endswith("noise_strength"):  # it starts at 0, which would hide differences of the noise
            torch.nn.init.normal_(parameter, std=0.1)
    return synthesis


def generator_call(how: str, config: StyleGANConfig, file: Path) -> Callable[..., Tensor]:
    """Return the synthesis network as a callable in one of the ways of `HOWS`."""
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


def generator_seconds(
    how: str, settings: tuple[str, ...], batch: int, threads: int, file: Path
) -> tuple[float, npt.NDArray[np.float32]]:
    """Return the median seconds of a call in this process, and the images."""
    torch.set_num_threads(threads)
    config = settled(settings)
    inputs = example_inputs(parts(config)["synthesis"], seed=0, axes={"batch": batch}).values()
    if how != "usual shape":
        keep_freed_memory()  # as every command of the zoo does
    times: list[float] = []
    with usual_shape() if how == "usual shape" else nullcontext(), torch.inference_mode():
        call = generator_call(how, config, file)
        image = call(*inputs)
        while len(times) < CALLS or sum(times) < SECONDS:
            began = time.perf_counter()
            call(*inputs)
            times.append(time.perf_counter() - began)
    return statistics.median(times), image.float().numpy()


def measure_generator(settings: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Return seconds, ratio and error of each way to run the synthesis network, each time in a fresh process."""
    config = settled(settings)
    installed = [how for how in HOWS if how.split()[0] not in OPTIONAL or importlib.util.find_spec(how.split()[0])]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "synthesis.onnx"
        if any(how.split()[0] in OPTIONAL for how in installed):
            write_onnx(synthesis_of(config), parts(config)["synthesis"], file, opset=21, about={})
        for batch in BATCHES:
            times: dict[str, list[float]] = {how: [] for how in installed}
            errors: dict[str, float] = {}
            for _ in range(rounds):
                for how, found in times.items():
                    job = (how, settings, batch, torch.get_num_threads(), file)
                    with multiprocessing.get_context("spawn").Pool(1) as fresh:
                        seconds, image = fresh.apply(generator_seconds, job)
                    found.append(seconds)
                    if how == "usual shape":
                        reference = image
                    errors[how] = float(np.abs(image - reference).max() / np.abs(reference).max())
            unlike = [how for how, error in errors.items() if "bf16" not in how and error > SAME]
            if unlike:
                raise SystemExit(f"{unlike[0]} differs by {errors[unlike[0]]:.1e}; there is nothing to compare.")
            rows += [
                {"what": "generator", "batch": batch, "how": how, **compared(times["usual shape"], found),
                 "error": errors[how]}
                for how, found in times.items()
            ]  # fmt: skip
    return rows


def training_seconds(settings: tuple[str, ...], side: str, threads: int) -> float:
    """Return the mean seconds per step over one cycle of lazy regularisers, after a warm-up cycle."""
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
    """Return seconds per step of both, each time in a fresh process, because their memory settings differ."""
    config = settled(settings)
    times: dict[str, list[float]] = {"usual": [], "zoo": []}
    for _ in range(rounds):
        for side, found in times.items():
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                found.append(fresh.apply(training_seconds, (settings, side, torch.get_num_threads())))
    names = {"usual": "usual shape", "zoo": "torch fp32, kept"}
    return [
        {"what": "training step", "batch": config.training.batch_size, "how": names[side],
         **compared(times["usual"], found)}
        for side, found in times.items()
    ]  # fmt: skip


def measure_projection(settings: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Return seconds per iteration and image: the usual shape with one image at a time, ours with eight at once."""
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
            for number, image in enumerate(images[:2]):  # two images suffice to measure the time of one
                project(usual, config, image[None], [number], distance, options)

    def together() -> None:
        project(ours, config, images, range(len(images)), distance, options)

    times = seconds_in_turn({"usual shape, one by one": one_at_a_time, "torch fp32, together": together}, rounds)
    images_each = {"usual shape, one by one": 2, "torch fp32, together": len(images)}
    each = {how: [seconds / images_each[how] / ITERATIONS for seconds in found] for how, found in times.items()}
    return [
        {"what": "projection", "batch": len(images), "how": how, **compared(each["usual shape, one by one"], found)}
        for how, found in each.items()
    ]


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
        least, most = row["ratios"]
        error = f"  error {row['error']:.1e}" if "error" in row else ""
        print(
            f"{row['what']:<14} {row['size']} batch {row['batch']:<3} {row['how']:<17} "
            f"{row['seconds'] * 1e3:9.1f} ms  {row['ratio']:5.2f}x [{least:.2f}, {most:.2f}]{error}"
        )
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({**row, "threads": arguments.threads, "environment": environment()}) + "\n")


if __name__ == "__main__":
    main()
