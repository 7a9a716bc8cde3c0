"""Probabilities of a linear classifier on stored features, for images that it was not trained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

FOLDS = 5
COMPONENTS = 128  # principal components that the classifier sees
STRENGTH = 3.0  # inverse regularisation C of scikit-learn, on standardised components
ITERATIONS = 100
MOST_VALUES = 5 * 10**7  # images in training times classes; of more images, a sample is trained on


@dataclass(frozen=True)
class CrossValidated:
    """Out-of-fold predictions."""

    images: npt.NDArray[np.intp]  # images whose class has enough images, rising
    classes: Labels  # classes with enough images, rising
    probabilities: npt.NDArray[np.float32]  # (image, class), by position in ``images`` and ``classes``


def components(features: Features) -> Features:
    """The first principal components of standardised features, divided by the root of the largest variance.

    Args:
        features: float32 (image, ...); axes after the first are flattened.

    Returns:
        float32 (image, component), at most ``COMPONENTS``. Constant features contribute nothing.
    """
    flat = features.reshape(len(features), -1).astype(np.float32)
    flat = flat - flat.mean(axis=0)
    deviation = flat.std(axis=0)
    scaled = flat / np.where(deviation > 1e-6, deviation, np.inf)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / max(1, len(scaled)))
    order = np.argsort(values)[::-1][: min(COMPONENTS, len(scaled))]
    found: Features = (scaled @ vectors[:, order] / np.sqrt(max(float(values[-1]), 1e-12))).astype(np.float32)
    return found


def cross_validated(inputs: Features, labels: Labels, seed: int, folds: int = FOLDS) -> CrossValidated | None:
    """Probabilities of a multinomial logistic regression for each image, trained on the other folds.

    A class takes part if it has at least two images in each fold on average. The folds are stratified: the images of a class are dealt
    out in a random order.

    Args:
        inputs: float32 (image, component), of :func:`components`.
        labels: int64 (image,).
        seed: of the folds.
        folds: number of folds.

    Returns:
        None if fewer than two classes have enough images.
    """
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts >= 2 * folds)
    if len(classes) < 2:
        return None
    images = np.flatnonzero(np.isin(labels, classes))
    inputs, targets = inputs[images], np.searchsorted(classes, labels[images])
    random = np.random.default_rng(seed)
    fold = _dealt(targets, folds, random)
    probabilities = np.zeros((len(images), len(classes)), np.float32)
    for number in range(folds):
        trained = np.flatnonzero(fold != number)
        most = max(len(classes) * 2, MOST_VALUES // len(classes))
        if len(trained) > most:
            trained = random.permutation(trained)[:most]
        model = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the ranking of the suspects does not need the last digits
            model.fit(inputs[trained], targets[trained])
        held = np.flatnonzero(fold == number)
        probabilities[np.ix_(held, model.classes_)] = model.predict_proba(inputs[held])
    return CrossValidated(images, classes.astype(np.int64), probabilities)


def _dealt(targets: Labels, folds: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """The fold of each image: the images of each class are dealt out in turn, in a random order."""
    order = random.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    fold = np.empty(len(targets), np.intp)
    fold[order] = np.arange(len(targets)) % folds
    return fold
