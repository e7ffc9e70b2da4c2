"""The contract of a method, tested on its preset ``tiny`` and the phantom at 4 mm."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import click
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from zoo.config import MethodConfig, merge, parse_assignment, resolve_config, validate
from zoo.descriptors import Method, resolve
from zoo.errors import ConfigError, UnknownNameError
from zoo.evaluation.run import evaluate
from zoo.exporting.export import export
from zoo.exporting.job import ExportOptions
from zoo.exporting.parity import TOLERANCES
from zoo.imaging.cohort import is_role
from zoo.models.artifact import Artifact
from zoo.models.golden import example_inputs
from zoo.models.run import Run
from zoo.randomness import GOLDEN, seed_for
from zoo.registry import registry
from zoo.system.files import sha256
from zoo.testing.helpers import as_tuple, distance, no_bar
from zoo.training.launch import launch, train_method
from zoo.training.loop import Outcome, Status
from zoo.training.made import made_by
from zoo.training.plan import estimate_cost, pack, plan_training, settings_of

TINY_PARAMETERS = 2_000_000


class _Contract:
    """What methods must do with and without training; the fixture `artifact` is the model that is used."""

    method: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def registered(cls) -> Method:
        """The method."""
        return registry().methods[cls.method]

    @pytest.fixture(scope="class")
    @classmethod
    def cohort(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Five subjects at 4 mm of the dataset that the method names."""
        folder = tmp_path_factory.mktemp("cohort") / "cohort"
        dataset = registry().datasets[registry().methods[cls.method].dataset]
        opened: Path = resolve(dataset.open)(folder, 4.0, lambda done, total: None, subjects=5, seed=3)
        return opened

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _own_cache(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
            yield

    def test_code_it_names_exists(self, registered: Method) -> None:
        targets = [registered.build, registered.parts, registered.trainer, registered.examples, registered.real]
        if registered.trainable:
            for stage in registered.stages_of(resolve_config(registered, preset="tiny")):
                targets += [stage.trainer, stage.fit, stage.examples, stage.make]
        for target in targets:
            assert not target or callable(resolve(target))
        for task in registered.tasks.values():
            assert callable(resolve(task.run))
            resolve(task.options)()
        for name in registered.evaluators:
            assert callable(resolve(registry().evaluators[name].evaluate))

    def test_plugin_and_settings_import_no_torch(self, registered: Method) -> None:
        plugin = registry().methods.origins[self.method].module
        settings = registered.config.partition(":")[0]
        code = f"import sys, {plugin}, {settings}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_tasks_keep_their_promise(
        self, registered: Method, artifact: Artifact, cohort: Path, tmp_path: Path
    ) -> None:
        for verb in registered.tasks:
            check = registry().verbs[verb].check
            if check is not None:
                (tmp_path / verb).mkdir()
                resolve(check)(artifact, cohort, tmp_path / verb)

    def test_verbs_have_commands_with_worked_examples(self, registered: Method) -> None:
        for verb in registered.tasks:
            command = resolve(registry().verbs[verb].command)
            assert isinstance(command, click.Command)
            assert command.name == verb
            examples = [line for line in (command.help or "").splitlines() if line.strip().startswith(f"zoo {verb} ")]
            assert len(examples) >= 2, f"the help of 'zoo {verb}' shows fewer than two examples"

    def test_evaluators_measure_unseen_subjects(
        self, registered: Method, artifact: Artifact, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not registered.evaluators:
            pytest.skip("the method names no evaluator")
        monkeypatch.chdir(tmp_path)  # where a method without a run keeps its figures
        seen = set(artifact.manifest["trained_on"])
        results = evaluate(artifact, cohort, evaluators=(), options={}, bar=no_bar)
        for result in results.values():
            assert result.scores
            measured = {row["subject"] for row in result.by_subject}
            assert measured
            assert not any(sha256(cohort / name / "anat" / f"{name}_T1w.nii.gz") in seen for name in measured)
            assert all(score.value is not None or score.note for score in result.scores.values())


class ClassicContract(_Contract):
    """The contract of a method without training: run by naming it in a child class."""

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls) -> Artifact:
        """The method as it is used."""
        return Artifact.open(cls.method)

    def test_it_cannot_be_trained(self, registered: Method) -> None:
        with pytest.raises(ConfigError, match="needs no training"):
            resolve_config(registered)


class MethodContract(_Contract):
    """Run by naming a method in a child class; see `zoo.testing`.

    Attributes:
        method: Name of the method.
        images: Images of a whole test training; a multiple of the batch.
        settings: Assignments over the preset ``tiny``, as for ``--set``.
    """

    images: ClassVar[int] = 64
    settings: ClassVar[tuple[str, ...]] = ()

    def tolerance(self) -> float:
        """Return how far two runs of a part may differ, relative to the output's largest value."""
        return 1e-5

    # --- Fixtures. ---

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, registered: Method) -> MethodConfig:
        """Its preset ``tiny`` with a very short training of every stage."""
        short = [f"images={cls.images}", "batch_size=8", "checkpoint_images=32", "sample_images=64", "log_images=8"]
        stages = registered.stages_of(resolve_config(registered, preset="tiny", assignments=cls.settings))
        paths = {stage.training for stage in stages} or {"training"}
        assignments = [f"{path}.{setting}" for path in sorted(paths) for setting in short]
        return resolve_config(
            registered, preset="tiny", assignments=(*assignments, "data.spacing_mm=4.0", *cls.settings)
        )

    @pytest.fixture(scope="class")
    @classmethod
    def trained(
        cls, registered: Method, config: MethodConfig, cohort: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Run:
        """A finished run."""
        run, outcome = _train(registered, config, cohort, tmp_path_factory.mktemp("trained") / "run")
        assert outcome.status == "finished"
        return run

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, trained: Run) -> Artifact:
        """The model of the finished run."""
        return Artifact.open(trained.folder)

    # --- The descriptor. ---

    def test_every_preset_is_valid_and_builds(self, registered: Method) -> None:
        for preset in registered.presets:
            config = resolve_config(registered, preset=preset)
            with torch.device("meta"):
                resolve(registered.build)(config)

    def test_tiny_is_tiny(self, registered: Method, config: MethodConfig) -> None:
        assert estimate_cost(registered, config).parameters < TINY_PARAMETERS

    def test_needs_are_channels_or_roles(self, registered: Method, config: MethodConfig) -> None:
        for name in (*registered.needs, *registered.also):
            assert is_role(name) or name in config.data.images, f"{name!r} is no channel of data and no role of a mask"

    def test_unknown_setting_is_refused(self, registered: Method) -> None:
        with pytest.raises(ConfigError, match="no setting 'no_such_setting'"):
            resolve_config(registered, assignments=["no_such_setting=1"])
        with pytest.raises(UnknownNameError, match="no preset"):
            resolve_config(registered, preset="no-such-preset")

    # --- The parts. ---

    def test_build_depends_on_the_seed_alone(self, registered: Method, config: MethodConfig) -> None:
        torch.manual_seed(1)
        first = resolve(registered.build)(config).state_dict()
        torch.manual_seed(1)
        second = resolve(registered.build)(config).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_parts_do_what_they_declare(self, registered: Method, trained: Run) -> None:
        artifact = Artifact.open(trained.folder)
        parts = artifact.parts()
        for name, part in artifact.part_specs().items():
            inputs = example_inputs(part, seed=5, axes={"batch": 3})
            outputs = as_tuple(parts[name](*inputs.values()))
            assert len(outputs) == len(part.outputs)
            for spec, output in zip(part.outputs, outputs, strict=True):
                assert tuple(output.shape) == tuple(3 if size == "batch" else size for size in spec.shape)
                assert str(output.dtype) == f"torch.{spec.dtype}"
                assert torch.isfinite(output).all()

    def test_samples_of_a_batch_do_not_touch_each_other(self, trained: Run) -> None:
        artifact = Artifact.open(trained.folder)
        parts = artifact.parts()
        for name, part in artifact.part_specs().items():
            inputs = example_inputs(part, seed=6, axes={"batch": 3})
            together = as_tuple(parts[name](*inputs.values()))
            alone = as_tuple(parts[name](*(tensor[1:2] for tensor in inputs.values())))
            for whole, single in zip(together, alone, strict=True):
                assert distance(whole[1:2], single) < self.tolerance()

    # --- Training. ---

    def test_examples_depend_on_their_generator_alone(
        self, registered: Method, config: MethodConfig, cohort: Path, trained: Run
    ) -> None:
        plan = plan_training(registered, config, cohort, no_bar)
        packed = pack(plan, no_bar).subset(plan.split.train)
        kinds = {target: resolve(target)(config, packed) for target in (registered.examples, registered.real) if target}
        stages = registered.stages_of(config)
        for number, stage in enumerate(stages):
            own, made = settings_of(registered, stage, config), made_by(trained, stages[:number])
            kinds[stage.name] = resolve(stage.examples)(own, packed, made)
        for name, examples in kinds.items():
            assert len(examples) > 0, name
            first = examples.example(0, np.random.default_rng(4))
            again = examples.example(0, np.random.default_rng(4))
            assert first.keys() == again.keys()
            assert all(np.array_equal(first[key], again[key]) for key in first), name

    def test_training_leaves_a_whole_run(self, registered: Method, config: MethodConfig, trained: Run) -> None:
        for name in ("run.json", "model.safetensors", "golden.safetensors", "report.html", "README.md"):
            assert (trained.folder / name).stat().st_size > 0, name
        assert all(stage.status == "finished" for stage in trained.stages())
        for run in _trainings(registered, config, trained).values():
            assert list((run.folder / "samples").glob("*.png"))
            logged = [line for line in run.metrics() if any(key.startswith("loss/") for key in line)]
            assert logged
            assert all(np.isfinite(value) for line in logged for value in line.values())
        assert not list(trained.folder.rglob(".part-*"))

    def test_what_is_made_of_a_training_subject_is_out_of_fold(
        self, registered: Method, config: MethodConfig, trained: Run
    ) -> None:
        stages = registered.stages_of(config)
        if not any(stage.make for stage in stages):
            pytest.skip("no stage makes anything")
        split = trained.record["split"]
        for stage in stages:
            folder = trained.folder / "stages" / stage.name
            splits = [Run.open(folder / "folds" / str(fold)).record["split"] for fold in range(stage.folds)]
            left_out = [name for one in splits for name in one["test"] if name in split["train"]]
            assert sorted(left_out) == (split["train"] if stage.folds else [])
            assert not any(set(one["test"]) & {*one["train"], *one["validation"]} for one in splits)
            if stage.make:
                made = made_by(trained, [stage])[stage.name]
                assert made
                assert {name for name in made.subjects if name} <= {*split["train"], *split["validation"]}
                assert all(len(array) == len(made.subjects) for array in made.values())

    def test_stopped_training_resumes_exactly(
        self, registered: Method, config: MethodConfig, cohort: Path, trained: Run, tmp_path: Path
    ) -> None:
        half = self.images // 2 // 8 * 8
        for name in _trainings(registered, config, trained):
            run, outcome = _train(registered, config, cohort, tmp_path / "run", stop_at=half, stage=name)
            assert outcome.status == "stopped"
            assert not name or f"({name})" in outcome.stage
            assert half <= _trainings(registered, config, run)[name].record["images_seen"] < self.images
        run, outcome = _train(registered, config, cohort, tmp_path / "run")
        assert outcome.status == "finished"
        assert _different_tensors(run.folder / "model.safetensors", trained.folder / "model.safetensors") == []
        last = f"checkpoints/{self.images:09d}/state.safetensors"
        again = _trainings(registered, config, run)
        for name, straight in _trainings(registered, config, trained).items():
            assert _different_tensors(again[name].folder / last, straight.folder / last) == []
            assert _losses(again[name]) == _losses(straight)

    def test_other_settings_do_not_resume(
        self, registered: Method, config: MethodConfig, cohort: Path, trained: Run
    ) -> None:
        path = next((stage.training for stage in registered.stages_of(config)), "training")
        change = parse_assignment(f"{path}.images={self.images + 8}")
        other = validate(type(config), merge(config.model_dump(), change), what="a test")
        with pytest.raises(ConfigError, match=f"{path}.images: {self.images} → {self.images + 8}"):
            _train(registered, other, cohort, trained.folder)

    # --- The artifact. ---

    def test_model_file_alone_repeats_the_golden_outputs(self, trained: Run, tmp_path: Path) -> None:
        alone = tmp_path / "model.safetensors"
        alone.write_bytes((trained.folder / "model.safetensors").read_bytes())
        artifact = Artifact.open(alone)
        golden = load_file(trained.folder / "golden.safetensors")
        parts = artifact.parts()
        for name, part in artifact.part_specs().items():
            inputs = example_inputs(part, seed=seed_for(artifact.config.seed, GOLDEN), axes={"batch": 2})
            assert all(torch.equal(golden[f"{name}/input/{key}"], tensor) for key, tensor in inputs.items())
            for spec, output in zip(part.outputs, as_tuple(parts[name](*inputs.values())), strict=True):
                assert distance(golden[f"{name}/output/{spec.name}"], output.float()) < self.tolerance()

    # --- Other runtimes. ---

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt-rtx"])
    def test_every_part_is_exported_and_verified(self, artifact: Artifact, backend: str) -> None:
        """Each file passes its checks: the graph, its numbers, and whole results where it runs here."""
        if backend not in registry().exporters:
            pytest.skip(f"no plugin brings {backend}")
        missing = resolve(registry().exporters[backend].available)()
        if missing:
            pytest.skip(missing)
        reports = export(artifact, [backend], ExportOptions(), (), no_bar)
        made = [report for report in reports if report.backend == backend]
        assert [report.part for report in made] == list(artifact.part_specs())
        assert all(file.is_file() for report in made for file in report.files)
        for report in made:
            assert report.status == "not run" or report.checks["parity"]["rel_max"] <= TOLERANCES["fp32"][0]


def _train(
    method: Method, config: MethodConfig, cohort: Path, out: Path, *, stop_at: int | None = None, stage: str = ""
) -> tuple[Run, Outcome]:
    """Train; with ``stop_at`` until so many images of ``stage`` are seen."""

    def report(status: Status) -> None:
        if stop_at is not None and status.images_seen >= stop_at and (not stage or f"({stage})" in status.stage):
            signal.raise_signal(signal.SIGTERM)

    fabric: Fabric = launch(1, "32-true")
    return train_method(
        method, config, fabric, data=cohort, out=out, runs=out.parent, seconds=None, bar=no_bar, report=report,
        say=lambda line: None,
    )  # fmt: skip


def _trainings(method: Method, config: MethodConfig, run: Run) -> dict[str, Run]:
    """Return the runs of all stages with a trainer by name; of a method of one training the run itself, as ``""``."""
    stages = [stage for stage in method.stages_of(config) if stage.trainer]
    if not stages:
        return {"": Run.open(run.folder)}
    folders = {stage.name: run.folder / "stages" / stage.name for stage in stages}
    return {name: Run.open(folder) for name, folder in folders.items() if (folder / "run.json").is_file()}


def _losses(run: Run) -> list[dict[str, float]]:
    """Return the logged losses; without the scores of checkpoints, which a stop adds."""
    lines = [{**line, "seconds": 0.0} for line in run.metrics() if line["images"] % 8 == 0]
    return [line for line in lines if not any(key.startswith("validation/") for key in line)]


def _different_tensors(first: Path, second: Path) -> list[str]:
    """Return the names of tensors that differ, or that only one of two files has."""
    one, other = load_file(first), load_file(second)
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    ]
