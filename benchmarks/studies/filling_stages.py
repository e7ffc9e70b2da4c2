"""Seconds of each stage of `zoo fill`.

    python benchmarks/studies/filling_stages.py RUN T1W LESIONS [--backend torch] [--precision fp32]
        [--out benchmarks/results/filling-stages.jsonl]

The command runs once in a separate process, for the time to start, and once in this process under Python's profiler.
The seconds of a stage are the cumulative seconds of its functions. Time outside all stages is the rest. The picture
resamples by itself, so that time counts in two stages and is missing from the rest.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.models.runtime import Runtime
from zoo.tasks.fill.patient import FillSettings, PatientFiles, fill_files

STAGES = {
    "reading, the result too": (("volume.py", "read_volume"),),
    "dilation": (("masks.py", "dilate_within"),),
    "to the model's grid and back": (("geometry.py", "to_grid"), ("geometry.py", "to_native")),
    "loading the model": (("artifact.py", "parts"),),
    "biharmonic fill": (("baselines.py", "biharmonic_fill"),),
    "network": (("eager.py", "call"), ("runtime.py", "call")),
    "writing": (("volume.py", "write_filled"),),
    "picture": (("fill/results.py", "_draw"),),
}
"""Functions of each stage: the end of the file's path, and the name."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for argument in ("run", "image", "lesions"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runtime = ["--backend", given.backend, "--precision", given.precision]
    with tempfile.TemporaryDirectory() as folder:
        filled = Path(folder) / "filled.nii.gz"
        files = ["--image", str(given.image), "--lesions", str(given.lesions), "--out", str(filled)]
        began = time.perf_counter()
        subprocess.run(["zoo", "fill", str(given.run), *files, *runtime], check=True, capture_output=True)
        whole = time.perf_counter() - began
        profiler = cProfile.Profile()
        artifact = zoo.load(given.run)
        began = time.perf_counter()
        with profiler:
            fill_files(
                artifact, PatientFiles([given.image], given.lesions), [filled],
                FillSettings(runtime=Runtime(given.backend, given.precision)),
            )  # fmt: skip
        inside = time.perf_counter() - began
    spent = dict.fromkeys(STAGES, 0.0)
    timings: Any = pstats.Stats(profiler)
    for (path, _, name), (_, _, _, cumulative, _) in timings.stats.items():
        for stage, functions in STAGES.items():
            if any(path.endswith(file) and name == function for file, function in functions):
                spent[stage] += cumulative
    spent["the rest"] = inside - sum(spent.values())
    spent["starting Python, imports"] = whole - inside
    result = {
        "benchmark": "filling-stages",
        "backend": given.backend,
        "precision": given.precision,
        "seconds": {stage: round(value, 3) for stage, value in spent.items()},
        "whole": round(whole, 3),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
