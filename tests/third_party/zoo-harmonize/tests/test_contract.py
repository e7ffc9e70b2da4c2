"""The method keeps the contract of the zoo, and of the verb that comes with it: run it with `pytest tests`."""

from zoo.testing import MethodContract


class TestVoxelHarmonizing(MethodContract):
    method = "voxel-harmonizing"
