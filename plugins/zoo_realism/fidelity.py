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
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Return per class the share of generated and of held-out real images that are recognised as of that class.

    The classifier is a logistic regression on standardised features, balanced by class. The one that judges generated
    images learned from all ``real`` images. Real images are judged in cross-validation, all of a subject held out
    together.

    Args:
        real, generated: Images of each class; at least two classes.
        seed: Of the folds.

    Returns:
        Scores of the generated and of the held-out real images, by class.
    """
    names = list(real)
    features = np.concatenate([real[name].features[WHOLE].numpy() for name in names])
    labels = np.repeat(names, [len(real[name]) for name in names])
    owners = np.concatenate([real[name].owners for name in names])
    trained = _classifier().fit(features, labels)
    note = f"by a classifier of {len(features)} real images; {1 / len(names):.2g} is chance"
    recognised = {}
    for name, images in generated.items():
        right = trained.predict(images.features[WHOLE].numpy()) == name
        subjects = len(set(real[name].owners))
        recognised[name] = mean_score(right, images.owners, "higher", subjects, len(images), note)
    return recognised, _held_out(features, labels, owners, seed)


def _held_out(features: np.ndarray, labels: np.ndarray, owners: np.ndarray, seed: int) -> dict[str, Score]:
    """Return the accuracy on held-out real images per class."""
    names = np.unique(labels)
    folds = min(_FOLDS, *(len(set(owners[labels == name])) for name in names))
    if folds < 2:
        why = "a class has one subject, so none can be held out"
        return {
            str(name): Score(value=None, unit="", better="higher", n=1, images=int((labels == name).sum()), note=why)
            for name in names
        }
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    right = cross_val_predict(_classifier(), features, labels, groups=owners, cv=split) == labels
    scores = {}
    for name in names:
        own = labels == name
        subjects, note = len(set(owners[own])), f"real images, held out by subject in {folds} folds"
        scores[str(name)] = mean_score(right[own], owners[own].tolist(), "higher", subjects, int(own.sum()), note)
    return scores


def _classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
