"""One method trained in one run folder: its only training, or its stages in order.

RUN/
  run.json  model.safetensors  golden.safetensors      the whole model, once all stages are done
  stages/NAME/                                         a stage: a run of its own, like that of a method
    run.json  checkpoints/  model.safetensors  made/
    folds/0/                                           a fold: the same stage, with some subjects left out

What is done stands in these folders alone, so resuming is walking through the stages again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from safetensors.torch import load_file
from torch import Tensor

from zoo.descriptors import Stage, resolve
from zoo.errors import ZooError
from zoo.models.artifact import MODEL_FILE, make_manifest, write_model
from zoo.models.golden import write_golden
from zoo.models.run import Run
from zoo.randomness import STAGE, seed_for
from zoo.training.checks import check_parts, check_tasks, check_trainer, plugin_of
from zoo.training.child import (
    ChildRun,
    Session,
    build_model,
    check_batch,
    nothing_left_of_a_refused_start,
    open_child,
)
from zoo.training.folds import leave_out, shares
from zoo.training.loop import Outcome
from zoo.training.made import Making, is_made, made_by
from zoo.training.plan import Prepared, prepare, settings_of
from zoo.training.protocol import Maker
from zoo.training.source import take_over


class MethodTraining:
    """Trains a method in one run folder.

    Args:
        run: The run folder; the first process holds its lock.
        prepared: Settings and data.
        session: Shared by all trainings of the command.
        data: The cohort, from which the data of folds is prepared.
        words: Which fold of the method this is, in words; empty for the method itself.
    """

    def __init__(self, run: Run, prepared: Prepared, session: Session, data: Path | None, *, words: str = "") -> None:
        self.run = run
        self.prepared = prepared
        self.session = session
        self.data = data
        self.words = words
        self.fabric = session.fabric
        self.first = session.fabric.is_global_zero
        self.method = prepared.plan.method
        self.config = prepared.plan.config
        self.stages = self.method.stages_of(self.config)

    def train(self) -> Outcome:
        """Do what is not done yet.

        Raises:
            ConfigError: The batch cannot be shared out among the processes, or a part, a trainer, a maker or a fit is
                not as declared.
            DataError: There is nothing to train on.
            ArtifactError: The disk is full, the folder cannot be written, or no checkpoint can be read.
        """
        try:
            if self.run.record["status"] == "new":
                check_tasks(self.method)
                check_parts(self.method, self.config, self.fabric.device)
            return self._train_stages() if self.stages else self._train_alone()
        except Exception as error:
            if not isinstance(error, ZooError):
                error.add_note(f"Raised while training method {self.method.name!r} ({plugin_of(self.method)}).")
            raise

    def _train_alone(self) -> Outcome:
        """Train a method of one training in the run folder itself."""
        child = ChildRun(
            run=self.run,
            stage=Stage(name="training", trainer=self.method.trainer, examples=self.method.examples),
            prepared=self.prepared,
            examples=resolve(self.method.examples),
            weights={},
            seed=self.config.seed,
            words=self.words,
            session=self.session,
        )
        trainer, outcome = child.train()
        if self.first:
            parts = resolve(self.method.parts)(self.config)
            write_golden(self.run.folder / "golden.safetensors", trainer.ema, parts, self.config.seed)
            self.run.save(status=outcome.status, images_seen=outcome.images_seen)
        self.fabric.barrier()
        return outcome

    # --- Several stages. ---

    def _train_stages(self) -> Outcome:
        if self.run.record["status"] == "new":
            self._check_stages()
        if "from" in self.run.record:
            if self.first:
                take_over(self.run)
            self.fabric.barrier()
        images_seen = 0
        for number in range(len(self.stages)):
            outcome = self._train_stage(number)
            images_seen += outcome.images_seen
            if outcome.status != "finished":
                if self.first:
                    self.run.save(status="stopped", images_seen=images_seen)
                return Outcome("stopped", images_seen, outcome.reason, outcome.stage)
            if self.first:
                self.run.save(status="training", images_seen=images_seen)
        if self.first:
            self._finish(images_seen)
        self.fabric.barrier()
        return Outcome("finished", images_seen)

    def _check_stages(self) -> None:
        """Check all that can be checked of every stage before the first one is trained."""
        for stage in self.stages:
            for target in (stage.trainer, stage.fit, stage.examples, stage.make):
                if target:
                    resolve(target)
            config = settings_of(self.method, stage, self.config)
            shares(self.prepared.plan.split.train, stage.folds, self.config.seed)
            model = build_model(self.method, config, {}, stage)
            if stage.trainer:
                check_batch(config, self.fabric)
                trainer = resolve(stage.trainer)(config, model, self.fabric)
                check_trainer(self.method, trainer, model, stage.module)

    def _train_stage(self, number: int) -> Outcome:
        """Train a stage and its folds, and make what later stages read."""
        stage = self.stages[number]
        words = f"stage {number + 1} of {len(self.stages)} ({stage.name})"
        words = f"{self.words}, {words}" if self.words else words
        outcome = self._train_child(number, None, words)
        for fold in range(stage.folds):
            if outcome.status == "finished":
                trained = self._train_child(number, fold, f"{words}, fold {fold + 1} of {stage.folds}")
                outcome = replace(trained, images_seen=outcome.images_seen)
        if outcome.status != "finished" or not stage.make or is_made(self._folder(stage)):
            return outcome
        with self.session.bar(f"Making what later stages read ({words})") as progress:
            reason = self._making(number).make(self.fabric, self.session.stop, progress)
        if reason:
            return Outcome("stopped", outcome.images_seen, reason, f"{words}, making")
        return outcome

    def _train_child(self, number: int, fold: int | None, words: str) -> Outcome:
        """Train one stage on all training subjects, or a fold of it."""
        stage = self.stages[number]
        folder = self._folder(stage, fold)
        resumed = (folder / "run.json").is_file()
        if resumed and (done := Run.open(folder).record)["status"] == "finished":
            return Outcome("finished", done["images_seen"])
        prepared = self.prepared if fold is None else self._prepare_fold(stage, fold)
        about = {"stage": stage.name, **({} if fold is None else {"fold": fold})}
        run = open_child(folder, {**prepared.record, **about}, self.fabric)
        weights = self._weights(number, fold)
        child = ChildRun(
            run=run,
            stage=stage,
            prepared=prepared,
            examples=functools.partial(resolve(stage.examples), made=made_by(self.run, self.stages[:number])),
            weights=weights,
            seed=seed_for(self.config.seed, STAGE, number, 0 if fold is None else fold + 1),
            about=about,
            words=words,
            early=lambda: self._making(number, weights).check(self.fabric.device) if stage.make else None,
            session=self.session,
        )
        with nothing_left_of_a_refused_start(run, self.fabric, resumed=resumed):
            outcome = child.fit() if stage.fit else child.train()[1]
        if self.first:
            run.save(status=outcome.status, images_seen=outcome.images_seen)
        self.fabric.barrier()
        return outcome

    def _prepare_fold(self, stage: Stage, fold: int) -> Prepared:
        split = self.prepared.plan.split
        share = shares(split.train, stage.folds, self.config.seed)[fold]
        with self.fabric.rank_zero_first():
            return prepare(self.method, leave_out(self.config, split, share), self.data, self.session.bar)

    def _making(self, number: int, weights: Mapping[str, Tensor] | None = None) -> Making:
        """Return how a stage's items are made, with the trained models or with a new one over ``weights``."""
        stage = self.stages[number]
        config = settings_of(self.method, stage, self.config)
        made = made_by(self.run, self.stages[:number])

        def maker(fold: int | None) -> Maker:
            trained = self._weights(number + 1, fold) if weights is None else weights
            model = build_model(self.method, config, trained, stage).to(self.fabric.device).eval()
            return cast(Maker, resolve(stage.make)(config, model, self.prepared.packed, made))

        return Making(
            where=f"Maker of stage {stage.name!r} of method {self.method.name!r} ({plugin_of(self.method)})",
            folder=self._folder(stage),
            makers=maker,
            shares=shares(self.prepared.plan.split.train, stage.folds, self.config.seed),
            batch_size=config.training.batch_size,
            seed=seed_for(self.config.seed, STAGE, number),
        )

    def _finish(self, images_seen: int) -> None:
        """Leave the model with what all stages trained, and its golden file."""
        model = build_model(self.method, self.config, self._weights(len(self.stages), None))
        manifest = make_manifest(self.method, self.config, **self.prepared.about, images_seen=images_seen)
        write_model(self.run.folder / MODEL_FILE, model, manifest)
        parts = resolve(self.method.parts)(self.config)
        write_golden(self.run.folder / "golden.safetensors", model, parts, self.config.seed)
        self.run.save(status="finished", images_seen=images_seen)

    def _folder(self, stage: Stage, fold: int | None = None) -> Path:
        folder = self.run.folder / "stages" / stage.name
        return folder if fold is None else folder / "folds" / str(fold)

    def _weights(self, count: int, fold: int | None) -> dict[str, Tensor]:
        """Return what the first ``count`` stages trained, each on all training subjects or in a fold."""
        weights: dict[str, Tensor] = {}
        for stage in self.stages[:count]:
            weights |= load_file(self._folder(stage, fold) / MODEL_FILE)
        return weights
