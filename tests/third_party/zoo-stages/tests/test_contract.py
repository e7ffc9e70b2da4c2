"""The method keeps the contract of the zoo: run it with `pytest tests`."""

from zoo.testing import MethodContract


class TestRefinedAutoencoder(MethodContract):
    method = "refined-autoencoder"
    images = 32  # of each training of a stage; default: 64
