"""One training or one fit in a run folder: a method's only one, a stage, or a fold of a stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.config import MethodConfig
from zoo.descriptors import Method, Stage, resolve
from zoo.errors import ArtifactError, ConfigError, DataError
from zoo.models.artifact import MODEL_FILE, make_manifest, write_model
from zoo.models.run import Run
from zoo.progress import Bar
from zoo.randomness import FIT, INITIAL, seed_for
from zoo.training.checks import check_fit, check_trainer
from zoo.training.loop import Outcome, Report, Stop, TrainingLoop, validation_scores
from zoo.training.plan import Prepared, settings_of
from zoo.training.protocol import Examples, Trainer

_EARLY_IMAGES = 2
"""Validation images that are scored before the first step, to see that they can be."""


@dataclass(frozen=True)
class Session:
    """What all trainings of one command share.

    Attributes:
        fabric: Launched.
        stop: Says when to stop.
        bar: Makes progress bars.
        report: Called after each step.
    """

    fabric: Fabric
    stop: Stop
    bar: Bar
    report: Report


@dataclass(frozen=True, kw_only=True)
class ChildRun:
    """A training or a fit in its run folder.

    Attributes:
        run: Its folder.
        stage: What is trained or fitted.
        prepared: Settings and data; of a fold its own.
        examples: ``(config, cohort) -> Examples``.
        weights: What earlier stages trained.
        seed: Decides the order of examples and all noise.
        about: Which stage and fold this is, for the manifest.
        words: The same in words; empty for a method's only training.
        early: A further check before the first step.
        session: Shared by all trainings of the command.
    """

    run: Run
    stage: Stage
    prepared: Prepared
    examples: Callable[..., Examples]
    weights: Mapping[str, Tensor]
    seed: int
    about: Mapping[str, Any] = field(default_factory=dict)
    words: str
    early: Callable[[], None] = lambda: None
    session: Session

    @property
    def method(self) -> Method:
        """The method that the stage belongs to."""
        return self.prepared.plan.method

    @property
    def config(self) -> MethodConfig:
        """The settings as the stage sees them."""
        return settings_of(self.method, self.stage, self.prepared.plan.config)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the header of its models says."""
        return make_manifest(self.method, self.prepared.plan.config, **self.prepared.about, **self.about)

    def train(self) -> tuple[Trainer, Outcome]:
        """Run the loop; a new run is checked before its first step."""
        config, fabric, new = self.config, self.session.fabric, self.run.record["status"] == "new"
        check_batch(config, fabric)
        examples, validation = self._examples(config)
        if new:
            self.early()
        model = build_model(self.method, config, self.weights, self.stage)
        trainer: Trainer = resolve(self.stage.trainer)(config, model, fabric)
        if new:
            check_trainer(self.method, trainer, model, self.stage.module)
            if validation is not None and fabric.is_global_zero:
                validation_scores(trainer, validation, _EARLY_IMAGES, self.seed, fabric)
        loop = TrainingLoop(
            self.run, trainer, config.training, examples, validation, fabric, self.session.stop,
            seed=self.seed, manifest=self.manifest, module=self.stage.module, stage=self.words,
            report=self.session.report,
        )  # fmt: skip
        return trainer, loop.train()

    def fit(self) -> Outcome:
        """Fill buffers of the model, whole or not at all; the first process works, the others wait.

        Raises:
            ConfigError: The fit changed a shape, left a number that is not finite, or changed what is not the stage's.
        """
        config, fabric, stop = self.config, self.session.fabric, self.session.stop
        examples, _ = self._examples(config)
        file = self.run.folder / MODEL_FILE
        if fabric.is_global_zero:
            model = build_model(self.method, config, self.weights, self.stage).to(fabric.device).eval()
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            seed = seed_for(self.seed, FIT)
            torch.manual_seed(seed)
            with self.session.bar(f"Fitting ({self.words})"), stop.interrupting(), torch.no_grad():
                resolve(self.stage.fit)(config, model, examples, np.random.default_rng(seed))
                check_fit(self.method, self.stage, before, model.state_dict())
                module = self.stage.module
                write_model(file, model.get_submodule(module), self.manifest, module=module)
        reason = stop.reason(fabric)
        return Outcome("finished", 0) if file.is_file() else Outcome("stopped", 0, reason, self.words)

    def _examples(self, config: MethodConfig) -> tuple[Examples, Examples | None]:
        """Return the examples of the training and of the validation subjects."""
        split = self.prepared.plan.split
        examples = self.examples(config, self.prepared.packed.subset(split.train))
        if not len(examples):
            raise DataError(
                "No slice of the training subjects can be used; zoo data check shows what each subject has."
            )
        if reason := getattr(examples, "unfit", ""):
            raise DataError(reason)
        held_out = self.prepared.packed.subset(split.validation)
        return examples, self.examples(config, held_out) if held_out.scans else None


def check_batch(config: MethodConfig, fabric: Fabric) -> None:
    """Refuse a batch that the processes cannot share."""
    batch_size, world = config.training.batch_size, fabric.world_size
    if batch_size % world:
        raise ConfigError(
            f"training.batch_size {batch_size} cannot be shared by {world} processes; make it a multiple."
        )


def build_model(
    method: Method, config: MethodConfig, weights: Mapping[str, Tensor], stage: Stage | None = None
) -> nn.Module:
    """Return the seeded new model with ``weights`` over its own, frozen except for what a stage trains.

    Raises:
        ArtifactError: The weights do not fit the model.
        ConfigError: The model does not have the stage's module.
    """
    torch.manual_seed(seed_for(config.seed, INITIAL))
    model: nn.Module = resolve(method.build)(config)
    own = model.state_dict()
    unfit = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
    if unfit:
        raise ArtifactError(f"A stage of the run holds a tensor {unfit[0]!r} that does not fit the model.")
    model.load_state_dict(weights, strict=False)
    if stage is None or not stage.module:
        return model
    try:
        trained = model.get_submodule(stage.module)
    except AttributeError:
        raise ConfigError(
            f"Stage {stage.name!r} of method {method.name!r} trains the module {stage.module!r}, which the built model "
            "does not have."
        ) from None
    model.eval()
    trained.train()
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{stage.module}."):
            parameter.requires_grad_(False)
    return model


def open_child(folder: Path, record: Mapping[str, Any], fabric: Fabric) -> Run:
    """Open the run of a stage or of a fold, or make it in the first process."""
    if fabric.is_global_zero:
        if (folder / "run.json").is_file():
            Run.open(folder).check_same(record)
        else:
            Run.create(folder, record)
    fabric.barrier()
    return Run.open(folder)


@contextmanager
def nothing_left_of_a_refused_start(run: Run, fabric: Fabric, *, resumed: bool) -> Iterator[None]:
    """Remove the folder of a run that fails before it has a checkpoint or a stage."""
    try:
        yield
    except Exception:
        done = [*run.checkpoints(), *run.folder.glob("stages/*"), *run.folder.glob("folds/*")]
        if fabric.is_global_zero and not resumed and not done:
            shutil.rmtree(run.folder)
        raise
