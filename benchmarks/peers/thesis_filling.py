"""Our filling beside the thesis' way of running the same weights, on one patient, in one process.

    python benchmarks/peers/thesis_filling.py RUN T1W LESIONS [--out benchmarks/results/thesis-filling.jsonl]

The thesis' way is diffusers' UNet2DModel and DDIMScheduler, 50 steps, over every slice with a lesion, whole, padded to
256 × 256 (Uhr 2024, section 3.2). Both ways get the same context and the same noise schedule. Two holes are filled:
the patient's own lesions, whose seconds count, and the lesions mirrored to the other side and cut to white matter,
where the image is healthy and the truth is known, whose SSIM inside the mask counts (on 16 slices, since the thesis'
way takes seconds for each). Wall seconds stand beside the processor's seconds, which other work on the machine changes
less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from rich.progress import track
from scipy import ndimage
from torch import Tensor

import zoo
from zoo.imaging.geometry import model_grid, to_grid
from zoo.imaging.masks import dilate_within
from zoo.imaging.preprocessing import fit_intensity
from zoo.imaging.volume import read_mask, read_volume
from zoo.metrics.image import inpainting_metrics
from zoo_bench.white_matter import brightest_class
from zoo_lesion_diffusion.config import FillingConfig, FillingOptions
from zoo_lesion_diffusion.diffusers_weights import diffusers_options, diffusers_state_dict
from zoo_lesion_diffusion.networks import LesionFiller
from zoo_lesion_diffusion.tasks import fill
from zoo_lesion_diffusion.windows import Window, context, crop, slices_to_channels

SIDE = 256
STEPS = 50
BATCH = 4
ROUNDS = 3
MIRRORED_SLICES = 16


def prepare(config: FillingConfig, image: Path, lesions: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image ``[C, i, j, k]`` in [-1, 1], the dilated lesions and their mirrored copy, bool ``[i, j, k]``."""
    volume = read_volume(image)
    mask = read_mask(lesions, like=volume)
    white_matter = brightest_class(volume.data[0], mask)
    own = dilate_within(mask, white_matter, 1)
    grid = model_grid(volume.shape, volume.affine, config.data.spacing_mm)
    values, *masks = (
        to_grid(array.astype(np.float32), volume.affine, grid, order=order)
        for array, order in ((volume.data[0], 1), (own, 0), (white_matter, 0))
    )
    own, white = (array > 0.5 for array in masks)
    data = config.data
    scale = fit_intensity(values, grid.spacing_mm, data.scaling, data.percentile, data.noise_floor)
    mirrored = own[::-1] & white & ~ndimage.binary_dilation(own, iterations=3)
    held = np.flatnonzero(mirrored.any(axis=(0, 1)))
    kept = held[np.linspace(0, len(held) - 1, min(MIRRORED_SLICES, len(held))).astype(int)]
    mirrored[..., np.setdiff1d(held, kept)] = False
    return torch.from_numpy(scale.encode(values))[None], torch.from_numpy(own), torch.from_numpy(mirrored)


@torch.inference_mode()
def thesis_fill(network: diffusers.UNet2DModel, config: FillingConfig, image: Tensor, mask: Tensor) -> Tensor:
    """Fill slice by slice as the thesis does, with diffusers' network and scheduler."""
    schedule = config.diffusion
    scheduler = diffusers.DDIMScheduler(
        schedule.steps, schedule.beta_start, schedule.beta_end, "linear", clip_sample=not schedule.residual_scale,
        prediction_type="v_prediction" if schedule.prediction == "velocity" else "epsilon",
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    volume, holes = image.permute(0, 3, 1, 2).numpy(), mask.permute(2, 0, 1).numpy()
    known = context(volume, holes, config)
    corner = [(extent - SIDE) // 2 for extent in holes.shape[1:]]
    size, seen, filled = (SIDE, SIDE), config.seen_slices, volume.copy()
    slices = np.flatnonzero(holes.any(axis=(1, 2)))
    for start in track(range(0, len(slices), BATCH), "The thesis' way"):
        chosen = slices[start : start + BATCH]
        windows = [Window((int(index) - config.neighbours, *corner), (0, 0, 0, 0)) for index in chosen]
        stacks = [np.stack([crop(array, window, size, seen, empty) for window in windows])
                  for array, empty in ((known, -1), (holes[None], 0))]  # fmt: skip
        conditions = torch.from_numpy(np.concatenate([slices_to_channels(stack) for stack in stacks], 1)).float()
        x = torch.randn(len(chosen), len(volume), SIDE, SIDE, generator=torch.Generator().manual_seed(start))
        for timestep in scheduler.timesteps:
            predicted = network(torch.cat([x, conditions], 1), timestep).sample
            x = scheduler.step(predicted, timestep, x).prev_sample
        inside = x.numpy()[:, :, -corner[0] :, -corner[1] :][:, :, : holes.shape[1], : holes.shape[2]]
        for index, result in zip(chosen, inside, strict=True):
            result = known[:, index] + schedule.residual_scale * result if schedule.residual_scale else result
            filled[:, index] = np.where(holes[index], result.clip(-1, 1), filled[:, index])
    return torch.from_numpy(filled).permute(0, 2, 3, 1)


def ssim_inside(filled: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Return SSIM inside the mask, the mean over slices."""
    slices = mask.any(dim=0).any(dim=0).nonzero()[:, 0]
    predicted, known, hole = (volume[..., slices].permute(3, 0, 1, 2) for volume in (filled, truth, mask[None]))
    return float(inpainting_metrics(predicted, known, hole)["ssim_in"].mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("lesions", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    artifact = zoo.load(arguments.run)
    config, model = artifact.config, artifact.build()
    if not isinstance(config, FillingConfig) or not isinstance(model, LesionFiller):
        raise SystemExit(f"{arguments.run} is not a run of lesion-filling.")
    image, own, mirrored = prepare(config, arguments.image, arguments.lesions)
    network = diffusers.UNet2DModel(
        in_channels=model.unet.in_channels, out_channels=1, **diffusers_options(config.unet.model_dump())
    ).eval()
    network.load_state_dict(diffusers_state_dict(model.unet))
    parts = artifact.parts()

    def ours(mask: Tensor) -> Tensor:
        return fill(parts, config, image, mask, FillingOptions())

    def thesis(mask: Tensor) -> Tensor:
        return thesis_fill(network, config, image, mask)

    rows: list[dict[str, Any]] = []
    ours(own)  # warm-up
    for name, way, rounds in (("mri-zoo", ours, ROUNDS), ("thesis' way, diffusers", thesis, 1)):
        seconds, processor_seconds = [], []
        for _ in range(rounds):
            began, processor_began = time.perf_counter(), time.process_time()
            way(own)
            seconds.append(time.perf_counter() - began)
            processor_seconds.append(time.process_time() - processor_began)
        row = {
            "way": name,
            "seconds": round(statistics.median(seconds), 3),
            "processor_seconds": round(statistics.median(processor_seconds), 3),
            "ssim_in": round(ssim_inside(way(mirrored), image, mirrored), 4),
            "slices": int(own.any(dim=0).any(dim=0).sum()),
            "voxels": int(own.sum()),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    mine, theirs = rows
    print(f"{theirs['seconds'] / mine['seconds']:.1f} times as fast, SSIM {mine['ssim_in'] - theirs['ssim_in']:+.4f}")
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
