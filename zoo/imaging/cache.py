"""The packed cache: each volume is decoded and preprocessed once, then memory-mapped.

One folder per scan, named by the hash of its files and of the settings that shaped it: a changed image or setting
never reuses a stale packing, and adding a subject packs one subject.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from zoo.config import DataConfig
from zoo.errors import DataError, ZooError
from zoo.imaging.cohort import Cohort, Scan, lesion_table
from zoo.imaging.geometry import Grid, model_grid, to_grid
from zoo.imaging.labels import find_labels
from zoo.imaging.masks import LaidLesions, lay_lesions
from zoo.imaging.preprocessing import Intensity, scale_intensity
from zoo.imaging.transfer import LAID_ON
from zoo.imaging.volume import Volume, read_volume
from zoo.system.files import cache_folder, locked, replacing, sha256

PACKING = 3
"""Version of what is packed; packings of other versions are not used."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackedScan:
    """One scan on the model's grid, slices first, memory-mapped.

    Attributes:
        id, subject, covariates: As in the cohort.
        images: float16 ``[K, C, I, J]`` in [-1, 1], one channel per contrast.
        targets: float32 ``[K, T, I, J]``, one channel per target, scaled but never clamped: values may lie outside
            [-1, 1]. T is 0 where targets are not asked for.
        tissue: uint8 ``[K, I, J]`` labels, all zero where the cohort has none.
        white_matter: bool ``[K, I, J]``, all false where the cohort has none.
        lesion_mask: bool ``[K, I, J]``, all false where the cohort has none.
        lesion_numbers: uint16 ``[K, I, J]``: the value of each lesion's voxels in the mask, where a table says what
            is known of each lesion (`zoo.imaging.cohort.lesion_table`), else all zero.
        lesion_labels: Columns of that table by lesion number; empty without a table.
        regions: bool ``[K, I, J]`` by role, for the roles of ``data.regions`` that the scan has.
        lesion_free: float16 ``[K, I, J]`` twin of the T1w channel, or ``None``.
        grid: The model's grid, axes (i, j, k) in RAS.
        intensities: How each channel's units map to [-1, 1].
        target_intensities: The same for each target; ``decode`` gives its physical unit back.
        image_hashes: SHA-256 of each file that contrasts and targets are made of.
        voxel_hashes: The same by decoded voxels and grid (`voxel_hash`).
    """

    id: str
    subject: str
    covariates: dict[str, str]
    images: np.ndarray
    targets: np.ndarray
    tissue: np.ndarray
    white_matter: np.ndarray
    lesion_mask: np.ndarray
    lesion_numbers: np.ndarray
    lesion_labels: dict[int, dict[str, str]]
    regions: dict[str, np.ndarray]
    lesion_free: np.ndarray | None
    grid: Grid
    intensities: tuple[Intensity, ...]
    target_intensities: tuple[Intensity, ...]
    image_hashes: tuple[str, ...]
    voxel_hashes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, then the size of each: ``(K, I, J)``."""
        slices, _, rows, columns = self.images.shape
        return slices, rows, columns


@dataclass(frozen=True)
class PackedCohort:
    """Packed scans, and the lesions of other subjects that are placed on each.

    Attributes:
        scans: The scans.
        lesions: For each scan, one entry per lesion mask of the bank; empty where there is no bank.
    """

    scans: tuple[PackedScan, ...]
    lesions: tuple[tuple[LaidLesions, ...], ...]

    def subset(self, subjects: Sequence[str]) -> PackedCohort:
        """Keep the scans of ``subjects``."""
        kept = [index for index, scan in enumerate(self.scans) if scan.subject in set(subjects)]
        return PackedCohort(tuple(self.scans[i] for i in kept), tuple(self.lesions[i] for i in kept))

    @property
    def fingerprint(self) -> str:
        """Hash of the ids and image files of all scans."""
        text = json.dumps([(scan.id, scan.image_hashes) for scan in self.scans])
        return hashlib.sha256(text.encode()).hexdigest()


def pack_cohort(
    cohort: Cohort,
    config: DataConfig,
    *,
    mask_bank: Cohort | None = None,
    own_bank: bool = False,
    targets: bool = True,
    progress: Progress | None = None,
) -> PackedCohort:
    """Pack a cohort for training or evaluation.

    Args:
        cohort: Scans that have all contrasts of ``config``.
        config: Channels, grid and scaling.
        mask_bank: Scans whose lesion masks are placed on these; none places nothing.
        own_bank: The bank is of the same cohort; a subject's own lesions are then not placed on itself.
        targets: Pack the targets of ``config``, too; a task needs contrasts only.
        progress: Called with (scans packed, scans in all).

    Raises:
        DataError: An image cannot be used or is missing; the message names the scan. Or the labels of white matter are
            not known.
    """
    labels = find_labels(cohort, config.white_matter_labels)
    banked = mask_bank.scans if mask_bank else ()
    scans: list[PackedScan] = []
    lesions: list[tuple[LaidLesions, ...]] = []
    for number, scan in enumerate(cohort.scans):
        white_matter = labels[scan.id].white_matter if scan.id in labels else ()
        packed = pack_scan(scan, config, white_matter, targets=targets)
        scans.append(packed)
        lesions.append(_laid(packed, lenders(scan.subject, banked, own_bank=own_bank)))
        if progress:
            progress(number + 1, len(cohort.scans))
    return PackedCohort(tuple(scans), tuple(lesions))


def lenders(subject: str, bank: Sequence[Scan], *, own_bank: bool) -> list[Scan]:
    """Return the scans of a bank whose lesion masks are placed on a subject, in the order of `PackedCohort.lesions`."""
    return [
        other
        for other in bank
        if "lesion-mask" in other.maps
        and not (own_bank and other.subject == subject)
        and other.covariates.get(LAID_ON, subject) == subject
    ]


def pack_scan(
    scan: Scan, config: DataConfig, white_matter_labels: Sequence[int] = (), *, targets: bool = False
) -> PackedScan:
    """Return one scan packed, from the cache where possible.

    Args:
        scan: With all contrasts of ``config``.
        config: Channels, grid and scaling.
        white_matter_labels: Of its tissue labels; not used where it has a mask of white matter.
        targets: Pack the targets of ``config``, too.

    Raises:
        DataError: An image cannot be used or is missing; the message names the scan.
    """
    if not targets:
        config = config.model_copy(update={"targets": ()})
    missing = [name for name in config.images if name not in scan.images]
    if missing:
        raise DataError(f"{scan.id} has no {', '.join(missing)}, which its channels and their scales need.")
    used = (*config.images, *_MAPS, *config.regions)
    try:
        hashes = {key: sha256(path) for key, path in sorted({**scan.images, **scan.maps}.items()) if key in used}
    except OSError as error:
        raise DataError(f"{scan.id}: {error.filename} cannot be read ({error.strerror}).") from None
    shaping = {
        "contrasts",
        "targets",
        "derived",
        "scales",
        "spacing_mm",
        "matrix",
        "scaling",
        "percentile",
        "noise_floor",
    }
    settings = config.model_dump(mode="json", include={*shaping, "regions"})
    key = _key("scan", PACKING, hashes, settings)
    folder = cache_folder() / "packed" / key[:2] / key
    if not (folder / "scan.json").is_file():
        try:
            # A process that packs the same scan at this moment is waited for: replacing its folder would take its
            # files from under a reader.
            with locked(folder.parent):
                if not (folder / "scan.json").is_file():
                    with replacing(folder) as temporary:
                        _pack(scan, config, temporary)
        except ZooError as error:
            raise type(error)(f"{scan.id}: {error}") from None
    return _open(folder, scan, white_matter_labels, config.regions, tuple(hashes[name] for name in config.images))


_MAPS = ("lesion-mask", "tissue", "white-matter", "lesion-free")


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _pack(scan: Scan, config: DataConfig, folder: Path) -> None:
    names = config.images
    first = read_volume(scan.images[names[0]])
    grid = model_grid(first.shape, first.affine, config.spacing_mm, config.matrix)
    values: dict[str, np.ndarray] = {}
    hashes: dict[str, str] = {}
    for name in names:
        volume = first if name == names[0] else read_volume(scan.images[name])
        if len(volume.data) != 1:
            raise DataError(f"{name} has {len(volume.data)} volumes; training needs one volume per channel.")
        values[name] = to_grid(volume.data[0], volume.affine, grid)
        hashes[name] = voxel_hash(volume)
    folder.mkdir()
    intensities = _pack_channels(config.contrasts, values, grid, config, np.float16, folder / "images.npy")
    target_intensities = _pack_channels(config.targets, values, grid, config, np.float32, folder / "targets.npy")
    for role in ("tissue", "white-matter", "lesion-mask", *config.regions):
        if role in scan.maps:
            volume = read_volume(scan.maps[role])
            np.save(folder / f"{role}.npy", _slices_first(_labels(volume, role, grid)))
            if role == "lesion-mask" and volume.data.max() > 1:
                numbers = to_grid(volume.data[0], volume.affine, grid, order=0).round().clip(0, 2**16 - 1)
                np.save(folder / "lesion-numbers.npy", _slices_first(numbers.astype(np.uint16)))
    if "lesion-free" in scan.maps and "T1w" in config.contrasts:
        twin = read_volume(scan.maps["lesion-free"])
        encoded = intensities[config.contrasts.index("T1w")].encode(to_grid(twin.data[0], twin.affine, grid))
        np.save(folder / "lesion-free.npy", _slices_first(encoded).astype(np.float16))
    description = {
        "shape": grid.shape,
        "affine": grid.affine.tolist(),
        "intensities": [intensity.to_json() for intensity in intensities],
        "target_intensities": [intensity.to_json() for intensity in target_intensities],
        "voxel_hashes": [hashes[name] for name in names],
    }
    (folder / "scan.json").write_text(json.dumps(description), encoding="utf-8")


def _pack_channels(
    names: Sequence[str],
    values: dict[str, np.ndarray],
    grid: Grid,
    config: DataConfig,
    dtype: type[np.floating],
    file: Path,
) -> list[Intensity]:
    """Write channels as ``[K, C, I, J]`` and return how each is scaled."""
    packed = np.zeros((grid.shape[2], len(names), *grid.shape[:2]), dtype)
    intensities = []
    for index, name in enumerate(names):
        channel, intensity = scale_intensity(name, values, grid.spacing_mm, config)
        packed[:, index] = _slices_first(intensity.encode(channel))
        intensities.append(intensity)
    np.save(file, packed)
    return intensities


_AFFINE_STEP_MM = 0.0137
"""Affines are rounded to multiples of this; no usual voxel size or origin lies on the border between two of them."""


def voxel_hash(volume: Volume) -> str:
    """Return a hash of an image's decoded voxels and grid.

    It does not depend on compression, file name, free text of the header, the stored type of the same values or the
    order in which the axes are stored. Values are compared as float32, with slope and intercept applied.
    """
    turn = io_orientation(volume.affine)
    shape = volume.shape
    digest = hashlib.sha256()
    affine = np.rint(volume.affine @ inv_ornt_aff(turn, shape) / _AFFINE_STEP_MM).astype("<i8")
    digest.update(affine.tobytes())
    for frame in volume.data:
        turned = np.ascontiguousarray(apply_orientation(frame, turn), "<f4")
        digest.update(json.dumps(turned.shape).encode())
        digest.update((turned + 0).tobytes())  # -0 becomes 0
    return digest.hexdigest()


def _labels(volume: Volume, role: str, grid: Grid) -> np.ndarray:
    values = volume.data[0] if role == "tissue" else (volume.data[0] > 0.5).astype(np.float32)
    return to_grid(values, volume.affine, grid, order=0).round().astype(np.uint8)


def _slices_first(volume: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(volume, 2, 0))


def _open(
    folder: Path,
    scan: Scan,
    white_matter_labels: Sequence[int],
    regions: Sequence[str],
    image_hashes: tuple[str, ...],
) -> PackedScan:
    description = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r")
    nothing = np.broadcast_to(np.uint8(0), (images.shape[0], *images.shape[2:]))
    tissue, white_matter, lesion_mask = (
        np.load(folder / f"{role}.npy", mmap_mode="r") if (folder / f"{role}.npy").is_file() else nothing
        for role in ("tissue", "white-matter", "lesion-mask")
    )
    if "white-matter" not in scan.maps:
        white_matter = np.isin(tissue, white_matter_labels)
    labels = lesion_table(scan.maps["lesion-mask"]) if "lesion-mask" in scan.maps else {}
    numbered = folder / "lesion-numbers.npy"
    numbers = np.load(numbered, mmap_mode="r") if labels and numbered.is_file() else (lesion_mask > 0) * bool(labels)
    twin = folder / "lesion-free.npy"
    return PackedScan(
        id=scan.id,
        subject=scan.subject,
        covariates=scan.covariates,
        images=images,
        targets=np.load(folder / "targets.npy", mmap_mode="r"),
        tissue=tissue,
        white_matter=white_matter.astype(bool),
        lesion_mask=lesion_mask.astype(bool),
        lesion_numbers=numbers.astype(np.uint16),
        lesion_labels=labels,
        regions={role: np.load(folder / f"{role}.npy").astype(bool) for role in regions if role in scan.maps},
        lesion_free=np.load(twin, mmap_mode="r") if twin.is_file() else None,
        grid=Grid(tuple(description["shape"]), np.array(description["affine"])),
        intensities=tuple(Intensity.from_json(item) for item in description["intensities"]),
        target_intensities=tuple(Intensity.from_json(item) for item in description["target_intensities"]),
        image_hashes=image_hashes,
        voxel_hashes=tuple(description["voxel_hashes"]),
    )


def _laid(packed: PackedScan, bank: Sequence[Scan]) -> tuple[LaidLesions, ...]:
    """Return the bank's lesions on one scan, from the cache if possible."""
    if not bank:
        return ()
    if not packed.white_matter.any():
        return ()  # lesions need known white matter; training refuses a cohort without
    hashes = [sha256(scan.maps["lesion-mask"]) for scan in bank]
    white_matter_hash = hashlib.sha256(np.packbits(packed.white_matter).tobytes()).hexdigest()
    key = _key("lesions", PACKING, hashes, white_matter_hash, packed.grid.shape, packed.grid.affine.tolist())
    file = cache_folder() / "lesions" / key[:2] / f"{key}.npz"
    if not file.is_file():
        laid = []
        for scan in bank:
            path = scan.maps["lesion-mask"]
            mask, affine = _bank_mask(path)
            laid.append(lay_lesions(mask, affine, packed.grid, packed.white_matter))
        arrays = {f"voxels{n}": item.voxels for n, item in enumerate(laid)}
        arrays |= {f"labels{n}": item.labels for n, item in enumerate(laid)}
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    with np.load(file) as stored:
        return tuple(LaidLesions(stored[f"voxels{n}"], stored[f"labels{n}"]) for n in range(len(bank)))


_bank_masks: dict[Path, tuple[np.ndarray, np.ndarray]] = {}


def _bank_mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a bank mask as bits and its affine; it is placed on each subject and decoded once."""
    if path not in _bank_masks:
        volume = read_volume(path)
        _bank_masks[path] = volume.data[0] > 0.5, volume.affine
    return _bank_masks[path]


def mask_digest(path: Path) -> str:
    """Return a hash of a mask's voxels and grid, independent of the file's name, type and compression."""
    mask, affine = _bank_mask(path)
    place = json.dumps([mask.shape, np.round(affine, 3).tolist()])
    return hashlib.sha256(place.encode() + np.packbits(mask).tobytes()).hexdigest()
