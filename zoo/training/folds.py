"""Folds: trainings that each leave out a share of the training subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.config import MethodConfig, changed
from zoo.errors import DataError
from zoo.imaging.cohort import Split
from zoo.randomness import FOLD, seed_for


def shares(subjects: Sequence[str], count: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Return which training subjects each of ``count`` folds leaves out; each subject is left out once.

    Args:
        subjects: Training subjects.
        count: Number of folds; 0 gives none.
        seed: The same seed and subjects give the same shares.

    Raises:
        DataError: There are fewer subjects than folds.
    """
    if count == 0:
        return ()
    if len(subjects) < count:
        raise DataError(
            f"{count} folds need at least {count} training subjects, but there are {len(subjects)}; ask for fewer "
            "folds, or lower data.test and data.validation."
        )
    order = [str(name) for name in np.random.default_rng(seed_for(seed, FOLD, count)).permutation(sorted(subjects))]
    return tuple(tuple(sorted(order[fold::count])) for fold in range(count))


def leave_out(config: MethodConfig, split: Split, share: Sequence[str]) -> MethodConfig:
    """Return the settings of a fold: the subjects of ``share`` become test subjects, and the rest of the split stays.

    The fold is then an ordinary training. Its data is prepared anew, and no lesion mask of a subject left out is placed
    on the others.
    """
    data = {
        "test_subjects": sorted({*split.test, *share}),
        "validation_subjects": list(split.validation),
        "validation": 0.0 if not split.validation else config.data.validation,
    }
    return changed(config, {"data": data})
