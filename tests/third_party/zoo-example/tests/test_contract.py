"""The plugin keeps the contract of the zoo: run it with `pytest tests`."""

from zoo.testing import MethodContract


class TestRegressionFilling(MethodContract):
    method = "regression-filling"
