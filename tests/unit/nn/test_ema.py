"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch

from zoo.nn.ema import MovingAverage


def test_an_old_weight_counts_half_after_the_half_life() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 100, ramp_up=1e9)
    old = average.model.weight.item()
    with torch.no_grad():
        model.weight.fill_(old + 1)
    for _ in range(10):
        average.update(1000, 10)
    assert average.model.weight.item() == pytest.approx(old + 0.5, abs=1e-5)


def test_without_a_half_life_the_model_is_its_own_average() -> None:
    model = torch.nn.Linear(1, 1)
    assert MovingAverage(model, 0).model is model
