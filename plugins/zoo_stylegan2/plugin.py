"""Registers ``stylegan2-ada``."""

from __future__ import annotations

from typing import Any

from zoo import Citation, Evaluator, Method, Task, hookimpl
from zoo.tasks import LatentTask

# Güllmar et al., section 2.2. Padded to 256 pixels, which its 14 style layers tell; where it is silent, what the
# reference does for one GPU at 256 pixels: batch 16, gamma 0.82, 5,000 images of half-life. Its "18,600 images" are
# taken for thousands: 5 days and 19 hours are 27 s for each. It trains on all subjects; here, as for every preset, 30 %
# are kept for the choice of the checkpoint and for projecting.
_PAPER: dict[str, Any] = {
    "size": (256, 256),
    "data": {"spacing_mm": 1.0},
    "slices": {"between": (0.0, 1.0), "count": 71, "pool": 1},
    "network": {
        "latent_width": 512,
        "style_width": 512,
        "mapping_layers": 4,
        "channel_budget": 16384,
        "channel_limit": 512,
    },
    "augmentation": {"kinds": ("mirror",), "images": 500_000},
    "training": {
        "images": 18_600_000,
        "batch_size": 16,
        "checkpoint_images": 200_000,
        "sample_images": 200_000,
        "log_images": 4_000,
        "validation_images": 1024,
    },
}


def _echoes(*numbers: int) -> dict[str, Any]:
    contrasts = tuple(f"echo-{number}_MEGRE" for number in numbers)
    return {**_PAPER, "data": {**_PAPER["data"], "contrasts": contrasts}}


_TINY: dict[str, Any] = {
    "size": (40, 48),
    "data": {"spacing_mm": 4.0},
    "slices": {"pool": 1},
    "network": {"latent_width": 32, "style_width": 32, "mapping_layers": 2, "channel_budget": 256, "channel_limit": 32},
    "training": {
        "images": 4_000,
        "checkpoint_images": 2_000,
        "sample_images": 2_000,
        "log_images": 160,
        "validation_images": 64,
    },
    "optimiser": {"average_half_life_images": 500},
}


@hookimpl
def zoo_methods() -> list[Method]:
    """Return ``stylegan2-ada``."""
    return [
        Method(
            name="stylegan2-ada",
            summary="Generate slices or volumes of several contrasts by StyleGAN2 with adaptive augmentation.",
            version=1,
            citation=Citation(
                authors="Güllmar, Hsu and Reichenbach",
                title="Predicting disease-related MRI patterns of multiple sclerosis through GAN-based image editing",
                venue="Zeitschrift für Medizinische Physik",
                year=2023,
            ),
            licence="Apache-2.0",
            needs=("T1w",),
            config="zoo_stylegan2.config:StyleGANConfig",
            presets={
                "small": {},
                "tiny": _TINY,
                "paper-t1w-te1-3": _echoes(1, 2, 3),
                "paper-t1w-te2-4": _echoes(2, 3, 4),
                "paper-t1w-te3-5": _echoes(3, 4, 5),
                "paper-adc": {
                    **_PAPER,
                    "data": {"spacing_mm": 1.5, "contrasts": ("ADC",)},
                    "copies": 3,
                    "slices": {**_PAPER["slices"], "count": 41},
                    "training": {**_PAPER["training"], "images": 9_200_000},
                },
            },
            build="zoo_stylegan2.networks:build",
            parts="zoo_stylegan2.networks:parts",
            trainer="zoo_stylegan2.training:StyleGANTrainer",
            examples="zoo_stylegan2.examples:StyleGANExamples",
            tasks={
                "sample": Task(run="zoo_stylegan2.tasks:sample", options="zoo_stylegan2.config:StyleGANOptions"),
                "project": Task(
                    run="zoo_stylegan2.projection:project", options="zoo_stylegan2.config:StyleGANProjectOptions"
                ),
                "edit": LatentTask(
                    run="zoo_stylegan2.tasks:edit",
                    options="zoo.tasks:EditOptions",
                    codes="zoo_stylegan2.tasks:draw_codes",
                    discriminator="zoo_stylegan2.tasks:discriminator_score",
                ),
            },
            evaluators=("realism",),
            reported_on="411 subjects, Inception features (Güllmar et al.); other data than ours",
            reported=(
                {"model": "T1w, three echoes", "fid": 13.33, "images": "18,600"},
                {"model": "ADC", "fid": 12.09, "images": "9,200"},
            ),
        )
    ]


@hookimpl
def zoo_evaluators() -> list[Evaluator]:
    """Return ``realism``."""
    return [
        Evaluator(
            name="realism",
            summary="Distance between generated and real images by features of a named extractor.",
            evaluate="zoo.realism:realism",
            options="zoo.realism:RealismOptions",
        )
    ]
