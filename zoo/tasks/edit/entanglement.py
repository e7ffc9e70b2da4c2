"""Entanglement: how much an edit moves other attributes, by regressors trained on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.metrics.statistics import Interval, mean_interval
from zoo.tasks.edit.directions import Attribute, ridge_on_features, scores, subject_folds


@dataclass(frozen=True)
class EntanglementRow:
    """How much one attribute moves along a direction.

    Attributes:
        attribute: Its name.
        unit: For groups "first to second"; empty for the column's own unit.
        per_alpha: Change per unit of alpha, the mean over subjects.
        standardised: The same in standard deviations of the attribute among the real images.
        skill: How well the regressor predicts real images of unseen subjects; without skill a change says nothing.
    """

    attribute: str
    unit: str
    per_alpha: Interval
    standardised: Interval
    skill: Sequence[dict[str, Any]]


def measure_entanglement(
    real: np.ndarray,
    edited: np.ndarray,
    alphas: Sequence[float],
    attributes: Sequence[Attribute],
    subjects: Sequence[str],
    *,
    folds: int,
    seed: int = 0,
) -> list[EntanglementRow]:
    """Measure how much each attribute moves when images are edited.

    A ridge regression from features to the attribute is fitted on real images of some subjects and applied to the
    edited images of the others, in turn (cross-fitting), so no subject is measured by a regressor that has seen it.
    The slope over alpha is fitted for each image, averaged over a subject's images, and then over subjects. Its
    interval covers the spread between subjects, not the uncertainty of the regressor.

    Args:
        real: ``[N, F]`` features of real images.
        edited: ``[N, A, F]`` features of the same images, edited.
        alphas: ``[A]``, at least two different ones.
        attributes: Known attributes of the real images.
        subjects: One per image.
        folds: Parts of the cross-fitting.
        seed: Decides the folds.

    Raises:
        DataError: There are fewer subjects than folds.
    """
    centred = np.asarray(alphas, float) - np.mean(alphas)
    found = []
    for attribute in attributes:
        owners = [subjects[index] for index in attribute.rows]
        features, versions = real[attribute.rows], edited[attribute.rows]
        predicted, slopes = np.empty(len(owners)), np.empty(len(owners))
        for fitted, held in subject_folds(attribute, owners, folds, seed):
            weights, offset = ridge_on_features(features[fitted], attribute.values[fitted])
            predicted[held] = features[held] @ weights + offset
            slopes[held] = (versions[held] @ weights) @ centred / (centred @ centred)
        names = np.array(owners)
        means = np.array([slopes[names == name].mean() for name in np.unique(names)])
        middle = 0.5 if attribute.kind == "groups" else 0.0  # scores count a prediction above 0 as the second group
        found.append(
            EntanglementRow(
                attribute=attribute.name,
                unit=" to ".join(attribute.levels),
                per_alpha=mean_interval(means.tolist()),
                standardised=mean_interval((means / attribute.values.std()).tolist()),
                skill=scores(attribute, predicted - middle, owners, seed),
            )
        )
    return found
