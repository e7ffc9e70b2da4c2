"""DCGAN and WGAN keep the contract, on slices and on volumes."""

from __future__ import annotations

from zoo.testing import MethodContract

_SLICES = ("patches.healthy=8", "training.validation_images=9")
_VOLUMES = (*_SLICES, "size=[16,16,16]", "network.widths=[8,4]", "optimiser.average_half_life_images=0")


class TestDCGANSlices(MethodContract):
    method = "dcgan"
    settings = _SLICES


class TestDCGANVolumes(MethodContract):
    method = "dcgan"
    settings = (*_VOLUMES, "network.condition=generator")


class TestWGANSlices(MethodContract):
    method = "wgan"
    settings = _SLICES


class TestWGANVolumes(MethodContract):
    """Spectral normalisation has buffers of its own, which a resumed training needs."""

    method = "wgan"
    settings = (*_VOLUMES, "critic.lipschitz=spectral", "critic.steps=2")
