"""Probabilities of a linear classifier on stored features, for images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

FOLDS = 5
COMPONENTS = 128  # principal components that the classifier sees
STRENGTH = 3.0  # inverse regularisation: the sum of the losses is added to the sum of the squared weights over twice this
ITERATIONS = 60  # of L-BFGS; the ranking of the suspects does not need the last digits
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
        weights = _fitted(inputs[trained], targets[trained], len(classes))
        held = np.flatnonzero(fold == number)
        probabilities[held] = _softmax(_with_ones(inputs[held]) @ weights)
    return CrossValidated(images, classes.astype(np.int64), probabilities)


def _fitted(inputs: Features, targets: Labels, classes: int) -> Features:
    """Multinomial logistic regression with an unregularised bias, by L-BFGS: weights, float32 (component + 1, class).

    Importing scikit-learn for it takes longer than the five fits of a small set.
    """
    inputs, rows = _with_ones(inputs), np.arange(len(inputs))
    shape = (inputs.shape[1], classes)

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = flat.reshape(shape)
        probabilities = _softmax(inputs @ weights.astype(np.float32))
        likelihood = np.log(np.maximum(probabilities[rows, targets], 1e-30)).sum(dtype=np.float64)
        probabilities[rows, targets] -= 1
        slope = (inputs.T @ probabilities).astype(np.float64)
        slope[:-1] += weights[:-1] / STRENGTH
        penalty = float((weights[:-1] ** 2).sum()) / (2 * STRENGTH)
        return (penalty - float(likelihood)) / len(inputs), slope.reshape(-1) / len(inputs)

    options = {"maxiter": ITERATIONS, "gtol": 1e-4}
    found = minimize(loss, np.zeros(shape[0] * classes), jac=True, method="L-BFGS-B", options=options)
    weights: Features = found.x.reshape(shape).astype(np.float32)
    return weights


def _with_ones(inputs: Features) -> Features:
    """The inputs with a column of ones for the bias."""
    return np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)


def _softmax(logits: Features) -> Features:
    exponents: Features = np.exp(logits - logits.max(axis=1, keepdims=True))
    exponents /= exponents.sum(axis=1, keepdims=True)
    return exponents


def _dealt(targets: Labels, folds: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """The fold of each image: the images of each class are dealt out in turn, in a random order."""
    order = random.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    fold = np.empty(len(targets), np.intp)
    fold[order] = np.arange(len(targets)) % folds
    return fold
