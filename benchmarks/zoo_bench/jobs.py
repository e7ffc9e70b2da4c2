"""What the parent asks of a child process, as one line of JSON; imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from zoo.config import Config


class Protocol(Config):
    """How long rows are measured. Calls and seconds are per row, over all its rounds."""

    rounds: int = Field(5, ge=1, description="Rounds of every row; the interval of the median is over rounds and calls")
    calls: int = Field(100, ge=1, description="Timed calls at least, if they fit into limit_s")
    seconds: float = Field(5.0, gt=0, description="Timed seconds at least, if they fit into limit_s")
    limit_s: float = Field(60.0, gt=0, description="Timed seconds at most, except for a running call")
    warmup_calls: int = Field(10, ge=1, description="Untimed calls at least, if they fit into warmup_limit_s")
    warmup_s: float = Field(2.0, ge=0, description="Untimed seconds at least, if they fit into warmup_limit_s")
    warmup_limit_s: float = Field(10.0, gt=0, description="Untimed seconds at most, except for a running call")


class Job(Config):
    """One piece of work for a child process.

    ``reference`` runs torch in fp32 once and keeps inputs and outputs in ``reference_file``; ``export`` makes the
    backend's files; ``measure`` loads, warms up, compares with the reference, and then runs one round per order.
    """

    action: Literal["reference", "export", "measure"]
    model: str = Field(description="Folder of model.safetensors")
    backend: str
    precision: str
    device: str
    cuda_graph: bool = False
    contiguous: bool = False
    kind: Literal["part", "task"]
    name: str
    batch: int = Field(1, ge=1)
    batches: tuple[int, ...] = Field((1,), description="All batches of the case, for one export")
    size: tuple[int, ...] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    threads: int = Field(ge=1)
    reference_file: str
    protocol: Protocol
