"""The contract of a method of several stages, with folds, a maker and a fit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.toy import NAME, registered
from zoo.testing import MethodContract


class TestToy(MethodContract):
    method = NAME

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _toy(cls) -> Iterator[None]:
        with registered():
            yield
