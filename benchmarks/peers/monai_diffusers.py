"""DDIM sampling of the same U-Net in diffusers, in MONAI and in mri-zoo, timed alternately in one process.

    pip install diffusers monai einops
    python benchmarks/peers/monai_diffusers.py [--preset paper-2d] [--size 128] [--steps 10] [--batch 1]
        [--ours torch:fp32 --ours openvino:fp32] [--out benchmarks/results/peers.jsonl]

The network is the U-Net of `lesion-prior` with random weights, which do not affect speed. Channels, blocks, attention,
groups and heads are those of one preset in all three. diffusers' UNet2DModel has our weights, so its images must equal
ours. MONAI's DiffusionModelUNet has the same structure (its parameters are counted) and its own weights. Each library
uses its own DDIM with the same schedule, steps and noise, on a GPU if there is one, otherwise on the CPU. Output is one
line per row in the schema zoo-bench/1, for `zoo bench --report`. Without --ours, the zoo's row is torch in fp32. Export
the files of other runtimes first: `zoo export lesion-prior --preset paper-2d --size 128 --openvino`.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.models.find import find_artifact, resized
from zoo.models.runtime import Runtime
from zoo.randomness import Randomness
from zoo.system import machine
from zoo_bench.jobs import Job, Protocol
from zoo_bench.records import Backend, Latency, Model, Quality, Record, Work, write_records
from zoo_bench.report import markdown
from zoo_bench.worker import environment
from zoo_lesion_diffusion.config import PriorConfig
from zoo_lesion_diffusion.diffusers_weights import diffusers_options, diffusers_state_dict
from zoo_lesion_diffusion.networks import DenoisingUNet
from zoo_lesion_diffusion.samplers import ddim
from zoo_lesion_diffusion.schedule import noise_schedule

ROUNDS = 5
Sample = Callable[[Tensor], Tensor]


def ours(part: Callable[..., Tensor], config: PriorConfig, steps: int) -> Sample:
    """Return the zoo's sampler with a part on any backend."""
    schedule = noise_schedule(config)
    timesteps = schedule.leading_timesteps(steps)  # the default of the other libraries
    return lambda noise: ddim(part, noise, schedule, timesteps, clip=False)


def diffusers_way(model: DenoisingUNet, config: PriorConfig, steps: int, device: str) -> Sample:
    """Return diffusers' U-Net with our weights and its DDIM."""
    import diffusers

    network = diffusers.UNet2DModel(in_channels=1, out_channels=1, **diffusers_options(config.unet.model_dump()))
    network.load_state_dict(diffusers_state_dict(model))
    network.to(device).eval()
    noise = config.diffusion
    scheduler = diffusers.DDIMScheduler(noise.steps, noise.beta_start, noise.beta_end, "linear", clip_sample=False)
    scheduler.set_timesteps(steps)

    def sample(x: Tensor) -> Tensor:
        for timestep in scheduler.timesteps:
            x = scheduler.step(network(x, timestep).sample, timestep, x).prev_sample
        return x

    return sample


def monai_way(config: PriorConfig, steps: int, device: str) -> tuple[Sample, int]:
    """Return MONAI's U-Net of the same shape with its DDIM inferer, and the number of its parameters."""
    from monai.inferers import DiffusionInferer
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDIMScheduler

    unet, noise = config.unet, config.diffusion
    attends = [level in unet.attention_levels for level in range(len(unet.channels))]
    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, num_res_blocks=unet.blocks_per_level, channels=unet.channels,
        attention_levels=attends, norm_num_groups=unet.groups, norm_eps=1e-5, num_head_channels=unet.head_dim,
    )  # fmt: skip
    network.to(device).eval()
    scheduler = DDIMScheduler(
        noise.steps, "linear_beta", clip_sample=False, beta_start=noise.beta_start, beta_end=noise.beta_end
    )
    scheduler.set_timesteps(steps)
    inferer = DiffusionInferer(scheduler)

    def sample(x: Tensor) -> Tensor:
        image = inferer.sample(x, network, scheduler, verbose=False)
        assert isinstance(image, Tensor)
        return image

    return sample, sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def timed(sample: Sample, noise: Tensor) -> tuple[float, Tensor]:
    """Return the milliseconds of one call, and the sample."""
    began = time.perf_counter()
    image = sample(noise)
    if noise.is_cuda:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began), image


def main() -> None:
    """Measure alternately, write and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="paper-2d")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ours", action="append", metavar="BACKEND:PRECISION")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(machine.physical_cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    artifact = resized(find_artifact("lesion-prior", arguments.preset, arguments.runs), [arguments.size])
    model, config = artifact.build(device), artifact.config
    assert isinstance(config, PriorConfig)
    assert isinstance(model, DenoisingUNet)
    count = sum(parameter.numel() for parameter in model.parameters())
    noise = Randomness(range(arguments.batch), device).normal((1, arguments.size, arguments.size))

    ways: dict[str, tuple[Sample, Backend, str, int]] = {}
    for asked in arguments.ours or ["torch:fp32"]:
        name, _, precision = asked.partition(":")
        part = artifact.parts(Runtime(name, precision or "fp32", device))["denoiser"]
        version = machine.version_of(name)
        sample = ours(part, config, arguments.steps)
        ways[asked] = (sample, Backend(name=f"mri-zoo {name}", version=version), precision or "fp32", count)
    ways["diffusers"] = (
        diffusers_way(model, config, arguments.steps, device),
        Backend(name="diffusers", version=metadata.version("diffusers")), "fp32", count,
    )  # fmt: skip
    peer, parameters = monai_way(config, arguments.steps, device)
    ways["monai"] = (peer, Backend(name="monai", version=metadata.version("monai")), "fp32", parameters)

    images = {name: timed(sample, noise)[1] for name, (sample, *_) in ways.items()}  # warm-up, too
    rounds: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (sample, *_) in ways.items():
            rounds[name].append([timed(sample, noise)[0]])

    job = Job(
        action="measure", model="", backend="torch", precision="fp32", device=device, kind="task", name="sample",
        threads=torch.get_num_threads(), reference_file="", protocol=Protocol(rounds=ROUNDS),
    )  # fmt: skip
    reference = images[next(iter(ways))].double()
    run_id, written = uuid.uuid4().hex[:12], []
    for name, (_, backend, precision, parameters) in ways.items():
        latency = Latency.of(rounds[name], "perf_counter", 1)
        difference = float((images[name].double() - reference).norm() / reference.norm())
        quality: dict[str, Any] = {"note": "weights of its own"} if name == "monai" else {"rel_l2": difference}
        written.append(
            Record(
                run_id=run_id, time=datetime.now(UTC).isoformat(timespec="seconds"),
                model=Model(name="DDIM U-Net", preset=arguments.preset, trained=False, parameters=parameters),
                backend=backend, precision=precision, device=device,
                work=Work(
                    kind="task", name="sample", batch=arguments.batch, size=(arguments.size, arguments.size),
                    network_calls=arguments.steps, options={"steps": arguments.steps},
                ),
                environment=environment(job),
                latency_ms=latency, throughput=1e3 * arguments.batch / latency.median, quality=Quality(**quality),
            )
        )  # fmt: skip
    print(markdown(written))
    if arguments.out:
        write_records(arguments.out, written)


if __name__ == "__main__":
    main()
