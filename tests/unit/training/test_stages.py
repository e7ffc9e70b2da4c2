"""Several stages: resumed exactly at each border, out of fold, and refused where they do not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.conftest import ROOT
from tests.toy import NAME, kill_at, registered
from zoo.config import MethodConfig, resolve_config
from zoo.descriptors import Stage
from zoo.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from zoo.models.run import Run
from zoo.registry import registry
from zoo.testing.helpers import no_bar
from zoo.training.folds import shares
from zoo.training.launch import launch, train_method
from zoo.training.loop import Outcome, Status
from zoo.training.made import Made
from zoo.training.plan import made_cohort


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def brains() -> Path:
    """The cohort that the toy names."""
    return made_cohort("toy-brains", 4.0, no_bar)


def _config(*settings: str) -> MethodConfig:
    return resolve_config(registry().methods[NAME], preset="tiny", assignments=settings)


def _train(
    out: Path, *settings: str, report: Callable[[Status], None] = lambda status: None, **options: Any
) -> tuple[Run, Outcome]:
    given: dict[str, Any] = {"data": None, "runs": out.parent, "seconds": None, **options}
    config = given.pop("config", None) or _config(*settings)
    return train_method(
        registry().methods[NAME], config, launch(1, "32-true"), out=out, bar=no_bar, report=report,
        say=lambda line: None, **given,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """Which stages the training of `trained_toy` showed, one entry per step."""
    return []


@pytest.fixture(scope="module")
def trained_toy(tmp_path_factory: pytest.TempPathFactory, shown: list[str]) -> Run:
    """A finished run of all stages."""
    run, outcome = _train(tmp_path_factory.mktemp("toy") / "run", report=lambda status: shown.append(status.stage))
    assert outcome == Outcome("finished", 96)
    return run


def _different(first: Path, second: Path) -> list[str]:
    """Return which files of two runs differ in what the next step depends on."""
    wrong = []
    names = [{file.relative_to(run) for file in run.rglob("*") if file.is_file()} for run in (first, second)]
    wrong += [f"{name} is in one alone" for name in names[0] ^ names[1]]
    for name in sorted(names[0] & names[1]):
        one, other = first / name, second / name
        if name.suffix == ".safetensors":
            tensors, others = load_file(one), load_file(other)
            same = tensors.keys() == others.keys() and all(torch.equal(tensors[key], others[key]) for key in tensors)
        elif name.suffix == ".npy":
            same = one.read_bytes() == other.read_bytes()
        elif name.name == "metrics.jsonl":
            lines = [[{**line, "seconds": 0} for line in Run.open(file.parent).metrics()] for file in (one, other)]
            # A checkpoint that a stop asked for is scored besides.
            lines = [[line for line in some if line["images"] % 16 == 0 or "loss/mse" in line] for some in lines]
            same = lines[0] == lines[1]
        else:
            continue
        if not same:
            wrong.append(str(name))
    return wrong


# --- Resuming. ---


def test_kill_9_at_random_moments_changes_no_bit(brains: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.toy.killed", str(brains), str(tmp_path), "12", "5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert len(told["stood"]) >= 12
    assert {statuses[0] for statuses in told["stood"] if statuses} >= {"training", "making", "finished"}
    for number in range(told["runs"]):
        assert _different(tmp_path / "straight", tmp_path / f"killed-{number}") == []


def test_two_processes_resume_exactly(brains: Path, tmp_path: Path) -> None:
    def run(out: str, kill: int | None = None) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if kill is not None:
            environment["TOY_KILL_AT"] = f"{kill}:{tmp_path / out}"
        where = ["--data", str(brains), "--out", str(tmp_path / out)]
        command = [sys.executable, "-m", "tests.toy", "train", NAME, *where, "--preset", "tiny", "--devices", "2"]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
        ).returncode

    assert run("straight") == 0
    assert run("killed", 300) == -signal.SIGKILL
    assert Run.open(tmp_path / "killed").record["status"] != "finished"
    assert run("killed") == 0
    assert _different(tmp_path / "straight", tmp_path / "killed") == []


@pytest.mark.parametrize("steps", [2, 9, 20])
def test_sigterm_stops_in_any_stage_and_resumes(trained_toy: Run, tmp_path: Path, steps: int) -> None:
    seen: list[Status] = []

    def stop_after(status: Status) -> None:
        seen.append(status)
        if len(seen) == steps:
            signal.raise_signal(signal.SIGTERM)

    run, outcome = _train(tmp_path / "run", report=stop_after)
    assert (outcome.status, outcome.reason) == ("stopped", "SIGTERM")
    assert outcome.stage == seen[-1].stage
    assert outcome.stage.startswith(("stage 1 of 3 (autoencoder)", "stage 3 of 3 (corrector)"))
    assert run.record["status"] == "stopped"
    _, outcome = _train(tmp_path / "run")
    assert outcome == Outcome("finished", 96)
    one, other = (load_file(each.folder / "model.safetensors") for each in (run, trained_toy))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_time_stops_between_batches_of_a_maker(trained_toy: Run, tmp_path: Path) -> None:
    run = Run.open(Path(shutil.copytree(trained_toy.folder, tmp_path / "run")))
    stage = run.folder / "stages" / "autoencoder"
    made = {file.name: file.read_bytes() for file in (stage / "made").glob("*.npy")}
    (stage / "made").rename(tmp_path / "made")
    run.save(status="training")
    _, outcome = _train(run.folder, seconds=0)
    assert outcome.stage == "stage 1 of 3 (autoencoder), making"
    assert Run.open(run.folder).stages()[0].status == "making"
    assert len(list((stage / "making").glob("0*"))) == 1
    assert _train(run.folder)[1].status == "finished"
    assert {file.name: file.read_bytes() for file in (stage / "made").glob("*.npy")} == made
    assert not (stage / "making").exists()


def test_a_signal_ends_a_fit_at_once_and_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    whole = training.fit_components

    def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the fit went on")

    monkeypatch.setattr(training, "fit_components", interrupted)
    run, outcome = _train(tmp_path / "run")
    assert (outcome.reason, outcome.stage) == ("SIGINT", "stage 2 of 3 (components)")
    assert not (run.folder / "stages" / "components" / "model.safetensors").exists()
    monkeypatch.setattr(training, "fit_components", whole)
    assert _train(tmp_path / "run")[1].status == "finished"


# --- What a stage trains, makes and leaves. ---


def test_what_is_made_of_a_training_subject_is_out_of_fold(trained_toy: Run) -> None:
    split = trained_toy.record["split"]
    stage = trained_toy.folder / "stages" / "autoencoder"
    made = Made(stage)
    whole = load_file(stage / "model.safetensors")["autoencoder.seen"]
    for name in split["train"]:
        assert whole[int(name[-3:])] == 1  # the whole model did see it
        assert len(made.of(name)) > 0
        assert (made["saw"][made.of(name)] == 0).all()
    assert {name for name in made.subjects if name} == {*split["train"], *split["validation"]}
    for fold in range(2):
        record = Run.open(stage / "folds" / str(fold)).record
        seen = load_file(stage / "folds" / str(fold) / "model.safetensors")["autoencoder.seen"]
        assert {f"sub-{number:03d}" for number in seen.nonzero().flatten().tolist()} == set(record["split"]["train"])
        assert not set(record["split"]["train"]) & set(record["split"]["test"])


def test_a_stage_changes_its_own_module_alone(trained_toy: Run) -> None:
    stages = trained_toy.folder / "stages"
    whole = load_file(trained_toy.folder / "model.safetensors")
    found: dict[str, torch.Tensor] = {}
    for name in ("autoencoder", "components", "corrector"):
        tensors = load_file(stages / name / "model.safetensors")
        assert all(key.startswith(f"{name}.") for key in tensors)
        found |= tensors
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_folds_leave_out_each_subject_once() -> None:
    names = [f"sub-{number:03d}" for number in range(7)]
    held = shares(names, 3, 4)
    assert sorted(name for share in held for name in share) == names
    assert held == shares(list(reversed(names)), 3, 4)
    with pytest.raises(DataError, match="3 folds need at least 3 training subjects, but there are 2"):
        shares(names[:2], 3, 0)


def test_every_training_is_shown(trained_toy: Run, shown: list[str]) -> None:
    first = "stage 1 of 3 (autoencoder)"
    assert list(dict.fromkeys(shown)) == [
        first, f"{first}, fold 1 of 2", f"{first}, fold 2 of 2", "stage 3 of 3 (corrector)"
    ]  # fmt: skip
    report = (trained_toy.folder / "report.html").read_text()
    for heading in ("Stages", "autoencoder: Curves", "autoencoder, fold 2: Curves", "corrector: Samples"):
        assert heading in report


# --- The commands. ---


def test_dry_run_shows_each_stage(zoo_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = zoo_command("train", NAME, "--preset", "tiny", "--dry-run", "--json", "--folds", "2")
    assert code == 0
    told = json.loads(out)
    assert [stage["name"] for stage in told["stages"]] == ["autoencoder", "components", "corrector"]
    assert [stage["images"] for stage in told["stages"]] == [48, 0, 48]
    assert told["stages"][0]["makes"].startswith("Makes reconstructions, their errors")
    assert sum(stage["parameters"] for stage in told["stages"]) == told["parameters"]
    assert sorted(name for share in told["folds"] for name in share) == told["data"]["split"]["train"]
    code, out, _ = zoo_command("train", NAME, "--preset", "tiny", "--dry-run")
    assert "Makes reconstructions, their errors" in out
    assert list(tmp_path.iterdir()) == []


def test_info_and_json_know_stages(zoo_command: Any, trained_toy: Run, tmp_path: Path) -> None:
    arguments = ("train", NAME, "--preset", "tiny", "--json")
    code, out, _ = zoo_command(*arguments, "--out", trained_toy.folder)
    assert [stage["status"] for stage in json.loads(out)["stages"]] == ["finished"] * 3
    code, out, _ = zoo_command(*arguments, "--out", tmp_path / "run", "--time", "0s")
    statuses = ["stopped", "waiting", "waiting"]
    assert [stage["status"] for stage in json.loads(out)["stages"]] == statuses
    code, out, _ = zoo_command("info", tmp_path / "run", "--json")
    assert code == 0
    assert [stage["status"] for stage in json.loads(out)["run"]["stages"]] == statuses
    code, out, _ = zoo_command("info", NAME)
    assert "stages      autoencoder, components, corrector" in out
    code, out, _ = zoo_command("info", trained_toy.folder, "--json")
    assert [stage["images_seen"] for stage in json.loads(out)["run"]["stages"]] == [48, 0, 48]


def test_unfinished_model_is_refused_with_what_is_missing(trained_toy: Run, tmp_path: Path) -> None:
    _train(tmp_path / "run", seconds=0)
    with pytest.raises(ArtifactError, match=rf"stage 'autoencoder' is stopped.*zoo train {NAME} --out {tmp_path}/run"):
        zoo.load(tmp_path / "run")
    stage = trained_toy.folder / "stages" / "autoencoder"
    for folder in (stage, stage / "folds" / "0", stage / "checkpoints" / "000000048"):
        with pytest.raises(ArtifactError, match="holds only stage 'autoencoder'"):
            zoo.load(folder)


def test_changed_setting_is_refused_with_the_difference(trained_toy: Run) -> None:
    with pytest.raises(ConfigError, match=r"with different settings or data \(autoencoder.width: 6 → 7\)"):
        _train(trained_toy.folder, "autoencoder.width=7")


def test_refused_stage_deletes_nothing_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    monkeypatch.setattr(training.Errors, "__len__", lambda self: 0)
    with pytest.raises(DataError, match="No slice of the training subjects can be used"):
        _train(tmp_path / "run")
    assert [stage.status for stage in Run.open(tmp_path / "run").stages()] == ["finished", "waiting", "waiting"]
    monkeypatch.undo()
    assert _train(tmp_path / "run")[1].status == "finished"


# --- A new run from another run's stages. ---


def test_later_stages_are_trained_anew(trained_toy: Run, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in trained_toy.folder.rglob("*") if file.is_file()}
    seen: list[str] = []
    run, outcome = _train(
        tmp_path / "run",
        "training.images=64",
        start=("corrector", trained_toy),
        report=lambda status: seen.append(status.stage),
    )
    assert outcome == Outcome("finished", 112)
    assert set(seen) == {"stage 3 of 3 (corrector)"}
    assert {file: file.read_bytes() for file in trained_toy.folder.rglob("*") if file.is_file()} == before
    one, other = (load_file(each.folder / "model.safetensors") for each in (run, trained_toy))
    assert all(torch.equal(one[name], other[name]) for name in one if not name.startswith("corrector."))
    assert not all(torch.equal(one[name], other[name]) for name in one)
    zoo.load(run.folder).build()


def test_the_same_later_stage_gives_the_same_model(zoo_command: Any, trained_toy: Run, tmp_path: Path) -> None:
    arguments = ("train", NAME, "--stage", "corrector", "--from", trained_toy.folder, "--out", tmp_path / "run")
    assert zoo_command(*arguments, "--time", "0s")[0] == 0
    code, out, _ = zoo_command(*arguments)
    assert code == 0
    assert "Finished after 96 images" in out
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", trained_toy.folder))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_stages_with_other_settings_are_not_taken_over(trained_toy: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"autoencoder.width: 6 → 7.*only these may differ: training\.\*"):
        _train(tmp_path / "run", "autoencoder.width=7", start=("corrector", trained_toy))
    with pytest.raises(ConfigError, match="is the first one"):
        _train(tmp_path / "run", start=("autoencoder", trained_toy))
    with pytest.raises(UnknownNameError, match=r"has no stage 'corector'.*Did you mean 'corrector'"):
        _train(tmp_path / "run", start=("corector", trained_toy))
    stopped, _ = _train(tmp_path / "stopped", seconds=0)
    with pytest.raises(ArtifactError, match=r"Stage 'autoencoder' of .* is stopped, so no run can start from it"):
        _train(tmp_path / "run", start=("corrector", stopped))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "corrector"), "--stage and --from belong together"),
        (("--stage", "corrector", "--from", "RUN", "--folds", "2"), "--folds trains all stages"),
        (("--stage", "corrector", "--from", "RUN", "--preset", "tiny"), "has settings of its own"),
    ],
)
def test_flags_that_do_not_go_together(
    zoo_command: Any, trained_toy: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [trained_toy.folder if word == "RUN" else word for word in arguments]
    code, _, err = zoo_command("train", NAME, "--out", tmp_path / "run", *given)
    assert code == 1
    assert message in err.replace("\n", " ")


# --- Folds of a whole method. ---


def test_folds_of_a_method_are_runs_of_their_own(zoo_command: Any, tmp_path: Path) -> None:
    seen: list[str] = []
    run, outcome = _train(tmp_path / "run", folds=3, seconds=0, report=lambda status: seen.append(status.stage))
    assert outcome.status == "stopped"
    assert seen == ["fold 1 of 3, stage 1 of 3 (autoencoder)"]
    settings = ("autoencoder.training.images=16", "training.images=16")
    run, outcome = _train(tmp_path / "short", *settings, folds=3)
    assert outcome == Outcome("finished", 96)
    left_out = []
    for fold in range(3):
        child = Run.open(run.folder / "folds" / str(fold))
        left_out += sorted(set(child.record["split"]["test"]) - set(run.record["split"]["test"]))
        assert zoo.load(child.folder).manifest["data_fingerprint"] == child.record["data_fingerprint"]
    assert sorted(left_out) == run.record["split"]["train"]
    with pytest.raises(ArtifactError, match="holds 3 folds, each a run of its own"):
        zoo.load(run.folder)


# --- Descriptors. ---


def _stage(name: str, **changes: Any) -> Stage:
    return Stage(**{"name": name, "trainer": "m:T", "examples": "m:E", **changes})


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (lambda: (_stage("a", fit="m:f"),), "'a' needs a trainer or a fit"),
        (lambda: (_stage("a", folds=1, make="m:M"),), "folds=1; give 0, or 2 and more"),
        (lambda: (_stage("a", folds=2),), "nothing is made with their models"),
        (lambda: (_stage("a"), _stage("a")), "two stages named 'a'"),
        (lambda: (_stage("a"), _stage("b", folds=2, make="m:M")), "has seen the subjects left out"),
        (lambda: (_stage("A"),), "not kebab-case"),
    ],
)
def test_stages_that_cannot_be_right(stages: Callable[[], tuple[Stage, ...]], message: str) -> None:
    import dataclasses

    method = registry().methods[NAME]
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(method, stages=stages())


def test_stages_may_depend_on_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    import tests.toy.training as training

    monkeypatch.setattr(training, "stages", lambda config: (_stage("a"),) * config.components, raising=False)
    method = dataclasses.replace(registry().methods[NAME], stages="tests.toy.training:stages")
    assert [stage.name for stage in method.stages_of(_config("components=1"))] == ["a"]
    with pytest.raises(ConfigError, match="two stages named 'a'"):
        method.stages_of(_config("components=2"))
    with pytest.raises(ConfigError, match="beside trainer and examples"):
        dataclasses.replace(method, trainer="m:T", examples="m:E")


def test_real_examples_are_the_examples_unless_named() -> None:
    assert registry().methods[NAME].real == "tests.toy.training:RealSlices"
    filling = registry().methods["lesion-filling"]
    assert filling.real == filling.examples


def test_the_count_of_file_operations_is_that_of_one_folder(tmp_path: Path) -> None:
    count = kill_at(0, str(tmp_path / "inside"))
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    np.save(tmp_path / "inside" / "a.npy", np.zeros(1))
    assert count == [2]
