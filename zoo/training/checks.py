"""What is checked before the first step, so that no mistake of a plugin shows after hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.config import MethodConfig
from zoo.descriptors import Method, Part, Stage, TensorSpec, resolve
from zoo.errors import ConfigError, ZooError
from zoo.models.golden import example_inputs
from zoo.registry import registry
from zoo.training.protocol import Trainer
from zoo.training.state import take_apart


def check_tasks(method: Method) -> None:
    """Import what the method's tasks name, so that a misspelt name shows before the training.

    Raises:
        PluginError: A task's function or options do not exist.
    """
    for task in method.tasks.values():
        resolve(task.run)
        resolve(task.options)()


def check_parts(method: Method, config: MethodConfig, device: torch.device) -> None:
    """Run every declared part once on a new model, at batch 1 and 2.

    Raises:
        ConfigError: A part fails, or its outputs are not those it declares; the message names the part, the tensor and
            the plugin.
    """
    with torch.random.fork_rng():
        model: nn.Module = resolve(method.build)(config)
    model.to(device).eval()
    parts: Mapping[str, Part] = resolve(method.parts)(config)
    for name, part in parts.items():
        where = f"Part {name!r} of method {method.name!r} ({plugin_of(method)})"
        _check_names(where, part)
        try:
            module = model.get_submodule(part.module)
        except AttributeError:
            raise ConfigError(
                f"{where} names the module {part.module!r}, which the built model does not have."
            ) from None
        for batch in (1, 2):
            inputs = example_inputs(part, seed=0, axes={"batch": batch})
            try:
                with torch.no_grad():
                    outputs = module(*(tensor.to(device) for tensor in inputs.values()))
            except ZooError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"{where} fails on its declared inputs at a batch of {batch}: {type(error).__name__}: {error}"
                ) from error
            _check_outputs(where, part.outputs, outputs, batch)


def _check_names(where: str, part: Part) -> None:
    names = [spec.name for spec in (*part.inputs, *part.outputs)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where} declares two tensors named {twice[0]!r}; exported graphs need a name for each.")


def _check_outputs(where: str, declared: Sequence[TensorSpec], outputs: object, batch: int) -> None:
    given = outputs if isinstance(outputs, tuple) else (outputs,)
    if len(given) != len(declared):
        names = ", ".join(spec.name for spec in declared)
        raise ConfigError(f"{where} returns {len(given)} outputs, but it declares {len(declared)}: {names}.")
    for spec, output in zip(declared, given, strict=True):
        shape = [batch if size == "batch" else size for size in spec.shape]
        wanted = f"{spec.dtype} {shape}"
        found = (
            f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
            if isinstance(output, Tensor)
            else f"a {type(output).__name__}"
        )
        if found != wanted:
            raise ConfigError(
                f"{where}: output {spec.name!r} is {found} at a batch of {batch}, but it declares {wanted}. Correct "
                "the network or the part's TensorSpec."
            )


def check_trainer(method: Method, trainer: Trainer, model: nn.Module, module: str) -> None:
    """Check that a new trainer's state can be stored, and that its averaged model is what the stage trains.

    Args:
        method: Named in messages.
        trainer: Of a method or a stage.
        model: The model that the trainer was given.
        module: Path of what it trains inside the model.

    Raises:
        ConfigError: `Trainer.ema` has other tensors than the model.
        ArtifactError: `Trainer.state_dict` holds what cannot be stored; the message has its path.
    """
    where = f"{type(trainer).__name__} of method {method.name!r} ({plugin_of(method)})"
    expected = {name: list(tensor.shape) for name, tensor in model.get_submodule(module).state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in trainer.ema.state_dict().items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        what = f"the model's {module!r}" if module else "the model"
        raise ConfigError(
            f"{where}: its ema is not a copy of {what}: tensor {wrong[0]!r} is {found.get(wrong[0], 'missing')} there "
            f"and {expected.get(wrong[0], 'missing')} in the model."
        )
    try:
        take_apart(trainer.state_dict())
    except ZooError as error:
        raise type(error)(f"{where}: {error}") from None


def check_fit(method: Method, stage: Stage, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Check what a fit made of the model's tensors.

    Args:
        method, stage: Named in messages.
        before, after: Tensors of the new model and of the fitted one, by name.

    Raises:
        ConfigError: A shape changed, a number is not finite, or a tensor outside of the stage's module changed.
    """
    where = f"Fit {stage.name!r} of method {method.name!r} ({plugin_of(method)})"
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


def plugin_of(method: Method) -> str:
    """Return which plugin brings a method, in words."""
    origin = registry().methods.origins[method.name]
    return f"plugin {origin.plugin} of {origin.distribution}"
