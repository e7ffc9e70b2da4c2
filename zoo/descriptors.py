"""What a plugin says about itself: plain data, no torch.

Code is named ``"module:attribute"`` and imported when it is used (`resolve`), so listing a hundred methods
costs nothing. Descriptors refuse what cannot be right as soon as they are made.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zoo.errors import ConfigError, PluginError, UnknownNameError, ZooError, did_you_mean

Parts = Mapping[str, Callable[..., Any]]
"""A model's parts by name, as plain callables of tensors, whichever runtime runs them."""

PRECISIONS = ("fp32", "fp16", "bf16")
"""What a network may compute in; norms and a part's inputs and outputs are float32 in all of them."""

DISTRIBUTIONS: dict[str, str] = {}
"""Import package to the distribution that brought it, for error messages; the registry fills it as it loads plugins."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def resolve(target: str) -> Any:
    """Import what ``"module:attribute"`` names.

    Raises:
        ConfigError: The target is not of that form.
        PluginError: The module cannot be imported, or has no such attribute; the message names the distribution.
    """
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(f"{target!r} does not name code; write 'module:attribute'.")
    owner = DISTRIBUTIONS.get(module_name.partition(".")[0], "a plugin")
    try:
        module = importlib.import_module(module_name)
    except (ZooError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(f"{target!r} of {owner} cannot be imported: {type(error).__name__}: {error}.") from error
    if not hasattr(module, attribute):
        raise PluginError(
            f"{target!r} is named by a plugin, but the module {module_name!r} of {owner} has no attribute "
            f"{attribute!r}.{did_you_mean(attribute, getattr(module, '__all__', dir(module)))}"
        )
    return getattr(module, attribute)


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{kind} name {name!r} is not kebab-case; write it like 'lesion-filling'.")


@dataclass(frozen=True, kw_only=True)
class Citation:
    """The publication of a method."""

    authors: str
    title: str
    venue: str
    year: int


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a part.

    Attributes:
        name: Name of the tensor in every exported graph.
        dtype: ``"float32"`` or ``"int64"``.
        shape: Sizes; a string names a dynamic axis, e.g. ``("batch", 3, 256, 256)``.
        range: Lowest and highest expected value, or ``None`` where unbounded (noise).
        meaning: What it holds, with units.
    """

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None
    meaning: str

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One graph of a model: pure tensors in, pure tensors out, noise an input.

    Attributes:
        module: Path of the submodule inside the built model; ``""`` is the model itself.
        inputs, outputs: Its tensors, in the order of the call.
    """

    module: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the part as plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Task:
    """How a method does one verb. A verb that needs more of a method brings a child of this class.

    Attributes:
        run: ``"module:function"`` with the verb's signature (``zoo.tasks``).
        options: ``"module:Class"`` of its pydantic options, a child of the verb's own options class.
    """

    run: str
    options: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of several, or one fit; each is a run of its own below the method's run.

    Attributes:
        name: Kebab-case; names the folder ``stages/NAME``.
        trainer: ``(config, model, fabric) -> zoo.training.Trainer``; ``config.training`` is this stage's, ``model``
            the whole model with what earlier stages trained.
        fit: ``(config, model, examples, rng) -> None``, in place of a trainer: fills buffers of the model, whose shapes
            follow from the settings.
        examples: ``(config, cohort: PackedCohort, made) -> zoo.training.Examples``; ``made[stage][name]`` is what an
            earlier stage made (`zoo.training.made.Made`).
        training: Path of its `TrainingConfig` in the settings, e.g. ``"autoencoder.training"``. The settings below
            ``autoencoder`` then belong to this stage alone.
        module: Path of the submodule that it trains, averages and saves; ``""`` is the whole model. The rest of the
            model is frozen and is not copied.
        make: A `zoo.training.Maker`: what later stages read.
        folds: Trainings that each leave out a share of the training subjects, so that what is made of a training
            subject comes from a model that has not seen it; 0 for none.
    """

    name: str
    trainer: str = ""
    fit: str = ""
    examples: str
    training: str = "training"
    module: str = ""
    make: str = ""
    folds: int = 0

    def __post_init__(self) -> None:
        _check_name("Stage", self.name)
        if bool(self.trainer) == bool(self.fit):
            raise ConfigError(f"Stage {self.name!r} needs a trainer or a fit; give one of the two.")
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"Stage {self.name!r} has folds={self.folds}; give 0, or 2 and more.")


def _check_stages(method: str, stages: tuple[Stage, ...]) -> None:
    """Refuse stages of one name, and folds whose models would rest on a stage that saw all subjects."""
    names = [stage.name for stage in stages]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"Method {method!r} has two stages named {twice[0]!r}; rename one.")
    for number, stage in enumerate(stages):
        if stage.folds and not any(one.make and one.folds for one in stages[number:]):
            raise ConfigError(
                f"Method {method!r}: stage {stage.name!r} has folds={stage.folds}, but nothing is made with their "
                "models; give it a make, or no folds."
            )
        for earlier in stages[:number]:
            if stage.folds and earlier.folds != stage.folds:
                raise ConfigError(
                    f"Method {method!r}: stage {stage.name!r} has folds={stage.folds}, but its models would start from "
                    f"stage {earlier.name!r}, which has folds={earlier.folds} and so has seen the subjects left out. "
                    f"Give {earlier.name!r} folds={stage.folds}."
                )


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Something that can be asked of a trained model: one command, and one signature that methods implement.

    Attributes:
        name: Kebab-case; the name of the command, and the key of a method's task.
        summary: One line, shown by ``zoo --help``.
        command: ``"module:attribute"`` of a ``click.Command``.
        task: Class by which a method describes its task.
        trial: ``(artifact, options) -> zoo.tasks.Trial``: the verb on synthetic input. ``zoo export`` compares its
            images across runtimes, and ``zoo bench --task`` times it; ``None``: neither is done.
        check: ``(artifact, cohort: Path, folder: Path) -> None``: asserts what the verb promises, for a trained model,
            a phantom cohort and an empty folder. The contract kit runs it for each method that offers the verb.
    """

    name: str
    summary: str
    command: str
    task: type[Task] = Task
    trial: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        _check_name("Verb", self.name)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A generative method.

    Attributes:
        name: Kebab-case, written by hand.
        summary: One line.
        version: Raised when old weights no longer fit.
        citation, licence: Of the method; the licence is an SPDX identifier.
        needs, also: What a cohort must and may provide: contrasts (``"T1w"``), ``"lesion-mask"``, ``"tissue"``.
        config: Child of ``zoo.config.MethodConfig``; its defaults are the preset used when none is named.
        presets: Settings over the defaults, by name. ``tiny`` has under 2 M parameters and trains in seconds.
        build: ``(config) -> nn.Module``: what is kept and exported. No files, no device.
        parts: ``(config) -> dict[str, Part]``.
        trainer: ``(config, model, fabric) -> zoo.training.Trainer``. A method without training (a classic one) has
            none of ``build``, ``parts``, ``trainer``, ``examples`` and ``stages``, and is used by its name instead of a
            run.
        examples: ``(config, cohort: PackedCohort) -> zoo.training.Examples``: what a training step reads.
        stages: Several trainings in order, or ``(config) -> tuple[Stage, ...]``; they replace ``trainer`` and
            ``examples``, which are the shorthand for one training.
        real: ``(config, cohort: PackedCohort) -> zoo.training.Examples`` without augmentation, for evaluators and
            projectors; by default ``examples``.
        dataset: Name of the dataset that is trained on where no data is named.
        tasks: By the name of the verb. The registry refuses a method with a verb that no plugin brings.
        evaluators: Names of evaluators that ``zoo evaluate`` runs when none is named.
        reported: The paper's own figures, as rows for a table.
        reported_on: The data those figures were measured on.
    """

    name: str
    summary: str
    version: int
    citation: Citation
    licence: str
    needs: tuple[str, ...]
    also: tuple[str, ...] = ()
    config: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    build: str = ""
    parts: str = ""
    trainer: str = ""
    examples: str = ""
    stages: tuple[Stage, ...] | str = ()
    real: str = ""
    dataset: str = "phantom"
    tasks: Mapping[str, Task] = field(default_factory=dict)
    evaluators: tuple[str, ...] = ()
    reported: tuple[Mapping[str, Any], ...] = ()
    reported_on: str = ""

    def __post_init__(self) -> None:
        _check_name("Method", self.name)
        if self.stages and (self.trainer or self.examples):
            raise ConfigError(f"Method {self.name!r} names stages beside trainer and examples; give one of the two.")
        needed = ("build", "parts", "stages") if self.stages else ("build", "parts", "trainer", "examples")
        given = [name for name in needed if getattr(self, name)]
        if given and len(given) < len(needed):
            raise ConfigError(
                f"Method {self.name!r} names {', '.join(given)} but not the rest of {', '.join(needed[:-1])} and "
                f"{needed[-1]}."
            )
        if not self.real:
            object.__setattr__(self, "real", self.examples)
        if not isinstance(self.stages, str):
            _check_stages(self.name, self.stages)
        if self.trainable and "tiny" not in self.presets:
            raise ConfigError(f"Method {self.name!r} has no preset 'tiny'; the contract tests train it.")

    @property
    def trainable(self) -> bool:
        """Whether it is trained, and so used through a run, or used as it is."""
        return bool(self.trainer or self.stages)

    def stages_of(self, config: Any) -> tuple[Stage, ...]:
        """Return the stages of a training with these settings, in order; empty for a method of one training.

        Raises:
            ConfigError: The function that names them returns none, or two of one name.
        """
        if not isinstance(self.stages, str):
            return self.stages
        stages = tuple(resolve(self.stages)(config))
        if not stages:
            raise ConfigError(f"Method {self.name!r}: {self.stages} returns no stage.")
        _check_stages(self.name, stages)
        return stages

    def task(self, verb: str) -> Task:
        """Return the task for ``verb``.

        Raises:
            UnknownNameError: The method does not offer it; the message lists what it offers.
        """
        if verb not in self.tasks:
            offered = ", ".join(self.tasks) or "no task"
            raise UnknownNameError(
                f"Method {self.name!r} cannot {verb}; it offers {offered}.{did_you_mean(verb, self.tasks)}"
            )
        return self.tasks[verb]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measured figure.

    Attributes:
        value: Mean over subjects, or ``None`` where it could not be measured (``note`` says why).
        unit: ``"dB"``, ``"%"``, ``""`` …
        better: Whether ``"higher"``, ``"lower"``, ``"nearer 0"``, ``"nearer 0.5"`` or ``"nearer 1"`` is better, or
            ``"nearer real"``, the value of real images, which another score has.
        n: Number of subjects.
        ci: 95 % interval of the mean over subjects, or of the value for other subjects; ``None`` for n < 5.
        note: Why a value is missing, or what limits it.
        images: Number of images in each set, for a value of sets of images.
    """

    value: float | None
    unit: str
    better: Literal["higher", "lower", "nearer 0", "nearer 0.5", "nearer 1", "nearer real"]
    n: int
    ci: tuple[float, float] | None = None
    note: str = ""
    images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A measurement of trained models.

    Attributes:
        name, summary: Kebab-case name and one line.
        evaluate: ``(artifact, cohort, options, progress) -> zoo.evaluation.scores.Evaluation``.
        options: Pydantic class of its options.
    """

    name: str
    summary: str
    evaluate: str
    options: str

    def __post_init__(self) -> None:
        _check_name("Evaluator", self.name)


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A runtime for parts.

    Attributes:
        name, summary: The name is what ``--backend`` takes.
        available: ``() -> str``: empty when it can be used here, else the reason and the exact pip line that helps.
        load: ``(folder: Path, part: str, device: str, precision: str) -> callable`` with the part's inputs and outputs
            as torch tensors; ``folder`` is the artifact's, which holds ``model.safetensors`` and ``exports/``.
        export: ``(zoo.exporting.ExportJob) -> zoo.exporting.ExportReport``; ``None`` for a runtime that needs no file.
        precisions: Those it runs, of `PRECISIONS`.
        devices: Kinds of device it runs on, of ``"cpu"`` and ``"cuda"``.
        onnx: The ONNX file that ``export`` starts from: ``"same"`` for the one in the precision asked for, a precision
            for that one whatever is asked, empty for none.
        uses: ``() -> str``: what it computes with on this machine, for ``zoo doctor``; ``None`` for nothing to say.
    """

    name: str
    summary: str
    available: str
    load: str
    export: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu", "cuda")
    onnx: Literal["", "same", "fp32"] = ""
    uses: str | None = None

    def __post_init__(self) -> None:
        unknown = [precision for precision in self.precisions if precision not in PRECISIONS]
        if unknown or not self.precisions:
            raise ConfigError(
                f"Exporter {self.name!r} names precisions {self.precisions}; they are of {', '.join(PRECISIONS)}."
            )
        _check_name("Exporter", self.name)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A cohort that the plugin makes or finds, so that the user names no folder.

    Attributes:
        name, summary: Kebab-case name and one line.
        open: ``(folder, spacing_mm, progress, *, subjects: int | None = None, seed: int = 0) -> Path``: writes the
            cohort into ``folder`` and returns its root. ``zoo data phantom`` gives ``subjects`` and ``seed``; where a
            method is trained without ``--data``, ``subjects`` is ``None``: as many as suit the dataset.
    """

    name: str
    summary: str
    open: str

    def __post_init__(self) -> None:
        _check_name("Dataset", self.name)
