"""Effect of keeping freed memory: a network call in fresh processes, with and without `zoo.system.allocator`.

    python benchmarks/studies/freed_memory.py [--rounds 3] [--out FILE.jsonl]

The networks are the StyleGAN2 generator at 256 pixels and the denoiser of ``lesion-filling`` (``paper-2d-mixture``)
at 128 pixels, with random weights. Processes alternate; the result is the median over rounds of their medians.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from pathlib import Path

CALLS = 5
JOBS = (("stylegan2-ada", "synthesis", 1), ("stylegan2-ada", "synthesis", 8), ("lesion-filling", "denoiser", 1))


def one_process(name: str, part: str, batch: int, keep: bool) -> float:
    """Return the median seconds of a call in this process."""
    import torch

    from zoo.config import resolve_config
    from zoo.descriptors import resolve
    from zoo.models.golden import example_inputs
    from zoo.registry import registry
    from zoo.system.allocator import keep_freed_memory

    if keep:
        keep_freed_memory()
    method = registry().methods[name]
    if name == "stylegan2-ada":
        large = ("network.channel_budget=16384", "network.channel_limit=512", "network.style_width=512")
        config = resolve_config(method, assignments=("size=256,256", *large))
    else:
        config = resolve_config(method, preset="paper-2d-mixture", assignments=("sampling.window=128,128",))
    torch.manual_seed(0)
    model = resolve(method.build)(config).eval()
    spec = resolve(method.parts)(config)[part]
    network = model.get_submodule(spec.module).to(memory_format=torch.channels_last)
    inputs = list(example_inputs(spec, seed=0, axes={"batch": batch}).values())
    times = []
    with torch.inference_mode():
        network(*inputs)
        for _ in range(CALLS):
            began = time.perf_counter()
            network(*inputs)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Measure in child processes and print; with ``--out`` append JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    for name, part, batch in JOBS:
        seconds: dict[str, list[float]] = {"give back": [], "keep": []}
        for _ in range(arguments.rounds):
            for how, found in seconds.items():
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    found.append(fresh.apply(one_process, (name, part, batch, how == "keep")))
        usual, kept = (statistics.median(found) for found in seconds.values())
        print(f"{name} {part} batch {batch}: {usual * 1e3:.0f} ms, kept {kept * 1e3:.0f} ms, {usual / kept:.2f}x")
        if arguments.out:
            row = {"method": name, "part": part, "batch": batch, "seconds": usual, "seconds_kept": kept}
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
