"""Slices per second that training reads from the packed cache, and by decoding the volume of each slice.

    python benchmarks/studies/cache_reading.py COHORT [--spacing 1] [--out benchmarks/results/cache-reading.jsonl]

Both return the same preprocessed slices. The two are timed alternately, in rounds; the ratio of medians is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from zoo.config import DataConfig
from zoo.imaging.cache import PackedScan, pack_cohort
from zoo.imaging.cohort import Scan, read_cohort
from zoo.imaging.geometry import model_grid, to_grid
from zoo.imaging.preprocessing import fit_intensity
from zoo.imaging.volume import read_volume

ROUNDS = 5
DECODED = 3
PACKED = 2000


def decode_slice(scan: Scan, config: DataConfig, index: int) -> np.ndarray:
    """Read, resample and scale a volume, and return one axial slice of it."""
    volume = read_volume(scan.images["T1w"])
    grid = model_grid(volume.shape, volume.affine, config.spacing_mm)
    values = to_grid(volume.data[0], volume.affine, grid)
    scale = fit_intensity(values, grid.spacing_mm, config.scaling, config.percentile, config.noise_floor)
    return scale.encode(values)[:, :, index]


def packed_slice(scan: PackedScan, index: int) -> np.ndarray:
    """Return one axial slice from the cache."""
    return scan.images[index, 0].astype(np.float32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--spacing", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = DataConfig(spacing_mm=options.spacing)
    cohort = read_cohort(options.cohort).with_all(["T1w"])
    packed = pack_cohort(cohort, config)
    rng = np.random.default_rng(0)

    def draw() -> tuple[int, int]:
        number = int(rng.integers(len(packed.scans)))
        return number, int(rng.integers(packed.scans[number].shape[0]))

    number, index = draw()
    difference = np.abs(decode_slice(cohort.scans[number], config, index) - packed_slice(packed.scans[number], index))
    rates: dict[str, list[float]] = {"decoded": [], "packed": []}
    for _ in range(ROUNDS):
        for way, count in (("decoded", DECODED), ("packed", PACKED)):
            places = [draw() for _ in range(count)]
            began = time.perf_counter()
            for number, index in places:
                if way == "decoded":
                    decode_slice(cohort.scans[number], config, index)
                else:
                    packed_slice(packed.scans[number], index)
            rates[way].append(count / (time.perf_counter() - began))
    medians = {way: statistics.median(values) for way, values in rates.items()}
    result = {
        "benchmark": "cache-reading",
        "cohort": options.cohort.name,
        "volume": packed.scans[0].shape,
        "slices_per_second": {way: round(value, 1) for way, value in medians.items()},
        "ratio": round(medians["packed"] / medians["decoded"], 1),
        "largest_difference": float(difference.max()),
        "rounds": ROUNDS,
        "cpu_count": os.cpu_count(),
    }
    print(json.dumps(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
