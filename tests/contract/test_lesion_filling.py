"""Lesion filling and its prior keep the contract, in 2D and pseudo-3D, and with the paper's way of training."""

from __future__ import annotations

from zoo.testing import ClassicContract, MethodContract


class TestLesionFilling(MethodContract):
    method = "lesion-filling"


class TestPseudo3D(MethodContract):
    method = "lesion-filling"
    settings = ("network=pseudo-3d", "slab=4", "neighbours=0", "masks=lesions")


class TestPapersWay(MethodContract):
    method = "lesion-filling"
    settings = (
        "network=pseudo-3d",
        "slab=4",
        "neighbours=0",
        "diffusion.prediction=noise",
        "data.scaling=max",
        "diffusion.timestep_per=slice",
        "diffusion.loss_region=image",
        "diffusion.keep_known=false",
        "diffusion.min_snr_gamma=5",
        "optimiser.average_half_life_images=0",
        "lesions.in_context=false",
        "data.validation=0.0",
        "data.test=0.4",
        "masks=circles",
        "sampling.solver=ddim",
    )


class TestLesionPrior(MethodContract):
    method = "lesion-prior"


class TestPriorPseudo3D(MethodContract):
    method = "lesion-prior"
    settings = (
        "network=pseudo-3d",
        "slab=4",
        "diffusion.prediction=noise",
        "diffusion.timestep_per=slice",
        "patients=false",
        "data.validation=0.0",
        "data.test=0.4",
        "sampling.steps=6",
        "sampling.resamples=3",
    )


class TestBiharmonicFilling(ClassicContract):
    method = "biharmonic-filling"


class TestNeighbourFilling(ClassicContract):
    method = "neighbour-filling"
