"""Class fidelity: whether a classifier that learned from real images recognises the class of generated ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from zoo.descriptors import Score
from zoo_realism.comparison import Images, mean_score
from zoo_realism.views import WHOLE

_FOLDS = 5


def class_fidelity(
    real: Mapping[str, Images], generated: Mapping[str, Images], seed: int
) -> tuple[dict[str, Score], dict[str, Score], str]:
    """Return per class the share of generated and of held-out real images that are recognised as of that class.

    The classifier is a logistic regression on standardised features, balanced by class. The one that judges generated
    images learned from all ``real`` images. Real images are judged in cross-validation, all of a subject held out
    together.

    Args:
        real, generated: Images of each class; at least two classes.
        seed: Of the folds.

    Returns:
        Scores of the generated and of the held-out real images, by class, and how they were measured.
    """
    names = list(real)
    features = np.concatenate([real[name].features[WHOLE].numpy() for name in names])
    labels = np.repeat(names, [len(real[name]) for name in names])
    owners = np.concatenate([real[name].owners for name in names])
    folds = min(_FOLDS, *(len(set(real[name].owners)) for name in names))
    trained = _classifier().fit(features, labels)
    recognised = {}
    for name, images in generated.items():
        right = trained.predict(images.features[WHOLE].numpy()) == name
        recognised[name] = mean_score(right, images.owners, "higher", len(set(real[name].owners)), len(images))
    held_out = _held_out(features, labels, owners, folds, seed)
    how = f"logistic regression on {len(labels)} real images, {folds} folds of subjects, {1 / len(names):.0%} is chance"
    return recognised, held_out, how


def _held_out(features: np.ndarray, labels: np.ndarray, owners: np.ndarray, folds: int, seed: int) -> dict[str, Score]:
    """Return the accuracy on held-out real images by class."""
    if folds < 2:
        why = "a class has a single subject, so none can be held out"
        return {name: Score(value=None, unit="", better="higher", n=1, note=why) for name in map(str, set(labels))}
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    right = cross_val_predict(_classifier(), features, labels, groups=owners, cv=split) == labels
    scores = {}
    for name in np.unique(labels):
        own = labels == name
        whose = owners[own].tolist()
        scores[str(name)] = mean_score(right[own], whose, "higher", len(set(whose)), len(whose))
    return scores


def _classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
