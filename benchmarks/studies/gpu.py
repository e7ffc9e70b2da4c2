"""Measures the GPU table with one command, within ten minutes, also on a machine without a network.

    python benchmarks/studies/gpu.py [--out benchmarks/results/gpu.jsonl]

It runs `benchmarks/suites/gpu.toml`. Rows that cannot run, or that exceed the time limit, say "not measured" and why.
The zoo must be installed, because plugins are found by entry points. On a machine without a network, install it and its
dependencies from wheels:

    # on a machine with a network (versions for Python 3.12)
    uv build --wheel --out-dir wheels
    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest wheels pydantic pydantic-core \
        annotated-types typing-inspection platformdirs nibabel nilearn

    # on the machine without (which has torch, numpy, scipy, scikit-learn, pluggy, click, rich, safetensors, filelock)
    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site python benchmarks/studies/gpu.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

try:
    from zoo.cli.output import progress_bar
    from zoo_bench.harness import read_suite, run_suite
    from zoo_bench.report import markdown
except ImportError as error:
    sys.exit(f"{error}. {__doc__}")

HERE = Path(__file__).parents[1]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "gpu.toml")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.jsonl")
    arguments = parser.parse_args()
    suite = read_suite(arguments.suite, {})
    with tempfile.TemporaryDirectory() as runs:  # exports of this machine do not work elsewhere
        records = run_suite(suite, Path(runs), arguments.out, progress_bar)
    print(markdown(records))
    counts = Counter(record.status for record in records)
    print(", ".join(f"{count} {status}" for status, count in counts.items()) + f". Kept in {arguments.out}")


if __name__ == "__main__":
    main()
