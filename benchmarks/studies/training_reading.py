"""Time of a training step: reading a batch from the cache, and the network's step on it.

    python benchmarks/studies/training_reading.py METHOD COHORT [--preset small] [--config FILE]
        [--precision bf16-mixed]
        [--out benchmarks/results/training-reading.jsonl]

Reading and computing alternate; medians and their ratio are printed. On a GPU, where several workers read, the time of
reading is divided by their number.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from zoo.cli.output import progress_bar
from zoo.config import resolve_config
from zoo.descriptors import resolve
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.training.launch import launch
from zoo.training.loop import READING_WORKERS
from zoo.training.plan import pack, plan_training

WARM_UP = 2
ROUNDS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    method = registry().methods[arguments.method]
    config = resolve_config(method, preset=arguments.preset, file=arguments.config)
    fabric = launch(1, arguments.precision)
    plan = plan_training(method, config, arguments.cohort, progress_bar)
    examples = resolve(method.examples)(config, pack(plan, progress_bar).subset(plan.split.train))
    trainer = resolve(method.trainer)(config, resolve(method.build)(config), fabric)
    size, rng = config.training.batch_size, np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"reading": [], "computing": []}
    for number in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        batch = default_collate([examples.example(int(rng.integers(len(examples))), rng) for _ in range(size)])
        read = time.perf_counter()
        random = Randomness(range(number * size, (number + 1) * size), fabric.device)
        losses = trainer.step(fabric.to_device(batch), random)
        float(next(iter(losses.values())))  # waits for the device
        if number >= WARM_UP:
            seconds["reading"].append(read - began)
            seconds["computing"].append(time.perf_counter() - read)
    reading, computing = (statistics.median(values) for values in seconds.values())
    workers = READING_WORKERS if fabric.device.type != "cpu" else 1
    result = {
        "benchmark": "training-reading",
        "method": method.name,
        "preset": arguments.preset or "",
        "batch": size,
        "precision": arguments.precision,
        "reading_ms": round(1000 * reading / workers, 2),
        "computing_ms": round(1000 * computing, 2),
        "reading_share": round(reading / workers / computing, 4),
        "workers": workers,
        "device": torch.cuda.get_device_name() if fabric.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "rounds": ROUNDS,
    }
    print(json.dumps(result))
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
