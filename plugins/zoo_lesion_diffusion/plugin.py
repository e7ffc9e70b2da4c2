"""Registers lesion filling by conditional diffusion and by RePaint, and their evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo import Citation, Evaluator, Method, Task, hookimpl
from zoo.presets import Presets

_THESIS = Citation(
    authors="Vinzenz Uhr",
    title="Diffusion-Based Filling and Synthesis of Multiple Sclerosis Lesions",
    venue="Master's thesis, University of Bern",
    year=2024,
)

_BIHARMONIC = Citation(
    authors="Chui and Mhaskar",
    title="MRA contextual-recovery extension of smooth functions on manifolds",
    venue="Applied and Computational Harmonic Analysis 28",
    year=2010,
)
_PRESETS = Path(__file__).with_name("presets")

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


@hookimpl
def zoo_methods() -> list[Method]:
    """Return ``lesion-filling``, ``lesion-prior`` and the classic fillers."""
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
            presets=Presets(_PRESETS / "lesion-filling"),
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
            presets=Presets(_PRESETS / "lesion-prior"),
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
        _classic(
            "biharmonic-filling",
            "Fill lesions by the smoothest surface through their rims; no training.",
            _BIHARMONIC,
            run="zoo_lesion_diffusion.baselines:biharmonic",
            options="zoo_lesion_diffusion.config:BiharmonicOptions",
        ),
        _classic(
            "biharmonic-2d3d-filling",
            "Fill lesions by the mean of the 2D and the 3D biharmonic fill; no training.",
            _BIHARMONIC,
            run="zoo_lesion_diffusion.baselines:biharmonic_2d3d",
            options="zoo_lesion_diffusion.config:BiharmonicOptions",
        ),
        _classic(
            "neighbour-filling",
            "Fill lesions with random numbers like the slice's own white matter; no training.",
            Citation(
                authors="Valverde, Oliver and Lladó",
                title="A white matter lesion-filling approach to improve brain tissue volume measurements",
                venue="NeuroImage: Clinical 6",
                year=2014,
            ),
            run="zoo_lesion_diffusion.baselines:neighbours",
            options="zoo.tasks:FillOptions",
        ),
    ]


def _classic(name: str, summary: str, citation: Citation, *, run: str, options: str) -> Method:
    """Return a filler that needs no training."""
    return Method(
        name=name,
        summary=summary,
        version=1,
        citation=citation,
        licence="Apache-2.0",
        needs=("T1w",),
        also=("lesion-mask", "white-matter"),
        config="zoo_lesion_diffusion.config:ClassicConfig",
        tasks={"fill": Task(run=run, options=options)},
        evaluators=("inpainting",),
    )


@hookimpl
def zoo_evaluators() -> list[Evaluator]:
    """Return ``inpainting``."""
    return [
        Evaluator(
            name="inpainting",
            summary="Error of filled healthy tissue under lesion masks and circles, compared with classic fillers.",
            evaluate="zoo_lesion_diffusion.evaluation:inpainting",
            options="zoo_lesion_diffusion.config:InpaintingOptions",
        )
    ]
