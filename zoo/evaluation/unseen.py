"""Which subjects and lesion masks training has seen."""

from __future__ import annotations

from zoo.errors import DataError
from zoo.imaging.cache import PackedScan, mask_digest, pack_scan
from zoo.imaging.cohort import Cohort
from zoo.imaging.transfer import patient_of
from zoo.models.artifact import Artifact


def seen_subjects(artifact: Artifact, cohort: Cohort, *, tuning: bool = False) -> set[str]:
    """Return the subjects that training or the choice of a checkpoint has seen; with ``tuning`` only those of training.

    Images are recognised by their decoded voxels and grid, also in a copy with another name, compression or type;
    models of version 0.1.0 recognise only the bytes of the file. If one image of a subject is recognised, all scans of
    the subject count as seen. Images are packed for the model, so no image is decoded twice.

    Raises:
        DataError: An image cannot be used.
    """
    seen = _seen_images(artifact)
    if tuning:
        seen -= set(artifact.manifest.get("validated_on", ()))
    if not seen:
        return set()
    return {
        scan.subject
        for scan in cohort.scans
        if not seen.isdisjoint(_hashes(artifact, pack_scan(scan, artifact.config.data)))
    }


def unseen(artifact: Artifact, cohort: Cohort) -> Cohort:
    """Leave out every subject that training or the choice of a checkpoint has seen, see `seen_subjects`.

    Raises:
        DataError: No subject is left, or an image cannot be used.
    """
    known = seen_subjects(artifact, cohort)
    left = cohort.subset(set(cohort.subjects) - known)
    if not left.scans:
        raise DataError(
            f"All {len(known)} subjects in {cohort.root} were used in training; a model is not measured on them. "
            "Give other subjects, or keep some from training (data.test)."
        )
    return left


def training_subjects(artifact: Artifact, cohort: Cohort) -> tuple[Cohort, float]:
    """Return the subjects that training has seen, and the share of the training's images that they have.

    Subjects on which only a checkpoint was chosen are left out. Images are recognised as by `seen_subjects`.

    Raises:
        DataError: An image cannot be used.
    """
    seen = _seen_images(artifact) - set(artifact.manifest.get("validated_on", ()))
    found: dict[str, set[str]] = {}
    for scan in cohort.scans if seen else ():
        known = seen.intersection(_hashes(artifact, pack_scan(scan, artifact.config.data)))
        if known:
            found.setdefault(scan.subject, set()).update(known)
    whole = set().union(*found.values())
    return cohort.subset(found), len(whole) / len(seen) if seen else 0.0


def has_seen(artifact: Artifact, scan: PackedScan) -> bool:
    """Return whether training or the choice of a checkpoint has seen one of a scan's images."""
    return not _seen_images(artifact).isdisjoint(_hashes(artifact, scan))


def _seen_images(artifact: Artifact) -> set[str]:
    """Return the hashes of the images of a model's training: of voxels; in models of 0.1.0, of files."""
    manifest = artifact.manifest
    return set(manifest.get("trained_on_voxels", manifest.get("trained_on", ())))


def _hashes(artifact: Artifact, scan: PackedScan) -> tuple[str, ...]:
    return scan.voxel_hashes if "trained_on_voxels" in artifact.manifest else scan.image_hashes


def unlaid(artifact: Artifact, bank: Cohort) -> Cohort:
    """Leave out the lesion masks of every patient whose mask training has placed on its subjects.

    Masks are recognised by their voxels. Models of version 0.1.0 do not record them, so nothing is left out.
    """
    laid = set(artifact.manifest.get("masks_laid", ()))
    masked = bank.with_all(["lesion-mask"]) if laid else bank
    patients = {patient_of(scan) for scan in masked.scans if laid and mask_digest(scan.maps["lesion-mask"]) in laid}
    return bank.subset(scan.subject for scan in bank.scans if patient_of(scan) not in patients)
