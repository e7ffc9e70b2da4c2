"""CUDA graphs: when work is recorded, that a sampler can be, and that without a GPU nothing changes."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.randomness import Randomness
from zoo.system import cuda_graph
from zoo.system.cuda_graph import can_record, device_of, replayed
from zoo_lesion_diffusion import tasks
from zoo_lesion_diffusion.config import FillingConfig, FillingOptions, SamplingConfig
from zoo_lesion_diffusion.schedule import _scale_tables
from zoo_lesion_diffusion.solve import Problem


class _Part:
    """A part that says it runs on a GPU."""

    device = torch.device("cuda")
    capturable = True

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, *_: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Stand in for the recording: what is replayed is computed anew, in fixed buffers. Returns the shapes recorded."""
    shapes: list[tuple[int, ...]] = []

    def record(
        graphs: Any, device: torch.device, work: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> tuple[Tensor, Callable[[Sequence[Tensor]], Tensor]]:
        shapes.append(tuple(inputs[0].shape))
        fixed = [tensor.clone() for tensor in inputs]

        def replay(inputs: Sequence[Tensor]) -> Tensor:
            for buffer, tensor in zip(fixed, inputs, strict=True):
                buffer.copy_(tensor)
            return -2 * fixed[0]  # not what the work gives, to tell the two apart

        return work(*inputs), replay

    monkeypatch.setattr(cuda_graph, "_record", record)
    return shapes


def test_a_callable_that_does_not_say_runs_on_the_cpu_and_is_called_each_time() -> None:
    calls: list[int] = []

    def part(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    assert device_of(part) == torch.device("cpu")
    assert not can_record(part)
    for number in range(4):
        assert replayed(part, "part", part, torch.full((1,), float(number))).item() == 2 * number
    assert len(calls) == 4


def test_work_is_done_then_recorded_then_replayed_for_each_key_and_shape(recorder: list[tuple[int, ...]]) -> None:
    part = _Part()
    signs = [replayed(part, "a", part, torch.ones(2)).sign()[0].item() for _ in range(4)]
    assert signs == [1, 1, -1, -1]
    assert part.calls == 2
    assert replayed(part, "a", part, torch.ones(3))[0] > 0
    assert replayed(part, "b", part, torch.ones(2))[0] > 0
    assert replayed(part, "a", part, torch.full((2,), 5.0)).tolist() == [-10, -10]
    assert recorder == [(2,)]


def test_graphs_go_with_their_part(recorder: list[tuple[int, ...]]) -> None:
    part = _Part()
    for _ in range(3):
        replayed(part, "a", part, torch.ones(2))
    gone = weakref.ref(part)
    before = len(cuda_graph._graphs_of)
    del part
    gc.collect()
    assert gone() is None
    assert len(cuda_graph._graphs_of) == before - 1


def test_work_that_cannot_be_recorded_is_done_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "_record", refuse)
    part = _Part()
    replayed(part, "a", part, torch.ones(2))
    with pytest.warns(RuntimeWarning, match="No CUDA graph could be recorded.*not permitted"):
        assert replayed(part, "a", part, torch.ones(2)).tolist() == [2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replayed(part, "a", part, torch.ones(2)).tolist() == [2, 2]
    assert part.calls == 3


# --- The sampler. ---

CONFIG = FillingConfig(size=(16, 16))
SOLVERS = ("ddpm", "ddim", "dpm-solver++")


def _windows(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return context, mask and noise of two windows; numbers only on a CPU."""
    known, mask, noise = (torch.empty(2, channels, 16, 16, device=device) for channels in (3, 3, 1))
    if device == "cpu":
        generator = torch.Generator().manual_seed(1)
        known.uniform_(-1, 1, generator=generator)
        noise.normal_(generator=generator)
        mask.zero_()[..., 4:9, 5:11] = 1
    return known, mask, noise


def _denoiser(noisy: Tensor, context: Tensor, mask: Tensor, timestep: Tensor) -> Tensor:
    return 0.3 * noisy + context[:, 1:2] * (timestep / 1000).view(-1, 1, 1, 1)


class _OnTheHost(TorchDispatchMode):
    """Notes every operation that reads or writes memory of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = torch.utils._pytree.tree_leaves((args, kwargs, result))
        if any(isinstance(tensor, Tensor) and tensor.device.type == "cpu" for tensor in tensors):
            self.seen.append(str(operation))
        return result


class _Noise:
    """Random numbers as a GPU has them when they are drawn beforehand."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.empty(2, *shape, device="cuda")


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    _scale_tables.cache_clear()
    yield
    _scale_tables.cache_clear()


@pytest.mark.parametrize("keep_known", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_steps_ask_nothing_of_the_host(solver: str, keep_known: bool, fresh_tables: None) -> None:
    """Tensors of a pretended GPU have no values: a step that asks for one, or copies from the CPU, is found out."""
    diffusion = CONFIG.diffusion.model_copy(update={"keep_known": keep_known})
    config = CONFIG.model_copy(update={"diffusion": diffusion})
    sampling = SamplingConfig(solver=solver, steps=5)  # type: ignore[arg-type]
    with FakeTensorMode():
        known, mask, noise = _windows("cuda")
        for first in (True, False):
            with _OnTheHost() as host:
                filled = tasks.sample_windows(_denoiser, Problem(config, sampling, known, mask), noise, _Noise())  # type: ignore[arg-type]
            assert filled.device.type == "cuda"
            # Once, the schedule's tables go to the GPU; that is before anything is recorded.
            assert bool(host.seen) == first, host.seen


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fill_with_noise_drawn_beforehand_is_the_same(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known, mask, noise = _windows("cpu")
    sampling = SamplingConfig(solver=solver, steps=5)  # type: ignore[arg-type]

    def fill(reports: list[tuple[int, int]]) -> Tensor:
        random = Randomness([1, 2])
        problem = Problem(CONFIG, sampling, known, mask)
        return tasks.sample_windows(_denoiser, problem, noise, random, lambda *done: reports.append(done))

    each, once = [], []
    step_by_step = fill(each)
    monkeypatch.setattr(tasks, "can_record", lambda part: True)
    assert torch.equal(fill(once), step_by_step)
    assert each == [(step, 5) for step in range(1, 6)]
    assert once == [(5, 5)]


def test_a_fill_sends_no_more_windows_than_its_part_takes() -> None:
    class Denoiser:
        def __init__(self, largest_batch: int) -> None:
            self.largest_batch = largest_batch
            self.batches: list[int] = []

        def __call__(self, *inputs: Tensor) -> Tensor:
            self.batches.append(len(inputs[0]))
            return _denoiser(*inputs)

    image = torch.rand(1, 40, 40, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    lesions = torch.zeros(40, 40, 12, dtype=torch.bool)
    lesions[5:9, 5:9, 3:6] = lesions[30:33, 30:33, 8] = True
    engine, torch_part = Denoiser(3), Denoiser(99)
    filled = [tasks.fill({"denoiser": part}, CONFIG, image, lesions, FillingOptions()) for part in (engine, torch_part)]
    assert torch.equal(*filled)
    assert (engine.batches, torch_part.batches) == ([3, 1], [4])


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_replayed_fill_is_the_fill(solver: str) -> None:
    class Denoiser:
        device = torch.device("cuda", 0)

        def __init__(self, capturable: bool) -> None:
            self.capturable = capturable
            torch.manual_seed(0)
            self.mix = torch.nn.Conv2d(7, 1, 3, padding=1).cuda().eval()

        @torch.inference_mode()
        def __call__(self, noisy: Tensor, context: Tensor, mask: Tensor, timestep: Tensor) -> Tensor:
            return self.mix(torch.cat([noisy, context, mask], dim=1)) * (timestep / 1000).view(-1, 1, 1, 1)

    eager, graphed = Denoiser(False), Denoiser(True)
    sampling = SamplingConfig(solver=solver, steps=8)  # type: ignore[arg-type]
    for number in range(5):
        known, mask, noise = (tensor.cuda() for tensor in _windows("cpu"))
        noise = noise + 0.1 * number
        results = [
            tasks.sample_windows(part, Problem(CONFIG, sampling, known, mask), noise, Randomness([number, 7]))
            for part in (eager, graphed)
        ]
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    (graphs,) = [graphs for part, graphs in cuda_graph._graphs_of.items() if part is graphed]
    assert [replay is not None for replay in graphs.replays.values()] == [True]
