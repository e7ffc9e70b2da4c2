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
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.config import MethodConfig, differences
from zoo.descriptors import Method, Stage, resolve
from zoo.errors import ArtifactError, ConfigError, DataError, UnknownNameError, did_you_mean
from zoo.models.artifact import MODEL_FILE, make_manifest, write_model
from zoo.models.golden import write_golden
from zoo.models.run import Run
from zoo.progress import Bar
from zoo.randomness import FIT, INITIAL, STAGE, seed_for
from zoo.system.files import replacing
from zoo.training.checks import check_parts, check_trainer, plugin_of
from zoo.training.folds import leave_out, shares
from zoo.training.loop import Outcome, Report, Stop, TrainingLoop, validation_scores
from zoo.training.made import Making, is_made, made_by
from zoo.training.plan import Prepared, prepare, settings_of
from zoo.training.protocol import Examples, Maker, Trainer

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


@contextmanager
def nothing_left_of_a_refused_start(run: Run, fabric: Fabric, *, begun: bool) -> Iterator[None]:
    """Remove the folder of a run that fails before it has a checkpoint or a stage."""
    try:
        yield
    except Exception:
        done = [*run.checkpoints(), *run.folder.glob("stages/*"), *run.folder.glob("folds/*")]
        if fabric.is_global_zero and not begun and not done:
            shutil.rmtree(run.folder)
        raise


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
        if self.run.record["status"] == "new":
            check_parts(self.method, self.config, self.fabric.device)
        return self._train_stages() if self.stages else self._train_alone()

    def _train_alone(self) -> Outcome:
        """Train a method of one training in the run folder itself."""
        stage = Stage(name="training", trainer=self.method.trainer, examples=self.method.examples)
        kind = resolve(stage.examples)
        trainer, outcome = self._loop(
            self.run, stage, self.prepared, kind, base={}, seed=self.config.seed, about={}, words=self.words
        )
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
            self._take_over()
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
        for number, stage in enumerate(self.stages):
            for target in (stage.trainer, stage.fit, stage.examples, stage.make):
                if target:
                    resolve(target)
            config = settings_of(self.method, stage, self.config)
            shares(self.prepared.plan.split.train, stage.folds, self.config.seed)
            model = self._model(number, config, {})
            if stage.trainer:
                self._check_batch(config)
                trainer: Trainer = resolve(stage.trainer)(config, model, self.fabric)
                check_trainer(self.method, trainer, model, stage.module)

    def _take_over(self) -> None:
        """Copy the stages that another run has done; large files are linked, and nothing of it is changed."""
        source = Path(self.run.record["from"]["run"])
        names = [stage.name for stage in self.stages]
        for stage in self.stages[: names.index(self.run.record["from"]["stage"])]:
            folder = self._folder(stage)
            if self.first and not (folder / "run.json").is_file():
                with replacing(folder) as temporary:
                    shutil.copytree(
                        source / "stages" / stage.name,
                        temporary,
                        ignore=shutil.ignore_patterns("checkpoints", "making", ".part-*", ".lock"),
                        copy_function=_link_or_copy,
                    )
        self.fabric.barrier()

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
        config = settings_of(self.method, stage, self.config)

        def model_of(fold: int | None) -> nn.Module:
            return self._model(number, config, self._weights(number + 1, fold))

        making = self._making(number, config, model_of)
        with self.session.bar(f"Making what later stages read ({words})") as progress:
            reason = making.make(self.fabric, self.session.stop, progress)
        if reason:
            return Outcome("stopped", outcome.images_seen, reason, f"{words}, making")
        return outcome

    def _train_child(self, number: int, fold: int | None, words: str) -> Outcome:
        """Train one stage on all training subjects, or a fold of it."""
        stage = self.stages[number]
        folder = self._folder(stage, fold)
        if (folder / "run.json").is_file():
            child = Run.open(folder)
            if child.record["status"] == "finished":
                return Outcome("finished", child.record["images_seen"])
        prepared = self.prepared if fold is None else self._prepare_fold(stage, fold)
        about = {"stage": stage.name, **({} if fold is None else {"fold": fold})}
        begun = (folder / "run.json").is_file()
        child = open_child(folder, {**prepared.record, **about}, self.fabric)
        with nothing_left_of_a_refused_start(child, self.fabric, begun=begun):
            seed = seed_for(self.config.seed, STAGE, number, 0 if fold is None else fold + 1)
            examples = functools.partial(resolve(stage.examples), made=made_by(self.run, self.stages[:number]))
            base = self._weights(number, fold)
            if stage.fit:
                outcome = self._fit(child, number, prepared, examples, base=base, seed=seed, about=about, words=words)
            else:
                _, outcome = self._loop(
                    child, stage, prepared, examples, base=base, seed=seed, about=about, words=words, number=number
                )
        if self.first:
            child.save(status=outcome.status, images_seen=outcome.images_seen)
        self.fabric.barrier()
        return outcome

    def _prepare_fold(self, stage: Stage, fold: int) -> Prepared:
        split = self.prepared.plan.split
        share = shares(split.train, stage.folds, self.config.seed)[fold]
        with self.fabric.rank_zero_first():
            return prepare(self.method, leave_out(self.config, split, share), self.data, self.session.bar)

    def _finish(self, images_seen: int) -> None:
        """Leave the model with what all stages trained, and its golden file."""
        model = self._model(len(self.stages), self.config, self._weights(len(self.stages), None))
        manifest = make_manifest(self.method, self.config, **self.prepared.about, images_seen=images_seen)
        write_model(self.run.folder / MODEL_FILE, model, manifest)
        parts = resolve(self.method.parts)(self.config)
        write_golden(self.run.folder / "golden.safetensors", model, parts, self.config.seed)
        self.run.save(status="finished", images_seen=images_seen)

    # --- One training, one fit. ---

    def _loop(
        self,
        run: Run,
        stage: Stage,
        prepared: Prepared,
        kind: Callable[..., Examples],
        *,
        base: Mapping[str, Tensor],
        seed: int,
        about: Mapping[str, Any],
        words: str,
        number: int = 0,
    ) -> tuple[Trainer, Outcome]:
        """Run the loop in ``run``, on a model that starts from the weights ``base``."""
        config = settings_of(self.method, stage, prepared.plan.config)
        self._check_batch(config)
        examples, validation = self._examples(kind, config, prepared)
        if run.record["status"] == "new" and stage.make:
            self._making(number, config, lambda _: self._model(number, config, base)).check(self.fabric.device)
        model = self._model(number, config, base)
        trainer: Trainer = resolve(stage.trainer)(config, model, self.fabric)
        if run.record["status"] == "new":
            check_trainer(self.method, trainer, model, stage.module)
            if validation is not None and self.first:
                validation_scores(trainer, validation, _EARLY_IMAGES, seed, self.fabric)
        manifest = make_manifest(self.method, prepared.plan.config, **prepared.about, **about)
        loop = TrainingLoop(
            run, trainer, config.training, examples, validation, self.fabric, self.session.stop,
            seed=seed, manifest=manifest, module=stage.module, stage=words, report=self.session.report,
        )  # fmt: skip
        return trainer, loop.train()

    def _fit(
        self,
        run: Run,
        number: int,
        prepared: Prepared,
        kind: Callable[..., Examples],
        *,
        base: Mapping[str, Tensor],
        seed: int,
        about: Mapping[str, Any],
        words: str,
    ) -> Outcome:
        """Fill buffers of the model, whole or not at all; the first process works, the others wait.

        Raises:
            ConfigError: The fit changed a shape, left a number that is not finite, or changed what is not the stage's.
        """
        stage = self.stages[number]
        config = settings_of(self.method, stage, prepared.plan.config)
        examples, _ = self._examples(kind, config, prepared)
        if self.first:
            model = self._model(number, config, base).to(self.fabric.device).eval()
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            torch.manual_seed(seed_for(seed, FIT))
            with self.session.bar(f"Fitting ({words})"), self.session.stop.interrupting(), torch.no_grad():
                resolve(stage.fit)(config, model, examples, np.random.default_rng(seed_for(seed, FIT)))
                self._check_fit(stage, before, model.state_dict())
                manifest = make_manifest(self.method, prepared.plan.config, **prepared.about, **about)
                write_model(run.folder / MODEL_FILE, model.get_submodule(stage.module), manifest, module=stage.module)
        reason = self.session.stop.reason(self.fabric)
        fitted = (run.folder / MODEL_FILE).is_file()
        return Outcome("finished", 0) if fitted else Outcome("stopped", 0, reason, words)

    def _check_fit(self, stage: Stage, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        where = f"Fit {stage.name!r} of method {self.method.name!r} ({plugin_of(self.method)})"
        for name, tensor in after.items():
            if name not in before or tensor.shape != before[name].shape:
                was = list(before[name].shape) if name in before else "missing"
                raise ConfigError(
                    f"{where}: buffer {name!r} is {list(tensor.shape)}, but {was} in a new model; its shape must "
                    "follow from the settings."
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ConfigError(f"{where}: buffer {name!r} holds a number that is not finite.")
            inside = not stage.module or name.startswith(f"{stage.module}.")
            if not inside and not torch.equal(tensor, before[name]):
                raise ConfigError(f"{where} changed {name!r}, which is not in its module {stage.module!r}.")

    # --- What trainings are made of. ---

    def _check_batch(self, config: MethodConfig) -> None:
        batch_size, world = config.training.batch_size, self.fabric.world_size
        if batch_size % world:
            raise ConfigError(
                f"training.batch_size {batch_size} cannot be shared by {world} processes; make it a multiple."
            )

    def _examples(
        self, kind: Callable[..., Examples], config: MethodConfig, prepared: Prepared
    ) -> tuple[Examples, Examples | None]:
        """Return the examples of the training and of the validation subjects."""
        split = prepared.plan.split
        examples = kind(config, prepared.packed.subset(split.train))
        if not len(examples):
            raise DataError(
                "No slice of the training subjects can be used; zoo data check shows what each subject has."
            )
        held_out = prepared.packed.subset(split.validation)
        return examples, kind(config, held_out) if held_out.scans else None

    def _model(self, number: int, config: MethodConfig, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the new model with ``weights`` over the seeded ones, frozen but for what stage ``number`` trains."""
        torch.manual_seed(seed_for(config.seed, INITIAL))
        model: nn.Module = resolve(self.method.build)(config)
        own = model.state_dict()
        unfit = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
        if unfit:
            raise ArtifactError(f"A stage of {self.run.folder} holds a {unfit[0]!r} that does not fit the model.")
        model.load_state_dict(weights, strict=False)
        module = self.stages[number].module if number < len(self.stages) else ""
        if module:
            try:
                trained = model.get_submodule(module)
            except AttributeError:
                raise ConfigError(
                    f"Stage {self.stages[number].name!r} of method {self.method.name!r} trains the module {module!r}, "
                    "which the built model does not have."
                ) from None
            model.eval()
            trained.train()
            for name, parameter in model.named_parameters():
                if not name.startswith(f"{module}."):
                    parameter.requires_grad_(False)
        return model

    def _making(self, number: int, config: MethodConfig, models: Callable[[int | None], nn.Module]) -> Making:
        stage = self.stages[number]
        kind: type[Maker] = resolve(stage.make)
        cohort, made = self.prepared.packed, made_by(self.run, self.stages[:number])
        return Making(
            where=f"Maker of stage {stage.name!r} of method {self.method.name!r} ({plugin_of(self.method)})",
            folder=self._folder(stage),
            makers=lambda fold: kind(config, models(fold).to(self.fabric.device).eval(), cohort, made),
            shares=shares(self.prepared.plan.split.train, stage.folds, self.config.seed),
            batch_size=config.training.batch_size,
            seed=seed_for(self.config.seed, STAGE, number),
        )

    # --- What is on disk. ---

    def _folder(self, stage: Stage, fold: int | None = None) -> Path:
        folder = self.run.folder / "stages" / stage.name
        return folder if fold is None else folder / "folds" / str(fold)

    def _weights(self, count: int, fold: int | None) -> dict[str, Tensor]:
        """Return what the first ``count`` stages trained, each on all training subjects or in a fold."""
        weights: dict[str, Tensor] = {}
        for stage in self.stages[:count]:
            weights |= load_file(self._folder(stage, fold) / MODEL_FILE)
        return weights


def _link_or_copy(source: str, target: str) -> None:
    """Link a file that is only ever replaced as a whole; copy any other, and any on another disk."""
    if Path(source).suffix in (".safetensors", ".npy"):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def check_source(source: Run, name: str, method: Method, record: Mapping[str, Any], stages: Sequence[Stage]) -> None:
    """Check that a new training can start from the stages before ``name`` of another run.

    Args:
        source: The other run.
        name: The first stage that is trained anew.
        method, record, stages: Of the new run.

    Raises:
        UnknownNameError: The method has no such stage.
        ConfigError: It is the first one, or the earlier stages have other settings or data.
        ArtifactError: The earlier stages are not done.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        known = ", ".join(names) or "none; it is trained at once"
        raise UnknownNameError(
            f"Method {method.name!r} has no stage {name!r}.{did_you_mean(name, names)} Stages: {known}."
        )
    number = names.index(name)
    if number == 0:
        raise ConfigError(
            f"Stage {name!r} is the first one, so it starts from no other run; leave --stage and --from out."
        )
    earlier = {_group(stage) for stage in stages[:number] if stage.trainer or stage.make}
    own = {_group(stage) for stage in stages[number:]} - earlier
    changed = [
        line
        for line in differences(source.record["config"], record["config"])
        if not any(line.startswith(f"{group}.") for group in own)
    ]
    changed += [
        f"{key}: {source.record.get(key)} → {record.get(key)}"
        for key in ("method", "method_version", "data_fingerprint", "split")
        if source.record.get(key) != record.get(key)
    ]
    if changed:
        free = ", ".join(f"{group}.*" for group in sorted(own)) or "no setting"
        raise ConfigError(
            f"The stages before {name!r} in {source.folder} were trained with different settings "
            f"({'; '.join(changed)}). Of the settings only these may differ: {free}. Train all stages anew without "
            "--stage and --from."
        )
    unfinished = [stage for stage in source.stages()[:number] if stage.status != "finished"]
    if unfinished:
        raise ArtifactError(
            f"Stage {unfinished[0].name!r} of {source.folder} is {unfinished[0].status}, so no run can start from it. "
            f"Run the same command to finish it: zoo train {method.name} --out {source.folder} …"
        )


def _group(stage: Stage) -> str:
    """Return where the settings of a stage stand: ``autoencoder`` for ``autoencoder.training``."""
    return stage.training.rpartition(".")[0] or stage.training


def open_child(folder: Path, record: Mapping[str, Any], fabric: Fabric) -> Run:
    """Open the run of a stage or of a fold, or make it in the first process."""
    if fabric.is_global_zero:
        if (folder / "run.json").is_file():
            Run.open(folder).check_same(record)
        else:
            Run.create(folder, record)
    fabric.barrier()
    return Run.open(folder)
