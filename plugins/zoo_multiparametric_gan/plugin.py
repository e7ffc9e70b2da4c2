"""Registers ``dcgan``, ``wgan`` and the dataset ``dce-phantom``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo import Citation, Dataset, Method, Task, hookimpl
from zoo.presets import Presets

_REPORTED: tuple[tuple[str, str, float, float, float], ...] = (
    ("dcgan", "benign", 27.14, 0.272, 0.221),
    ("dcgan", "malignant", 20.23, 0.306, 0.268),
    ("dcgan", "no-findings", 21.03, 0.428, 0.223),
    ("wgan", "benign", 33.90, 0.229, 0.166),
    ("wgan", "malignant", 24.51, 0.264, 0.210),
    ("wgan", "no-findings", 29.48, 0.337, 0.151),
)
"""Table 2: method, class, lowest FID, accuracy of the nearest neighbour on real and on generated patches."""


def _method(name: str, summary: str, prefix: str) -> Method:
    rows: tuple[dict[str, Any], ...] = tuple(
        {"class": kind, "fid": fid, "1-NN real": real, "1-NN generated": generated}
        for method, kind, fid, real, generated in _REPORTED
        if method == name
    )
    return Method(
        name=name,
        summary=summary,
        version=1,
        citation=Citation(
            authors="Haarburger, Horst, Truhn, Broeckmann, Schrading, Kuhl and Merhof",
            title="Multiparametric Magnetic Resonance Image Synthesis using Generative Adversarial Networks",
            venue="Eurographics Workshop on Visual Computing for Biology and Medicine",
            year=2019,
        ),
        licence="Apache-2.0",
        needs=("T1w", "T2w"),
        also=("lesion-mask", "breast-mask"),
        config=f"zoo_multiparametric_gan.config:{prefix}Config",
        presets=Presets(Path(__file__).with_name("presets") / name),
        build="zoo_multiparametric_gan.networks:build",
        parts="zoo_multiparametric_gan.networks:parts",
        trainer=f"zoo_multiparametric_gan.training:{prefix}Trainer",
        examples="zoo_multiparametric_gan.examples:PatchExamples",
        real="zoo_multiparametric_gan.examples:Patches",
        dataset="dce-phantom",
        tasks={
            "sample": Task(
                run="zoo_multiparametric_gan.tasks:sample", options="zoo_multiparametric_gan.config:GANOptions"
            )
        },
        evaluators=("realism",),
        reported_on="408 patients, 10 x 1,000 patches, Inception features (Haarburger et al.); other data than ours",
        reported=rows,
    )


@hookimpl
def zoo_methods() -> list[Method]:
    """Return ``dcgan`` and ``wgan``."""
    return [
        _method("dcgan", "Generate patches of several contrasts, of a class that is asked for, by a DCGAN.", "DCGAN"),
        _method("wgan", "Generate patches of several contrasts, of a class that is asked for, by a WGAN.", "WGAN"),
    ]


@hookimpl
def zoo_datasets() -> list[Dataset]:
    """Return ``dce-phantom``."""
    return [
        Dataset(
            name="dce-phantom",
            summary="Synthetic breasts before and after contrast agent, with lesions whose kinetics are known.",
            open="zoo_multiparametric_gan.phantom:open_dce_phantom",
        )
    ]
