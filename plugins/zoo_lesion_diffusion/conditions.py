"""The conditions of the network: the known image with its holes, and neighbouring slices."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from zoo_lesion_diffusion.baselines import biharmonic_fill
from zoo_lesion_diffusion.config import FillingConfig


def context(image: np.ndarray, mask: np.ndarray, config: FillingConfig) -> np.ndarray:
    """Return what the network knows of an image ``[C, K, I, J]`` with holes where ``mask`` ``[K, I, J]`` is true.

    The holes hold a biharmonic fill if the model diffuses the difference to it, else zeros.
    """
    if config.diffusion.residual_scale:
        return biharmonic_fill(image, mask)
    return np.where(mask, np.float32(0), image)


def slices_to_channels(slices: np.ndarray) -> np.ndarray:
    """Return ``[..., C, S, H, W]`` as ``[..., S·C, H, W]``, the channels of a slice next to each other."""
    swapped = slices.swapaxes(-4, -3)
    return swapped.reshape(*swapped.shape[:-4], -1, *swapped.shape[-2:])


def middle(stack: Tensor, config: FillingConfig) -> Tensor:
    """Return the slices that are filled, without their neighbours.

    Args:
        stack: ``[B, S·C, H, W]`` of a slice and its neighbours, S together; slabs ``[B, C, D, H, W]`` have none.
        config: Settings of the model.
    """
    if stack.dim() == 5:
        return stack
    width = stack.shape[1] // config.seen_slices
    return stack.narrow(1, config.neighbours * width, width)
