"""Registers ``stylegan2-ada``."""

from __future__ import annotations

from pathlib import Path

from zoo import Citation, Method, Task, hookimpl
from zoo.presets import Presets
from zoo.tasks import LatentTask


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
            presets=Presets(Path(__file__).with_name("presets")),
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
