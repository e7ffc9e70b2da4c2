"""Registers lesion filling by conditional diffusion and by RePaint, and their evaluation."""

from __future__ import annotations

from typing import Any

from zoo import Citation, Evaluator, Method, Task, hookimpl

_THESIS = Citation(
    authors="Vinzenz Uhr",
    title="Diffusion-Based Filling and Synthesis of Multiple Sclerosis Lesions",
    venue="Master's thesis, University of Bern",
    year=2024,
)

# Thesis sections 3.2 to 3.4. Where its text is silent (brightness, circles, size of attention heads, weight decay), its
# author's settings and the defaults of its library.
_PAPER: dict[str, Any] = {
    "size": (256, 256),
    "data": {"scaling": "max", "test": 0.0, "validation": 0.2},
    "unet": {
        "channels": (128, 128, 256, 256, 512, 512),
        "blocks_per_level": 2,
        "attention_levels": (4,),
        "head_dim": 8,
        "groups": 32,
    },
    "diffusion": {"prediction": "noise", "timestep_per": "slice"},
    "optimiser": {"learning_rate": 1e-4, "warmup_steps": 500, "average_half_life_images": 0},
    "augmentation": {"brightness": 1.0, "brightness_probability": 0.5, "mirror": False},
}
_2D: dict[str, Any] = {
    "training": {"images": 119_000 * 16, "batch_size": 16, "checkpoint_images": 80_000, "sample_images": 80_000},
}
_3D: dict[str, Any] = {
    "network": "pseudo-3d",
    "slab": 16,
    # Sixteen slices a step, as one slab: an image is a slab here.
    "training": {"images": 119_000, "batch_size": 1, "checkpoint_images": 5_000, "sample_images": 5_000},
}
_PAPER_FILLING: dict[str, Any] = {
    **_PAPER,
    "neighbours": 0,
    "diffusion": {
        **_PAPER["diffusion"],
        "residual_scale": 0,
        "pure_noise_share": 0,
        "loss_region": "image",
        "keep_known": False,
    },
    "lesions": {"min_voxels": 100, "in_context": False},
    "sampling": {"solver": "ddim", "steps": 50, "spacing": "leading", "window": None},
}
_PAPER_PRIOR: dict[str, Any] = {
    **_PAPER,
    "patients": False,
    "sampling": {"steps": 50, "spacing": "leading", "jump_length": 8, "resamples": 10},
}
# Section 4.1 "Training Duration": in 3D best after 6,000 steps; its author's settings train it without brightness. On
# 2D the thesis is silent.
_PAPER_PRIOR_3D: dict[str, Any] = {
    **_PAPER_PRIOR,
    **_3D,
    "training": {**_3D["training"], "images": 6_000, "checkpoint_images": 1_000, "sample_images": 1_000},
    "augmentation": {**_PAPER["augmentation"], "brightness_probability": 0.0},
}


def _best(preset: dict[str, Any]) -> dict[str, Any]:
    """Leave the checkpoint with the best SSIM of validation subjects, as in section 3.5."""
    return {**preset, "checkpoint_score": "ssim", "training": {**preset["training"], "final_model": "best"}}


_TINY: dict[str, Any] = {
    "size": (32, 32),
    "data": {"spacing_mm": 2.0},
    "unet": {"channels": (16, 32), "blocks_per_level": 1, "attention_levels": (), "head_dim": 16, "groups": 8},
    "training": {
        "images": 4_000,
        "batch_size": 16,
        "checkpoint_images": 2_000,
        "sample_images": 2_000,
        "log_images": 160,
    },
    "optimiser": {"learning_rate": 1e-3, "warmup_steps": 20, "average_half_life_images": 500},
}
_TINY_FILLING: dict[str, Any] = {**_TINY, "lesions": {"min_voxels": 1}, "sampling": {"window": None}}
_TINY_PRIOR: dict[str, Any] = {**_TINY, "sampling": {"steps": 10, "jump_length": 2, "resamples": 2}}

_REPORTED_ON = "Uhr 2024, table 4.1 (min-SNR: 4.2): 4 healthy OASIS subjects, other data than ours"
_REPORTED: tuple[dict[str, Any], ...] = tuple(
    {"model": model, "ssim_in": ssim, "psnr_in": psnr, "mse_in": mse, "lpips": lpips}
    for model, ssim, psnr, mse, lpips in (
        ("2D unconditional RePaint", 0.83, 28, 8.2e-3, 2.0e-3),
        ("2D unconditional RePaint, min-SNR", 0.83, 29, 7.3e-3, 2.8e-3),
        ("2D conditional circles", 0.90, 32, 4e-3, 2e-3),
        ("2D conditional lesions", 0.85, 28, 0.01, 5e-3),
        ("2D conditional mixture", 0.90, 33, 4e-3, 1e-3),
        ("3D unconditional RePaint", 0.90, 32, 3e-3, 9e-4),
        ("3D conditional circles", 0.95, 38, 1e-3, 3e-4),
        ("3D conditional lesions", 0.93, 34, 3e-3, 4e-4),
        ("3D conditional mixture", 0.96, 39, 8e-4, 2e-4),
    )
)


_CLASSIC: dict[str, Any] = {
    "licence": "Apache-2.0",
    "needs": ("T1w",),
    "also": ("lesion-mask", "white-matter"),
    "config": "zoo_lesion_diffusion.config:ClassicConfig",
    "evaluators": ("inpainting",),
}


@hookimpl
def zoo_methods() -> list[Method]:
    """Return ``lesion-filling``, ``lesion-prior`` and the classic fillers."""
    masks = ("circles", "lesions", "mixture")
    presets: dict[str, dict[str, Any]] = {"small": {}, "tiny": _TINY_FILLING}
    presets |= {f"paper-2d-{name}": {**_PAPER_FILLING, **_best(_2D), "masks": name} for name in masks}
    presets |= {f"paper-3d-{name}": {**_PAPER_FILLING, **_best(_3D), "masks": name} for name in masks}
    return [
        Method(
            name="lesion-filling",
            summary="Fill white-matter lesions with healthy tissue by conditional diffusion.",
            version=2,
            citation=_THESIS,
            licence="Apache-2.0",
            needs=("T1w",),
            also=("lesion-mask", "tissue", "white-matter", "lesion-free"),
            config="zoo_lesion_diffusion.config:FillingConfig",
            presets=presets,
            build="zoo_lesion_diffusion.networks:build",
            parts="zoo_lesion_diffusion.networks:parts",
            trainer="zoo_lesion_diffusion.training:FillingTrainer",
            examples="zoo_lesion_diffusion.examples:FillingExamples",
            tasks={
                "fill": Task(
                    run="zoo_lesion_diffusion.tasks:fill", options="zoo_lesion_diffusion.config:FillingOptions"
                )
            },
            evaluators=("inpainting",),
            reported_on=_REPORTED_ON,
            reported=_REPORTED,
        ),
        Method(
            name="lesion-prior",
            summary="Learn healthy tissue by unconditional diffusion, and fill lesions with it by RePaint.",
            version=1,
            citation=_THESIS,
            licence="Apache-2.0",
            needs=("T1w",),
            also=("lesion-mask", "tissue", "white-matter", "lesion-free"),
            config="zoo_lesion_diffusion.config:PriorConfig",
            presets={
                "small": {},
                "tiny": _TINY_PRIOR,
                "paper-2d": {**_PAPER_PRIOR, **_2D},
                "paper-3d": _PAPER_PRIOR_3D,
            },
            build="zoo_lesion_diffusion.networks:build_prior",
            parts="zoo_lesion_diffusion.networks:prior_parts",
            trainer="zoo_lesion_diffusion.training:PriorTrainer",
            examples="zoo_lesion_diffusion.examples:PriorExamples",
            tasks={
                "fill": Task(
                    run="zoo_lesion_diffusion.tasks:fill_with_prior",
                    options="zoo_lesion_diffusion.config:PriorOptions",
                )
            },
            evaluators=("inpainting",),
            reported_on=_REPORTED_ON,
            reported=_REPORTED,
        ),
        Method(
            name="biharmonic-filling",
            summary="Fill lesions by the smoothest surface through their rims; no training.",
            version=1,
            citation=Citation(
                authors="Chui and Mhaskar",
                title="MRA contextual-recovery extension of smooth functions on manifolds",
                venue="Applied and Computational Harmonic Analysis 28",
                year=2010,
            ),
            tasks={
                "fill": Task(
                    run="zoo_lesion_diffusion.baselines:biharmonic",
                    options="zoo_lesion_diffusion.config:BiharmonicOptions",
                )
            },
            **_CLASSIC,
        ),
        Method(
            name="biharmonic-2d3d-filling",
            summary="Fill lesions by the mean of the 2D and the 3D biharmonic fill; no training.",
            version=1,
            citation=Citation(
                authors="Chui and Mhaskar",
                title="MRA contextual-recovery extension of smooth functions on manifolds",
                venue="Applied and Computational Harmonic Analysis 28",
                year=2010,
            ),
            tasks={
                "fill": Task(
                    run="zoo_lesion_diffusion.baselines:biharmonic_2d3d",
                    options="zoo_lesion_diffusion.config:BiharmonicOptions",
                )
            },
            **_CLASSIC,
        ),
        Method(
            name="neighbour-filling",
            summary="Fill lesions with random numbers like the slice's own white matter; no training.",
            version=1,
            citation=Citation(
                authors="Valverde, Oliver and Lladó",
                title="A white matter lesion-filling approach to improve brain tissue volume measurements",
                venue="NeuroImage: Clinical 6",
                year=2014,
            ),
            tasks={"fill": Task(run="zoo_lesion_diffusion.baselines:neighbours", options="zoo.tasks:FillOptions")},
            **_CLASSIC,
        ),
    ]


@hookimpl
def zoo_evaluators() -> list[Evaluator]:
    """Return ``inpainting``."""
    return [
        Evaluator(
            name="inpainting",
            summary="Error of filled healthy tissue under lesion masks and circles, beside classic fillers.",
            evaluate="zoo_lesion_diffusion.evaluation:inpainting",
            options="zoo_lesion_diffusion.config:InpaintingOptions",
        )
    ]
