"""The one training loop.

The host owns order, devices, logs, checkpoints and stopping; a method's trainer owns its losses, networks and
optimisers. Progress is counted in images seen. What happens at image n depends on the seed and on n alone, so a
run that was stopped goes on as if it had not been: no state of a data loader or of a global generator is kept.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.config import MethodConfig
from zoo.descriptors import Method, resolve
from zoo.errors import ArtifactError, ConfigError, DataError
from zoo.imaging.cache import PackedCohort
from zoo.models.artifact import MODEL_FILE, make_manifest, write_model
from zoo.models.golden import write_golden
from zoo.models.run import Run
from zoo.randomness import INITIAL, PREVIEW, STEP, VALIDATION, Randomness, seed_for
from zoo.system.files import replacing
from zoo.training.order import _Positions, _Steps
from zoo.training.protocol import Examples, Trainer
from zoo.training.state import load_state, save_state

READING_WORKERS = min(8, os.cpu_count() or 1)
"""Processes that read for a GPU; a CPU reads for itself."""


_PREVIEW_IMAGES = 4


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        status: ``"finished"``, or ``"stopped"`` by time or signal, to be gone on with.
        images_seen: Images of the whole training so far.
        reason: Why it stopped, in words.
    """

    status: str
    images_seen: int
    reason: str


Report = Callable[[int, float, Mapping[str, float]], None]


class _Stop:
    """Whether to stop: a signal came, or the time is up. Signals end the step, not the process."""

    def __init__(self, seconds: float | None) -> None:
        self.deadline = time.monotonic() + seconds if seconds is not None else None
        self.signal: str | None = None

    def __enter__(self) -> _Stop:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    def reason(self, fabric: Fabric) -> str:
        """Return why to stop, or an empty text; all processes answer alike."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        code = 2 if self.signal else int(late)
        if fabric.world_size > 1:
            worst = fabric.all_reduce(torch.tensor(float(code), device=fabric.device), reduce_op="max")
            code = int(cast(Tensor, worst))
        return {0: "", 1: "time is up", 2: self.signal or "a signal came"}[code]


def train(
    run: Run,
    method: Method,
    config: MethodConfig,
    cohort: PackedCohort,
    fabric: Fabric,
    *,
    seconds: float | None = None,
    about: Mapping[str, Any],
    report: Report,
) -> Outcome:
    """Train until the images are seen, the time is up or a signal comes; go on where the run folder stands.

    Args:
        run: The run folder; the first process holds its lock.
        method, config: What to train, and how.
        cohort: Packed scans of the training and the validation subjects; the run's record says which is which.
        fabric: Launched.
        seconds: Stop after this time; the same command goes on from there.
        about: What the model's manifest says besides.
        report: Called by the first process after each step with images seen, images/s and losses.

    Raises:
        ConfigError: The batch cannot be shared out among the processes.
        DataError: There is nothing to train on.
        ArtifactError: The disk is full, the folder cannot be written, or no checkpoint can be read.
    """
    batch_size, world = config.training.batch_size, fabric.world_size
    if batch_size % world:
        raise ConfigError(
            f"training.batch_size {batch_size} cannot be shared by {world} processes; make it a multiple."
        )
    kind: type[Examples] = resolve(method.examples)
    examples = kind(config, cohort.subset(run.record["split"]["train"]))
    if not len(examples):
        raise DataError("No slice of the training subjects can be used; zoo data check shows what each subject has.")
    held_out = cohort.subset(run.record["split"]["validation"])
    validation = kind(config, held_out) if held_out.scans else None

    torch.manual_seed(seed_for(config.seed, INITIAL))
    model: nn.Module = resolve(method.build)(config)
    trainer: Trainer = resolve(method.trainer)(config, model, fabric)
    images_seen, elapsed, processor_seconds, best = _resume(run, trainer, fabric)
    manifest = make_manifest(method, config, **about)
    positions = _Positions(examples, config.seed)
    steps = _Steps(images_seen, config.training.images, batch_size, fabric.global_rank, world)
    loader = DataLoader(
        positions,
        batch_sampler=steps,
        num_workers=0 if fabric.device.type == "cpu" else READING_WORKERS,
        pin_memory=fabric.device.type != "cpu",
    )
    first = fabric.is_global_zero
    began = time.monotonic() - elapsed
    processor_began = time.process_time() - processor_seconds
    recent: deque[tuple[float, int]] = deque([(time.monotonic(), images_seen)], maxlen=20)
    reason = ""
    last_saved = images_seen
    logged: dict[str, float] = {}

    def save() -> None:
        nonlocal best, last_saved
        scores = _validate(trainer, validation, config, fabric)
        if first:
            if scores:
                run.log({"images": images_seen, "seconds": round(time.monotonic() - began, 3), **scores})
                score = next(iter(scores.values()))
                if best is None or score < best[1]:
                    best = (images_seen, score)
            spent = (time.monotonic() - began, time.process_time() - processor_began)
            _save_checkpoint(run, trainer, manifest, images_seen, spent, best)
            run.drop_checkpoints(config.training.keep_checkpoints, best[0] if best else None)
        last_saved = images_seen
        fabric.barrier()

    with _Stop(seconds) as stop:
        for batch in loader:
            batch = fabric.to_device(batch)
            seeds = [seed_for(config.seed, STEP, position) for position in batch.pop("position").tolist()]
            # Whatever a network draws by itself (dropout) is decided by where the run stands, too.
            torch.manual_seed(seed_for(config.seed, STEP, images_seen, fabric.global_rank))
            losses = trainer.step(batch, Randomness(seeds, fabric.device))
            before, images_seen = images_seen, images_seen + batch_size

            if _crosses(before, images_seen, config.training.log_images) or images_seen >= config.training.images:
                logged = {name: float(value) for name, value in _mean_over_processes(losses, fabric).items()}
                broken = [name for name, value in logged.items() if not np.isfinite(value)]
                if broken:
                    raise ArtifactError(
                        f"{broken[0]} is {logged[broken[0]]} after {images_seen} images; the last good checkpoint is "
                        f"{_last(run)}. Try a lower learning rate or --precision 32-true."
                    )
                if first:
                    run.log({"images": images_seen, "seconds": round(time.monotonic() - began, 3), **logged})
            recent.append((time.monotonic(), images_seen))
            if first:
                span = recent[-1][0] - recent[0][0]
                report(images_seen, (recent[-1][1] - recent[0][1]) / max(span, 1e-9), logged)
            if first and _crosses(before, images_seen, config.training.sample_images):
                _draw_samples(run, trainer, validation or examples, config, images_seen, fabric)
            reason = stop.reason(fabric)
            if reason and images_seen < config.training.images:
                break
            if _crosses(before, images_seen, config.training.checkpoint_images):
                save()
        if last_saved != images_seen:
            save()

    finished = images_seen >= config.training.images
    if first:
        left = best[0] if best and config.training.final_model == "best" else images_seen
        _finish(run, method, config, trainer, validation or examples, manifest, images_seen, left, finished, fabric)
    fabric.barrier()
    return Outcome("finished" if finished else "stopped", images_seen, "" if finished else reason)


def _crosses(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _last(run: Run) -> str:
    checkpoints = run.checkpoints()
    return str(checkpoints[-1]) if checkpoints else "none"


def _mean_over_processes(losses: Mapping[str, Tensor], fabric: Fabric) -> dict[str, Tensor]:
    return {
        name: cast(Tensor, fabric.all_reduce(value.detach().float(), reduce_op="mean"))
        for name, value in losses.items()
    }


def _resume(run: Run, trainer: Trainer, fabric: Fabric) -> tuple[int, float, float, tuple[int, float] | None]:
    """Load the newest whole checkpoint.

    Returns:
        Images seen, seconds and processor seconds used, and the best checkpoint with its score.
    """
    checkpoints = run.checkpoints()
    for number, folder in enumerate(reversed(checkpoints)):
        try:
            state = load_state(folder)
        except ArtifactError:
            if number == len(checkpoints) - 1:
                raise
            continue
        trainer.load_state_dict(state["trainer"])
        if fabric.is_global_zero:
            run.forget_after(state["images_seen"])
        best = tuple(state["best"]) if state["best"] else None
        # Checkpoints of version 0.1.0 do not count the processor's seconds.
        return state["images_seen"], state["seconds"], state.get("processor_seconds", 0.0), best
    if fabric.is_global_zero:
        run.forget_after(0)
    return 0, 0.0, 0.0, None


def _save_checkpoint(
    run: Run,
    trainer: Trainer,
    manifest: Mapping[str, Any],
    images_seen: int,
    spent: tuple[float, float],
    best: tuple[int, float] | None,
) -> None:
    """Save a checkpoint after ``spent`` seconds by the clock and of the first process' processor."""
    seconds, processor_seconds = spent
    with run.new_checkpoint(images_seen) as folder:
        state = {
            "trainer": trainer.state_dict(),
            "images_seen": images_seen,
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "best": best,
        }
        save_state(folder, state)
        write_model(folder / MODEL_FILE, trainer.average, {**manifest, "images_seen": images_seen})
    run.save(
        status="training",
        images_seen=images_seen,
        best_images=best[0] if best else None,
        processor_seconds=round(processor_seconds, 1),
    )


def _fixed_batch(
    examples: Examples, count: int, seed: int, purpose: int, fabric: Fabric
) -> tuple[dict[str, Tensor], Randomness]:
    """Return the same ``count`` examples, spread over the data, and the same random numbers each time."""
    indices = np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)
    rows = [
        examples.example(int(index), np.random.default_rng(seed_for(seed, purpose, number)))
        for number, index in enumerate(indices)
    ]
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}
    seeds = [seed_for(seed, purpose, number, 1) for number in range(len(rows))]
    return fabric.to_device(batch), Randomness(seeds, fabric.device)


def _validate(trainer: Trainer, validation: Examples | None, config: MethodConfig, fabric: Fabric) -> dict[str, float]:
    """Return the mean scores on validation subjects, by the first process alone; empty where there are none."""
    if validation is None or not len(validation) or not fabric.is_global_zero:
        return {}
    batch, random = _fixed_batch(validation, config.training.validation_images, config.seed, VALIDATION, fabric)
    with torch.inference_mode():
        scores = trainer.validate(batch, random)
    return {f"validation/{name}": float(score.mean()) for name, score in scores.items()}


def _draw_samples(
    run: Run, trainer: Trainer, examples: Examples, config: MethodConfig, images_seen: int, fabric: Fabric
) -> None:
    from zoo.report.figures import sheet

    batch, random = _fixed_batch(examples, _PREVIEW_IMAGES, config.seed, PREVIEW, fabric)
    with torch.inference_mode():
        rows = trainer.preview(batch, random).float().cpu().numpy()
    with replacing(run.folder / "samples" / f"{images_seen:09d}.png") as temporary:
        sheet(rows.reshape(-1, *rows.shape[2:]), temporary, columns=rows.shape[1])


def _finish(
    run: Run,
    method: Method,
    config: MethodConfig,
    trainer: Trainer,
    examples: Examples,
    manifest: Mapping[str, Any],
    images_seen: int,
    left: int,
    finished: bool,
    fabric: Fabric,
) -> None:
    """Leave a last sample sheet, the averaged model after ``left`` images, and its golden file."""
    if not (run.folder / "samples" / f"{images_seen:09d}.png").exists():
        _draw_samples(run, trainer, examples, config, images_seen, fabric)
    if left != images_seen:
        trainer.average.load_state_dict(load_file(run.checkpoint(left) / MODEL_FILE))
    write_model(run.folder / MODEL_FILE, trainer.average, {**manifest, "images_seen": left})
    write_golden(run.folder / "golden.safetensors", trainer.average, resolve(method.parts)(config), config.seed)
    run.save(status="finished" if finished else "stopped", images_seen=images_seen)
