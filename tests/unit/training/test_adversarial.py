"""Steps of generative adversarial networks."""

from __future__ import annotations

import torch
from torch import nn

from zoo.training.adversarial import frozen, update_network
from zoo.training.launch import launch


def test_an_update_steps_once_and_tells_the_gradients_norm() -> None:
    network = nn.Linear(2, 1, bias=False)
    before = network.weight.detach().clone()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    norm = update_network(launch(1, "32-true"), network, optimiser, network(torch.tensor([[3.0, 4.0]])).sum())
    assert float(norm) == 5
    assert torch.equal(network.weight, before - 0.5 * torch.tensor([[3.0, 4.0]]))
    assert network.weight.grad is None


def test_gradients_pass_through_a_frozen_network() -> None:
    network, image = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen(network):
        network(image).sum().backward()
    assert image.grad is not None
    assert network.weight.grad is None
    assert network.weight.requires_grad
