"""Which device a runtime takes."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import UnknownNameError
from zoo.models.runtime import Runtime


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gpu_is_taken_where_there_is_one_and_the_backend_takes_it(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert Runtime.choose("torch") == Runtime("torch", "fp32", "cuda" if gpu else "cpu")
    assert Runtime.choose("openvino", "bf16") == Runtime("openvino", "bf16", "cpu")
    assert Runtime.choose("tensorrt").device == "cuda"


def test_a_named_device_is_kept_and_an_unknown_backend_refused() -> None:
    assert Runtime.choose("torch", device="cuda:1").device == "cuda:1"
    with pytest.raises(UnknownNameError, match="tourch"):
        Runtime.choose("tourch", device="cpu")
