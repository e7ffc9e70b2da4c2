"""Mistakes of a plugin show before the first step, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy import NAME, registered
from zoo.config import resolve_config
from zoo.descriptors import Part
from zoo.errors import ArtifactError, ConfigError, PluginError
from zoo.models.run import Run
from zoo.registry import registry
from zoo.testing.helpers import no_bar
from zoo.training.launch import launch, train_method
from zoo.training.loop import Outcome
from zoo.training.state import take_apart


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with registered():
        yield


def _train(out: Path, *settings: str) -> tuple[Run, Outcome]:
    method = registry().methods[NAME]
    config = resolve_config(method, preset="tiny", assignments=settings)
    return train_method(
        method, config, launch(1, "32-true"), data=None, out=out, runs=out.parent, seconds=None, bar=no_bar,
        report=lambda status: None, say=lambda line: None,
    )  # fmt: skip


def _refused(kind: type[Exception], message: str, folder: Path) -> None:
    with pytest.raises(kind, match=message):
        _train(folder / "run")
    assert list(folder.iterdir()) == []


Change = Callable[[dict[str, Part]], None]


def _replace_output(name: str, **changes: Any) -> Change:
    def change(parts: dict[str, Part]) -> None:
        (output,) = parts[name].outputs
        parts[name] = replace(parts[name], outputs=(replace(output, **changes),))

    return change


def _two_outputs(parts: dict[str, Part]) -> None:
    parts["corrector"] = replace(parts["corrector"], outputs=parts["corrector"].outputs * 2)


def _same_names(parts: dict[str, Part]) -> None:
    parts["components"] = replace(parts["components"], outputs=parts["components"].inputs)


def _another_module(parts: dict[str, Part]) -> None:
    parts["corrector"] = replace(parts["corrector"], module="corector")


def _missing_input(parts: dict[str, Part]) -> None:
    parts["autoencoder"] = replace(parts["autoencoder"], inputs=parts["autoencoder"].inputs[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _replace_output("corrector", shape=("batch", 2, 24, 24)),
            r"Part 'corrector' of method 'toy-filling' \(plugin tests.toy.plugin.*output 'error' is float32 "
            r"\[1, 1, 24, 24\] at a batch of 1, but it declares float32 \[1, 2, 24, 24\]",
        ),
        (_replace_output("corrector", shape=(1, 1, 24, 24)), r"\[2, 1, 24, 24\] at a batch of 2"),
        (_replace_output("components", dtype="int64"), r"'smooth_error' is float32 .* declares int64"),
        (_two_outputs, "Part 'corrector' .* declares two tensors named 'error'"),
        (_same_names, "Part 'components' .* declares two tensors named 'error'"),
        (_another_module, "names the module 'corector', which the built model does not have"),
        (
            _missing_input,
            r"Part 'autoencoder' .* fails on its declared inputs at a batch of 1: TypeError: .*lesion_mask",
        ),
    ],
)
def test_parts_that_are_not_as_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, message: str
) -> None:
    import tests.toy.networks as networks

    declared = networks.parts

    def parts(config: Any) -> dict[str, Part]:
        found = declared(config)
        change(found)
        return found

    monkeypatch.setattr(networks, "parts", parts)
    _refused(ConfigError, message, tmp_path)


def test_outputs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.networks as networks

    monkeypatch.setattr(networks.Components, "forward", lambda self, error: (error, error))
    _refused(ConfigError, "Part 'components' .* returns 2 outputs, but it declares 1: smooth_error", tmp_path)


def test_state_that_cannot_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    whole = training.CorrectorTrainer.state_dict
    # The last stage is found out before the first one is trained.
    monkeypatch.setattr(training.CorrectorTrainer, "state_dict", lambda self: {**whole(self), "seen": [{1}]})
    _refused(ArtifactError, r"CorrectorTrainer of method 'toy-filling' .* at /seen/0 is a set", tmp_path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {("b", 1): 2}}, r"at /a has the key \('b', 1\)"),
        ({"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}, "two tensors at /a/b"),
    ],
)
def test_keys_that_cannot_be_stored(state: dict[Any, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        take_apart(state)


def test_average_of_another_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    whole = training.CorrectorTrainer.__init__

    def init(self: Any, config: Any, model: Any, fabric: Any) -> None:
        whole(self, config, model, fabric)
        self.ema = model

    monkeypatch.setattr(training.CorrectorTrainer, "__init__", init)
    _refused(ConfigError, "its ema is not a copy of the model's 'corrector'", tmp_path)


def test_validation_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    def broken(self: Any, batch: Any, random: Any) -> Any:
        raise KeyError("no_such_tensor")

    monkeypatch.setattr(training.AutoencoderTrainer, "validate", broken)
    with pytest.raises(KeyError, match="no_such_tensor") as raised:
        _train(tmp_path / "run")
    assert "method 'toy-filling' (plugin tests.toy.plugin" in raised.value.__notes__[0]
    assert not list((tmp_path / "run").rglob("checkpoints"))


def test_a_loss_that_is_no_tensor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    monkeypatch.setattr(training.AutoencoderTrainer, "step", lambda self, batch, random: {"loss/total": 0.5})
    with pytest.raises(ConfigError, match="returned 'loss/total' as float; return a tensor without axes"):
        _train(tmp_path / "run")


def test_a_misspelt_task_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = registry().methods[NAME]
    wrong = {verb: replace(task, options="zoo.tasks:FilOptions") for verb, task in method.tasks.items()}
    monkeypatch.setitem(registry().methods.items, NAME, replace(method, tasks=wrong))
    _refused(PluginError, "has no attribute 'FilOptions'. Did you mean 'FillOptions'", tmp_path)


def test_maker_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    monkeypatch.setattr(
        training.ErrorMaker, "make", lambda self, indices, random: {"error": torch.zeros(len(indices) + 1, 2)}
    )
    with pytest.raises(ConfigError, match=r"Maker of stage 'autoencoder' .*'error' is \[2, 2\] for 1 items"):
        _train(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("checkpoints"))


def _wrong_shape(config: Any, model: Any, examples: Any, rng: Any) -> None:
    model.components.mean = torch.zeros(3)


def _not_a_number(config: Any, model: Any, examples: Any, rng: Any) -> None:
    model.components.mean.fill_(float("nan"))


def _another_stage(config: Any, model: Any, examples: Any, rng: Any) -> None:
    model.autoencoder.seen.fill_(1)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (_wrong_shape, r"Fit 'components' .*buffer 'components.mean' is \[3\], but \[576\] in a new model"),
        (_not_a_number, "'components.mean' holds a number that is not finite"),
        (_another_stage, "changed 'autoencoder.seen', which is not in its module 'components'"),
    ],
)
def test_fits_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Any, message: str) -> None:
    import tests.toy.training as training

    whole = training.fit_components
    monkeypatch.setattr(training, "fit_components", fit)
    with pytest.raises(ConfigError, match=message):
        _train(tmp_path / "run")
    assert [stage.status for stage in Run.open(tmp_path / "run").stages()] == ["finished", "waiting", "waiting"]
    monkeypatch.setattr(training, "fit_components", whole)
    assert _train(tmp_path / "run")[1].status == "finished"


def test_settings_of_a_stage_must_exist(tmp_path: Path) -> None:
    method = registry().methods[NAME]
    config = resolve_config(method, preset="tiny")
    from zoo.training.plan import settings_of

    with pytest.raises(ConfigError, match=r"training settings 'autoencoder', but that is .* no TrainingConfig"):
        settings_of(method, replace(method.stages[0], training="autoencoder"), config)


def test_a_score_that_is_not_finite_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.toy.training as training

    scores = iter([5.0, float("nan"), 3.0, float("-inf")])  # before the first step, then at each checkpoint
    monkeypatch.setattr(
        training.CorrectorTrainer, "validate", lambda self, batch, random: {"mse": torch.tensor(next(scores))}
    )
    settings = ("images=48", "batch_size=8", "checkpoint_images=16", "final_model=best")
    run, _ = _train(tmp_path / "run", *(f"training.{setting}" for setting in settings))
    record = Run.open(run.folder / "stages" / "corrector").record
    assert record["best_images"] == 32
    logged = [
        line["validation/mse"]
        for line in Run.open(run.folder / "stages" / "corrector").metrics()
        if "validation/mse" in line
    ]
    assert np.array_equal(logged, [float("nan"), 3.0, float("-inf")], equal_nan=True)


def test_the_checks_change_no_random_number(tmp_path: Path) -> None:
    from zoo.training.checks import check_parts

    method = registry().methods[NAME]
    config = resolve_config(method, preset="tiny")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_parts(method, config, torch.device("cpu"))
    assert torch.equal(torch.rand(4), expected)
