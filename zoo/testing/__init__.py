"""The contract kit: what every method must do, as tests that a plugin runs on itself.

from zoo.testing import MethodContract

class TestMyMethod(MethodContract):
    method = "my-method"
"""

from zoo.testing.contract import ClassicContract, MethodContract

__all__ = ["ClassicContract", "MethodContract"]
