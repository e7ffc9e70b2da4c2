"""CUDA graphs: work on a GPU is recorded once for each shape and started as one from then on.

A sampler calls a small network again and again, and at small batches the GPU waits for Python to start the next kernel.
Replaying a graph starts all of them at once. On a CPU nothing here does anything.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ExportError

Work = Callable[..., Tensor]
Replay = Callable[[Sequence[Tensor]], Tensor]


@dataclass
class _Graphs:
    """The graphs of one part; they share memory, as only one of them runs at a time."""

    pool: Any = None
    replays: dict[Hashable, Replay | None] = field(default_factory=dict)
    refused: set[Hashable] = field(default_factory=set)


_graphs_of: weakref.WeakKeyDictionary[Any, _Graphs] = weakref.WeakKeyDictionary()


def device_of(part: Any) -> torch.device:
    """Return where a part of a model runs: its ``device``, or the CPU where it does not say."""
    return torch.device(getattr(part, "device", "cpu"))


def can_record(part: Any) -> bool:
    """Return whether work that calls ``part`` can be recorded: it runs on a GPU, and says ``capturable``."""
    return bool(getattr(part, "capturable", False)) and device_of(part).type == "cuda"


def replayed(part: Any, key: Hashable, work: Work, *inputs: Tensor) -> Tensor:
    """Return ``work(*inputs)``, from a CUDA graph from the third time on.

    The first time a shape comes the work is just done, the second time it is recorded as well. The graphs are kept as
    long as the part. Where recording fails, the work is done without a graph, with a warning.

    Args:
        part: The part of a model that the work calls.
        key: Everything that the work depends on, except the part and ``inputs``.
        work: A function of tensors. It draws no random numbers, and neither copies from the host nor asks it for a
            value of a tensor: what it does on the host is done once, when it is recorded.
        inputs: On the part's device.

    Returns:
        What ``work`` returns, in memory of its own.
    """
    if not can_record(part):
        return work(*inputs)
    graphs = _graphs_of.setdefault(part, _Graphs())
    place = (key, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
    if place not in graphs.replays:
        graphs.replays[place] = None
        return work(*inputs)
    replay = graphs.replays[place]
    if replay is not None:
        return replay(inputs)
    if place in graphs.refused:
        return work(*inputs)
    try:
        result, graphs.replays[place] = _record(graphs, device_of(part), work, inputs)
    except (RuntimeError, ExportError) as error:
        graphs.refused.add(place)
        warnings.warn(f"No CUDA graph could be recorded, so sampling is slower: {error}", RuntimeWarning, stacklevel=2)
        return work(*inputs)
    return result


def _record(graphs: _Graphs, device: torch.device, work: Work, inputs: Sequence[Tensor]) -> tuple[Tensor, Replay]:
    """Do the work on copies of the inputs, record it, and return its result and what replays it."""
    with torch.cuda.device(device):
        with torch.inference_mode(False):
            fixed = [torch.empty_like(tensor) for tensor in inputs]
        for buffer, tensor in zip(fixed, inputs, strict=True):
            buffer.copy_(tensor)
        # Libraries choose kernels and allocate the first time, which must not be recorded; engines, just before.
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = work(*fixed)
        current.wait_stream(side)
        result.record_stream(current)

        if graphs.pool is None:
            graphs.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=graphs.pool):
            output = work(*fixed)

    def replay(inputs: Sequence[Tensor]) -> Tensor:
        with torch.cuda.device(device):
            for buffer, tensor in zip(fixed, inputs, strict=True):
                buffer.copy_(tensor)
            graph.replay()
            return output.clone()

    return result, replay
