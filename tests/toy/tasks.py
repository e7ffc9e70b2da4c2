"""How the toy fills."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.toy.config import ToyConfig
from tests.toy.training import centred
from zoo.tasks import Parts, Progress


def fill(
    parts: Parts,
    config: ToyConfig,
    image: Tensor,
    lesion_mask: Tensor,
    options: Any,
    progress: Progress | None = None,
    *,
    white_matter: Tensor | None = None,
) -> Tensor:
    """Fill slice by slice."""
    filled = image.clone()
    for index in lesion_mask.any(dim=0).any(dim=0).nonzero().flatten().tolist():
        plane = torch.from_numpy(centred(image[0, :, :, index].numpy(), config.size))[None, None]
        hole = torch.from_numpy(centred(lesion_mask[:, :, index].numpy().astype("float32"), config.size))
        mask = hole.clamp(min=0)[None, None]
        reconstruction = parts["autoencoder"](plane * (1 - mask), mask)
        error = parts["components"](parts["corrector"](reconstruction))
        result = (reconstruction + error)[0, 0].cpu().numpy()
        filled[0, :, :, index] = torch.from_numpy(centred(result, image.shape[1:3]))
    return filled
