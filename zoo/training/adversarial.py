"""What trainers of generative adversarial networks share: one optimiser step, and networks that do not learn in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


def update_network(fabric: Fabric, network: nn.Module, optimiser: Any, loss: Tensor) -> Tensor:
    """Do one optimiser step for a network and return the gradient's norm.

    Gradients are averaged over processes here: the wrapper that does it elsewhere (DDP) supports no double backward,
    which gradient penalties need.
    """
    fabric.backward(loss)
    for parameter in network.parameters() if fabric.world_size > 1 else ():
        if parameter.grad is not None:
            parameter.grad = mean_over_processes(fabric, parameter.grad)
    norm = fabric.clip_gradients(network, optimiser, max_norm=math.inf, error_if_nonfinite=False)
    optimiser.step()
    optimiser.zero_grad()
    return torch.as_tensor(norm)


def mean_over_processes(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the mean of a tensor over processes."""
    return cast(Tensor, fabric.all_reduce(value, reduce_op="mean")) if fabric.world_size > 1 else value


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Compute no gradients of a network's weights inside the block; gradients still reach its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
