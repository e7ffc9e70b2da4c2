"""What the verb ``edit`` asks of a method."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoo.errors import ConfigError, UnknownNameError
from zoo.registry import registry
from zoo.tasks import LatentTask
from zoo.tasks.edit.protocol import latent_task


def test_a_method_that_edits_says_where_codes_come_from() -> None:
    method = registry().methods["stylegan2-ada"]
    task = latent_task(method)
    assert isinstance(task, LatentTask)
    assert task.codes
    plain = replace(method, tasks={"edit": method.task("sample")})
    with pytest.raises(ConfigError, match="LatentTask"):
        latent_task(plain)
    with pytest.raises(UnknownNameError, match="cannot edit"):
        latent_task(registry().methods["neighbour-filling"])
