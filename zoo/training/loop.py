"""The one training loop.

The host owns order, devices, logs, checkpoints and stopping; a method's trainer owns its losses, networks and
optimisers. Progress is counted in images seen. What happens at image n depends on the seed and on n alone, so a
stopped run resumes exactly: no state of a data loader or of a global generator is kept.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.config import TrainingConfig
from zoo.errors import ArtifactError, ConfigError
from zoo.models.artifact import MODEL_FILE, write_model
from zoo.models.run import Run
from zoo.randomness import PREVIEW, STEP, VALIDATION, Randomness, seed_for
from zoo.system.files import replacing
from zoo.training.order import Positions, Steps
from zoo.training.protocol import Examples, Trainer
from zoo.training.state import load_state, save_state

READING_WORKERS = min(8, os.cpu_count() or 1)
"""Processes that read for a GPU; a CPU reads for itself."""

_PREVIEW_IMAGES = 4


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        status: ``"finished"``, or ``"stopped"`` by time or signal; resumable.
        images_seen: Images of the whole training so far.
        reason: Why it stopped, in words; empty where it did not.
        stage: In which stage it stopped, in words; empty where there is only one.
    """

    status: str
    images_seen: int
    reason: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Status:
    """Where a training stands after a step.

    Attributes:
        images_seen, images: So far and in all.
        rate: Images per second over the last steps.
        losses: As last logged.
        stage: Which stage this is, in words; empty where there is only one.
    """

    images_seen: int
    images: int
    rate: float
    losses: Mapping[str, float]
    stage: str = ""


Report = Callable[[Status], None]


class Interrupted(BaseException):
    """A signal came inside `Stop.interrupting`; no plugin's ``except Exception`` takes it for its own."""


class Stop:
    """Whether to stop: a signal came, or the time is up. Signals end the step, not the process.

    Args:
        seconds: Time until the training stops; ``None`` for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.deadline = time.monotonic() + seconds if seconds is not None else None
        self.signal: str | None = None
        self._interrupts = False

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if self._interrupts:
            raise Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal end the block at once, for work that is done whole or not at all."""
        self._interrupts = True
        try:
            yield
        except Interrupted:
            pass
        finally:
            self._interrupts = False

    def reason(self, fabric: Fabric) -> str:
        """Return why to stop, or an empty text; all processes answer alike."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        code = 2 if self.signal else int(late)
        if fabric.world_size > 1:
            worst = fabric.all_reduce(torch.tensor(float(code), device=fabric.device), reduce_op="max")
            code = int(cast(Tensor, worst))
        return {0: "", 1: "time is up", 2: self.signal or "a signal came"}[code]


@dataclass
class _Clock:
    """Seconds by the clock and of this process' processor, counted on over restarts."""

    elapsed: float = 0.0
    processor: float = 0.0
    began: float = field(default_factory=time.monotonic)
    processor_began: float = field(default_factory=time.process_time)

    def seconds(self) -> float:
        return self.elapsed + time.monotonic() - self.began

    def processor_seconds(self) -> float:
        return self.processor + time.process_time() - self.processor_began


class TrainingLoop:
    """Trains in a run folder until the images are seen, the time is up or a signal comes.

    Args:
        run: The run folder; the first process holds its lock. Its newest whole checkpoint is resumed.
        trainer: On the new model.
        settings: How long to train, and what to leave.
        examples, validation: Of the training subjects and of the validation subjects; ``None`` where there are none.
        fabric: Launched.
        stop: Says when to stop.
        seed: Decides the order of examples, their randomness and the noise.
        manifest: Of the models that are saved.
        module: Path of `Trainer.ema` inside the whole model; its tensors are saved under their names there.
        stage: Which stage this is, in words, for ``report``.
        report: Called by the first process after each step.

    Raises:
        ArtifactError: No checkpoint can be read, the disk is full, the folder cannot be written, or a loss is not
            finite.
    """

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        settings: TrainingConfig,
        examples: Examples,
        validation: Examples | None,
        fabric: Fabric,
        stop: Stop,
        *,
        seed: int,
        manifest: Mapping[str, Any],
        module: str = "",
        stage: str = "",
        report: Report,
    ) -> None:
        self.run = run
        self.trainer = trainer
        self.settings = settings
        self.examples = examples
        self.validation = validation if validation is not None and len(validation) else None
        self.fabric = fabric
        self.stop = stop
        self.seed = seed
        self.manifest = manifest
        self.module = module
        self.stage = stage
        self.report = report
        self.first = fabric.is_global_zero
        self.best: tuple[int, float] | None = None  # images seen and score
        self.logged: dict[str, float] = {}
        self.images_seen = 0
        self.clock = _Clock()
        self._resume()
        self.saved_at = self.images_seen
        self.recent = deque([(time.monotonic(), self.images_seen)], maxlen=20)

    def train(self) -> Outcome:
        """Do all steps from where the run stands."""
        reason = ""
        for batch in self._batches():
            self.log(self.step(batch))
            if self._passes(self.settings.sample_images):
                self._draw_samples()
            reason = self.stop.reason(self.fabric)
            if reason and not self.finished:
                break
            if self._passes(self.settings.checkpoint_images):
                self.checkpoint()
        if self.saved_at != self.images_seen:
            self.checkpoint()
        self.finish()
        if self.finished:
            return Outcome("finished", self.images_seen)
        return Outcome("stopped", self.images_seen, reason, self.stage)

    @property
    def finished(self) -> bool:
        """Whether all images have been seen."""
        return self.images_seen >= self.settings.images

    def step(self, batch: dict[str, Any]) -> Mapping[str, Tensor]:
        """Do one optimisation step and return its losses.

        Raises:
            ConfigError: A loss is no tensor, or has axes.
        """
        batch = self.fabric.to_device(batch)
        seeds = [seed_for(self.seed, STEP, position) for position in batch.pop("position").tolist()]
        # Seed dropout from images_seen, so that resuming is exact.
        torch.manual_seed(seed_for(self.seed, STEP, self.images_seen, self.fabric.global_rank))
        losses = self.trainer.step(batch, Randomness(seeds, self.fabric.device))
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.dim():
                found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(f"The trainer's step returned {name!r} as {found}; return a tensor without axes.")
        self.images_seen += self.settings.batch_size
        return losses

    def log(self, losses: Mapping[str, Tensor]) -> None:
        """Write the losses to ``metrics.jsonl`` where they are due, and report the step.

        Raises:
            ArtifactError: A loss is not finite.
        """
        if self._passes(self.settings.log_images) or self.finished:
            self.logged = {name: float(value) for name, value in self._mean_over_processes(losses).items()}
            broken = [name for name, value in self.logged.items() if not np.isfinite(value)]
            if broken:
                raise ArtifactError(
                    f"{broken[0]} is {self.logged[broken[0]]} after {self.images_seen} images; the last good "
                    f"checkpoint is {self._last_checkpoint()}. Try a lower learning rate or --precision 32-true."
                )
            self._write_metrics(self.logged)
        self.recent.append((time.monotonic(), self.images_seen))
        if self.first:
            (start, images), (now, images_now) = self.recent[0], self.recent[-1]
            rate = (images_now - images) / max(now - start, 1e-9)
            self.report(Status(self.images_seen, self.settings.images, rate, self.logged, self.stage))

    def checkpoint(self) -> None:
        """Score the averaged model on validation subjects and save everything that the next step depends on."""
        if self.first:
            self._score()
            processor_seconds = self.clock.processor_seconds()
            with self.run.new_checkpoint(self.images_seen) as folder:
                save_state(
                    folder,
                    {
                        "trainer": self.trainer.state_dict(),
                        "images_seen": self.images_seen,
                        "seconds": self.clock.seconds(),
                        "processor_seconds": processor_seconds,
                        "best": self.best,
                    },
                )
                self._write_model(folder / MODEL_FILE, self.images_seen)
            best_images = self.best[0] if self.best else None
            self.run.save(
                status="training",
                images_seen=self.images_seen,
                best_images=best_images,
                processor_seconds=round(processor_seconds, 1),
            )
            self.run.drop_checkpoints(self.settings.keep_checkpoints, best_images)
        self.saved_at = self.images_seen
        self.fabric.barrier()

    def finish(self) -> None:
        """Leave a last sample sheet and the averaged model; the trainer's average becomes the one that is left."""
        if self.first:
            if not self._sheet().exists():
                self._draw_samples()
            left = self.best[0] if self.best and self.settings.final_model == "best" else self.images_seen
            if left != self.images_seen:
                weights = load_file(self.run.checkpoint(left) / MODEL_FILE)
                prefix = f"{self.module}." if self.module else ""
                self.trainer.ema.load_state_dict({name.removeprefix(prefix): value for name, value in weights.items()})
            self._write_model(self.run.folder / MODEL_FILE, left)
        self.fabric.barrier()

    # --- Details. ---

    def _batches(self) -> Iterator[dict[str, Any]]:
        on_cpu = self.fabric.device.type == "cpu"
        steps = Steps(
            self.images_seen,
            self.settings.images,
            self.settings.batch_size,
            self.fabric.global_rank,
            self.fabric.world_size,
        )
        loader = DataLoader(
            Positions(self.examples, self.seed),
            batch_sampler=steps,
            num_workers=0 if on_cpu else READING_WORKERS,
            pin_memory=not on_cpu,
        )
        return iter(loader)

    def _passes(self, every: int) -> bool:
        """Tell whether the last step passed a multiple of ``every`` images."""
        return (self.images_seen - self.settings.batch_size) // every != self.images_seen // every

    def _resume(self) -> None:
        """Load the newest whole checkpoint."""
        checkpoints = self.run.checkpoints()
        for number, folder in enumerate(reversed(checkpoints)):
            try:
                state = load_state(folder)
            except ArtifactError:
                if number == len(checkpoints) - 1:
                    raise
                continue
            self.trainer.load_state_dict(state["trainer"])
            self.images_seen = state["images_seen"]
            self.best = tuple(state["best"]) if state["best"] else None
            # Checkpoints of version 0.1.0 do not count the processor's seconds.
            self.clock = _Clock(state["seconds"], state.get("processor_seconds", 0.0))
            break
        if self.first:
            self.run.forget_after(self.images_seen)

    def _last_checkpoint(self) -> str:
        checkpoints = self.run.checkpoints()
        return str(checkpoints[-1]) if checkpoints else "none"

    def _mean_over_processes(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: cast(Tensor, self.fabric.all_reduce(value.detach().float(), reduce_op="mean"))
            for name, value in losses.items()
        }

    def _write_metrics(self, values: Mapping[str, float]) -> None:
        if self.first:
            self.run.log({"images": self.images_seen, "seconds": round(self.clock.seconds(), 3), **values})

    def _score(self) -> None:
        """Log the validation scores and remember the best checkpoint; the first score, lower is better, decides."""
        if self.validation is None:
            return
        scores = validation_scores(
            self.trainer, self.validation, self.settings.validation_images, self.seed, self.fabric
        )
        if not scores:
            return
        self._write_metrics(scores)
        score = next(iter(scores.values()))
        if np.isfinite(score) and (self.best is None or score < self.best[1]):
            self.best = (self.images_seen, score)

    def _sheet(self) -> Path:
        return self.run.folder / "samples" / f"{self.images_seen:09d}.png"

    def _draw_samples(self) -> None:
        from zoo.report.figures import sheet

        if not self.first:
            return
        batch, random = _fixed_batch(self.validation or self.examples, _PREVIEW_IMAGES, self.seed, PREVIEW, self.fabric)
        with torch.inference_mode(), _modes_kept(self.trainer.ema):
            rows = self.trainer.preview(batch, random).float().cpu().numpy()
        with replacing(self._sheet()) as temporary:
            sheet(rows.reshape(-1, *rows.shape[2:]), temporary, columns=rows.shape[1])

    def _write_model(self, path: Path, images_seen: int) -> None:
        write_model(path, self.trainer.ema, {**self.manifest, "images_seen": images_seen}, module=self.module)


def validation_scores(
    trainer: Trainer, validation: Examples, count: int, seed: int, fabric: Fabric
) -> dict[str, float]:
    """Return the mean of each score of the averaged model on ``count`` validation examples, by its logged name."""
    batch, random = _fixed_batch(validation, count, seed, VALIDATION, fabric)
    with torch.inference_mode(), _modes_kept(trainer.ema):
        scores = trainer.validate(batch, random)
    return {f"validation/{name}": float(score.mean()) for name, score in scores.items()}


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back in training or evaluation mode afterwards; the averaged model may be the trained one."""
    modes = [(module, module.training) for module in model.modules()]
    yield
    for module, training in modes:
        module.training = training


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
