"""The contract kit: what every method must do, as tests that a plugin runs on itself.

::

    from zoo.testing import MethodContract

    class TestMyMethod(MethodContract):
        method = "my-method"
"""

import pytest

pytest.register_assert_rewrite("zoo.testing.contract")  # a failing assertion then shows its values to a plugin's author

from zoo.testing.contract import ClassicContract, MethodContract  # noqa: E402

__all__ = ["ClassicContract", "MethodContract"]
