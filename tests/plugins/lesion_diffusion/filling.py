"""Settings and batches for the tests of lesion filling."""

from __future__ import annotations

import torch

from zoo.config import MethodConfig, resolve_config
from zoo.registry import registry

THESIS = (
    "neighbours=0",
    "diffusion.prediction=noise",
    "diffusion.residual_scale=0",
    "diffusion.pure_noise_share=0",
)
"""Settings of the thesis: the network predicts the noise in the image itself, slice by slice."""


def filling_config(*assignments: str) -> MethodConfig:
    """Return the settings of the preset ``tiny`` at 4 mm, with assignments."""
    return resolve_config(
        registry().methods["lesion-filling"], preset="tiny", assignments=["data.spacing_mm=4.0", *assignments]
    )


def batch_of_three(*slab: int) -> dict[str, torch.Tensor]:
    """Return three examples without neighbours, with zeros in the holes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((3, 1, *slab, 32, 32), generator=generator) * 2 - 1
    mask = torch.zeros_like(image)
    mask[..., 8:16, 8:20] = 1
    return {"image": image, "context": image * (1 - mask), "lesion_mask": mask}
