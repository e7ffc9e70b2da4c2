"""Which subjects and masks training has seen."""

from __future__ import annotations

from zoo.errors import DataError
from zoo.imaging.cache import PackedScan, mask_digest, pack_scan
from zoo.imaging.cohort import Cohort
from zoo.imaging.transfer import patient_of
from zoo.models.artifact import Artifact


def seen_subjects(artifact: Artifact, cohort: Cohort, *, tuning: bool = False) -> set[str]:
    """Return the subjects that training or the choice of a checkpoint has seen; of training alone for ``tuning``.

    An image is known by its decoded voxels and grid, so a copy that was renamed, compressed otherwise or stored as
    another type is recognised; models of version 0.1.0 know their images by the bytes of the file alone. With one image
    of a subject all of that subject's scans count as seen. Images are packed for the model on the way, so none is
    decoded again.

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
        DataError: Nobody is left, or an image cannot be used.
    """
    known = seen_subjects(artifact, cohort)
    left = cohort.subset(set(cohort.subjects) - known)
    if not left.scans:
        raise DataError(
            f"All {len(known)} subjects in {cohort.root} were used in training; a model is not measured on them. "
            "Give other subjects, or keep some when training (data.test)."
        )
    return left


def has_seen(artifact: Artifact, scan: PackedScan) -> bool:
    """Return whether training or the choice of a checkpoint has seen one of a scan's images."""
    return not _seen_images(artifact).isdisjoint(_hashes(artifact, scan))


def _seen_images(artifact: Artifact) -> set[str]:
    """Return the hashes by which a model knows the images of its training: of voxels, or with 0.1.0 of files."""
    manifest = artifact.manifest
    return set(manifest.get("trained_on_voxels", manifest.get("trained_on", ())))


def _hashes(artifact: Artifact, scan: PackedScan) -> tuple[str, ...]:
    return scan.voxel_hashes if "trained_on_voxels" in artifact.manifest else scan.image_hashes


def unlaid(artifact: Artifact, bank: Cohort) -> Cohort:
    """Leave out the lesion masks of every patient whose mask training has laid on its subjects.

    Masks are known by their voxels. A model that does not record them (of version 0.1.0) has laid none that are known.
    """
    laid = set(artifact.manifest.get("masks_laid", ()))
    masked = bank.with_all(["lesion-mask"]) if laid else bank
    patients = {patient_of(scan) for scan in masked.scans if laid and mask_digest(scan.maps["lesion-mask"]) in laid}
    return bank.subset(scan.subject for scan in bank.scans if patient_of(scan) not in patients)
