"""What a training would use and cost: subjects, masks, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.config import DataConfig, MethodConfig, TrainingConfig
from zoo.descriptors import Method, Stage, resolve
from zoo.errors import ConfigError, DataError
from zoo.imaging.cache import PackedCohort, mask_digest, pack_cohort
from zoo.imaging.cohort import Cohort, Split, read_cohort, split_subjects
from zoo.imaging.labels import doubts, find_labels
from zoo.imaging.phantom import VERSION
from zoo.imaging.transfer import patient_of
from zoo.models.golden import example_inputs
from zoo.progress import Bar
from zoo.registry import registry
from zoo.system.files import cache_folder


@dataclass(frozen=True)
class Plan:
    """What a training would use.

    Attributes:
        method, config: What to train.
        cohort: Scans that have what the method needs.
        split: Subjects for training, validation and test.
        mask_bank: Scans whose lesion masks are placed on the other scans.
        data_note: Where the data is from, in words.
    """

    method: Method
    config: MethodConfig
    cohort: Cohort
    split: Split
    mask_bank: Cohort
    data_note: str


def plan_training(method: Method, config: MethodConfig, data: Path | None, bar: Bar) -> Plan:
    """Find the data and split it; without ``data`` make the phantom cohort once in the user's cache.

    Raises:
        DataError: No scan has what the method needs, which tissue labels are white matter is not known, or lesions are
            asked for and no subject has a lesion mask for the others.
    """
    note = f"data: {data}"
    if data is None:
        data = made_cohort(method.dataset, config.data.finest_mm or 1.0, bar)
        kind = "synthetic phantom" if method.dataset == "phantom" else method.dataset
        note = f"data: no --data was given, so the {kind} cohort in {data} is used"
    found = read_cohort(data)
    settings = config.data
    found = found.named(settings.subjects)
    cohort = _with_known_lesions(found.fit_for(settings, method.needs))
    split = split_subjects(
        cohort.subjects,
        validation=settings.validation,
        test=settings.test,
        seed=config.seed,
        validation_subjects=settings.validation_subjects,
        test_subjects=settings.test_subjects,
    )
    bank = _mask_bank(config, found, split)
    if _lays_lesions(config):
        _check_bank(found, split, bank)
    return Plan(method, config, _with_labels(cohort, split, settings), split, bank, note)


def _with_known_lesions(cohort: Cohort) -> Cohort:
    """Leave out scans whose lesions are drawn on another image: here they would be taken for healthy tissue."""
    kept = tuple(scan for scan in cohort.scans if "lesion-mask" not in scan.unpaired)
    left_out = [scan for scan in cohort.scans if "lesion-mask" in scan.unpaired]
    if not kept:
        raise DataError(
            f"No scan of {cohort.root} can be trained on, since their lesions are not known: "
            f"{left_out[0].unpaired['lesion-mask']}."
        )
    notes = [f"{scan.id} is left out, since its lesions are drawn on another image" for scan in left_out]
    return Cohort(cohort.root, kept, (*cohort.notes, *notes))


def _with_labels(cohort: Cohort, split: Split, settings: DataConfig) -> Cohort:
    """Add notes on how the tissue labels are read, and on what contradicts it."""
    used = cohort.subset((*split.train, *split.validation))
    labels = find_labels(used, settings.white_matter_labels)
    said = [f"tissue labels: {text}" for text in dict.fromkeys(str(found) for found in labels.values())]
    return Cohort(cohort.root, cohort.scans, (*cohort.notes, *said, *doubts(used, labels)))


def _mask_bank(config: MethodConfig, found: Cohort, split: Split) -> Cohort:
    """Return the scans that lend their lesion masks; some patients' are kept for evaluation.

    Of the cohort itself those of the training subjects; of another cohort those of the patients named, else of all
    but a share ``data.test``.
    """
    settings = config.data
    if settings.lesion_masks is None:
        return found.subset(split.train)
    bank = read_cohort(Path(settings.lesion_masks)).with_all(["lesion-mask"])
    if settings.lesion_mask_subjects:
        return bank.named(settings.lesion_mask_subjects)
    patients = sorted({patient_of(scan) for scan in bank.scans})
    laid = split_subjects(patients, validation=0, test=settings.test, seed=config.seed).train
    return bank.subset(scan.subject for scan in bank.scans if patient_of(scan) in laid)


def _lays_lesions(config: MethodConfig) -> bool:
    return getattr(config, "masks", "circles") != "circles"


def _check_bank(found: Cohort, split: Split, bank: Cohort) -> None:
    """Refuse to train with lesions where no subject has a lesion mask for the others."""
    lenders = {scan.subject for scan in bank.scans if "lesion-mask" in scan.maps}
    if bank.root != found.root:
        return
    if lenders and (len(lenders) > 1 or set(split.train) - lenders):
        return
    patients = sorted({scan.subject for scan in found.scans if "lesion-mask" in scan.maps})
    if not patients:
        why = f"no scan in {found.root} has one"
    elif not lenders:
        why = f"all {len(patients)} subjects with one are kept for validation and testing: {', '.join(patients[:5])}"
    else:
        why = f"only {patients[0]} has one, and a subject's own lesions are not placed on it"
    raise DataError(
        f"Training with lesions needs lesion masks, but {why}. Name a cohort that has some with --set "
        "data.lesion_masks=DIR, or use --set masks=circles."
    )


def _check_laid(plan: Plan, packed: PackedCohort) -> None:
    """Refuse to train where no lesion falls into the white matter of a training subject."""
    trained = packed.subset(plan.split.train)
    if any(len(laid.voxels) for lesions in trained.lesions for laid in lesions):
        return
    if not any(scan.white_matter.any() for scan in trained.scans):
        raise DataError(
            f"Lesions are cut to white matter, which is not known of any training subject in {plan.cohort.root}: there "
            "is no dseg and no label-WM_mask. Add them, or use --set masks=circles."
        )
    raise DataError(
        f"No lesion of {plan.mask_bank.root} falls into white matter of the training subjects in {plan.cohort.root}: "
        "their world coordinates do not agree. Register them: zoo data transfer-masks … --nonlinear, or use --set "
        "masks=circles."
    )


def made_cohort(dataset: str, spacing_mm: float, bar: Bar) -> Path:
    """Return the cohort of a registered dataset at a spacing, made once in the user's cache.

    The phantom is made at the nearest of 1, 2 and 4 mm.

    Raises:
        UnknownNameError: No plugin brings the dataset.
    """
    opened = registry().datasets[dataset]
    folder = cache_folder() / "datasets" / dataset / f"{spacing_mm:g}mm"
    if dataset == "phantom":
        spacing_mm = min((1.0, 2.0, 4.0), key=lambda choice: abs(choice - spacing_mm))
        folder = cache_folder() / "phantom" / f"v{VERSION}-{spacing_mm:g}mm"
    if not folder.exists():
        with bar(f"Making the {dataset} cohort ({spacing_mm:g} mm)") as progress:
            resolve(opened.open)(folder, spacing_mm, progress)
    return folder


def pack(plan: Plan, bar: Bar) -> PackedCohort:
    """Pack the plan's training and validation subjects; the test subjects are not even read.

    Raises:
        DataError: An image cannot be used, or lesions are asked for and none falls on the head of a training subject.
    """
    used = plan.cohort.subset((*plan.split.train, *plan.split.validation))
    own = plan.config.data.lesion_masks is None
    with bar("Reading images") as progress:
        packed = pack_cohort(used, plan.config.data, mask_bank=plan.mask_bank, own_bank=own, progress=progress)
    if _lays_lesions(plan.config):
        _check_laid(plan, packed)
    return packed


def seen_by(plan: Plan, packed: PackedCohort) -> dict[str, list[str]]:
    """Return the hashes of what training sees, for the model's manifest.

    ``trained_on`` has the files and ``trained_on_voxels`` the voxels (`zoo.imaging.cache.voxel_hash`) of every image
    that training or the choice of a checkpoint sees, ``validated_on`` the voxels of those that checkpoints are scored
    on, and ``masks_laid`` every lesion mask that training places on its subjects.
    """
    scored = packed.subset(plan.split.validation).scans
    masks = [scan.maps["lesion-mask"] for scan in plan.mask_bank.scans if "lesion-mask" in scan.maps]
    return {
        "trained_on": sorted({digest for scan in packed.scans for digest in scan.image_hashes}),
        "trained_on_voxels": sorted({digest for scan in packed.scans for digest in scan.voxel_hashes}),
        "validated_on": sorted({digest for scan in scored for digest in scan.voxel_hashes}),
        "masks_laid": sorted({mask_digest(path) for path in masks}),
    }


@dataclass(frozen=True)
class Prepared:
    """Settings and packed data of one training.

    Attributes:
        plan: Method, settings and subjects.
        packed: Scans of the training and the validation subjects.
        seen: Hashes of what training sees (`seen_by`).
    """

    plan: Plan
    packed: PackedCohort
    seen: Mapping[str, list[str]]

    @property
    def record(self) -> dict[str, Any]:
        """What the run's record says of the training."""
        return {
            "method": self.plan.method.name,
            "method_version": self.plan.method.version,
            "config": self.plan.config.model_dump(mode="json"),
            "split": self.plan.split.to_json(),
            **self.about,
        }

    @property
    def about(self) -> dict[str, Any]:
        """What the model's manifest says of the data."""
        return {"data_fingerprint": self.packed.fingerprint, **self.seen}


def prepare(method: Method, config: MethodConfig, data: Path | None, bar: Bar) -> Prepared:
    """Plan a training and pack its data."""
    plan = plan_training(method, config, data, bar)
    packed = pack(plan, bar)
    return Prepared(plan, packed, seen_by(plan, packed))


def settings_of(method: Method, stage: Stage, config: MethodConfig) -> MethodConfig:
    """Return the settings as a stage sees them: ``training`` is the stage's own.

    Raises:
        ConfigError: `Stage.training` names no `TrainingConfig`.
    """
    settings: Any = config
    for name in stage.training.split("."):
        settings = getattr(settings, name, None)
    if not isinstance(settings, TrainingConfig):
        raise ConfigError(
            f"Stage {stage.name!r} of method {method.name!r} names its training settings {stage.training!r}, but that "
            f"is {settings!r} and no TrainingConfig."
        )
    return config.model_copy(update={"training": settings})


@dataclass(frozen=True)
class Cost:
    """Size of a model and of its training.

    Attributes:
        parameters: Numbers of the model that are trained.
        weight_bytes: Weights of the whole model; gradients, two optimiser moments and the average of what is trained.
        activation_bytes: What autograd keeps for a step.
    """

    parameters: int
    weight_bytes: int
    activation_bytes: int


def estimate_cost(method: Method, config: MethodConfig, stage: Stage | None = None) -> Cost:
    """Estimate the memory of a training by running every part once on the meta device, where nothing is computed.

    For a stage these are the parts that lie in its module, or all where none does.
    """
    stored: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # a freed storage's id could be given again

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        stored[storage._cdata] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.device("meta"):
        model: nn.Module = resolve(method.build)(config)
    trained = model.get_submodule(stage.module) if stage else model
    if trained is not model:
        model.requires_grad_(False)
        trained.requires_grad_(True)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    parts = resolve(method.parts)(config.while_training).values()
    own = [part for part in parts if stage and f"{part.module}.".startswith(f"{stage.module}.")]
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        for part in own or parts:
            inputs = example_inputs(part, seed=0, axes={"batch": 1})
            shapes = [
                tensor.expand(config.training.batch_size, *tensor.shape[1:]).to("meta") for tensor in inputs.values()
            ]
            model.get_submodule(part.module)(*shapes)
    whole, parameters = (sum(parameter.numel() for parameter in one.parameters()) for one in (model, trained))
    activations = sum(size for storage, size in stored.items() if storage not in weights)
    return Cost(parameters, whole * 4 + parameters * 4 * 4, activations)
