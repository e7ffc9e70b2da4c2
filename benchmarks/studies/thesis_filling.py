"""Cost of the thesis' method and of ours, both trained for the same CPU time.

    python benchmarks/studies/thesis_filling.py OURS THESIS DATA [--out benchmarks/results/thesis-filling.jsonl]

OURS is a run of lesion-filling's preset `small`, THESIS a run of `studies/thesis-small.toml`: the thesis' network
(diffusers' UNet2DModel, layer by layer) with its training and sampling, at a size that two cores can train. DATA is the
folder of the protocol's cohorts. Seconds are CPU seconds for filling the lesions of one tuning patient on the eight
slices with most lesion voxels, each model with its own sampling; 50 steps on every slice would take half an hour.
Quality is measured by `zoo evaluate` with the protocol.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from filling_sweep import patient, time_filling

import zoo
from zoo.evaluation.study_protocol import Protocol
from zoo.models.run import Run
from zoo_lesion_diffusion.config import FillingConfig

SLICES = 8


def measure(way: str, run: Path, protocol: Protocol) -> dict[str, Any]:
    """Return the size of a run's model, the cost of its training, and the cost to fill a patient."""
    artifact, record = zoo.load(run), Run.open(run).record
    config = artifact.config
    if not isinstance(config, FillingConfig):
        raise SystemExit(f"{run} is not a run of lesion-filling.")
    image, hole = patient(protocol, config)
    hole = on_largest_slices(hole)
    parts = artifact.parts()
    time_filling(parts, config, image, hole, steps=1)  # warm-up
    _, processor_seconds = time_filling(parts, config, image, hole)
    sampling = config.sampling
    return {
        "way": way,
        "parameters": sum(weights.numel() for weights in artifact.build().parameters()),
        "images": record["images_seen"],
        "training_processor_seconds": record["processor_seconds"],
        "size": " × ".join(str(side) for side in config.window),
        "sampling": f"{sampling.solver}, {sampling.steps} step{'s' if sampling.steps > 1 else ''}",
        "filling_processor_seconds": processor_seconds,
        "slices": SLICES,
        "voxels": int(hole.sum()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def on_largest_slices(hole: torch.Tensor) -> torch.Tensor:
    """Return a lesion mask ``[i, j, k]`` on the slices with most lesion voxels, empty on the others."""
    kept = torch.zeros_like(hole)
    slices = hole.sum(dim=(0, 1)).topk(SLICES).indices
    kept[..., slices] = hole[..., slices]
    return kept


def main() -> None:
    """Measure both and write."""
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser()
    for argument in ("ours", "thesis", "data"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--protocol", type=Path, default=here.parent / "docs" / "protocol.toml")
    parser.add_argument("--out", type=Path, default=here / "results" / "thesis-filling.jsonl")
    arguments = parser.parse_args()
    protocol = Protocol.read(arguments.protocol, arguments.data)
    rows = [
        measure("ours, `small`", arguments.ours, protocol),
        measure("the thesis' way, small", arguments.thesis, protocol),
    ]
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
