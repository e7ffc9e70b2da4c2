"""StyleGAN2-ADA keeps the contract, on slices, on volumes, and with several channels and every augmentation."""

from __future__ import annotations

from zoo.testing import MethodContract


class TestSlices(MethodContract):
    method = "stylegan2-ada"


class TestVolumes(MethodContract):
    method = "stylegan2-ada"
    settings = ("size=[16,24,16]", "network.channel_limit=16", "network.channel_budget=64")


class TestEveryChoice(MethodContract):
    method = "stylegan2-ada"
    settings = (
        "copies=3",
        "slices.count=8",
        "slices.between=[0.2,0.9]",
        "loss.mixing=0",
        "network.group=1",
        "optimiser.average_half_life_images=0",
        "augmentation.kinds=mirror,shift,scale,rotate,brightness,contrast,bias-field,noise",
        "augmentation.images=100",
        "augmentation.target=-1",
        "training.final_model=last",
    )
