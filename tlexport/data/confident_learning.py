"""Likely wrong labels, from probabilities that a classifier gave to images it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlexport.ports import Array

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely wrong."""

    index: int
    suggested: int  # the class that the classifier is confident of
    probability: float  # of the suggested class
    own_probability: float  # of the labelled class

    @property
    def margin(self) -> float:
        """Normalised margin: the lower, the more likely is the label wrong."""
        return self.own_probability - self.probability


def suspicious_labels(probabilities: Array, labels: Labels) -> list[Suspect]:
    """Find likely wrong labels by confident learning (Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty
    in Dataset Labels").

    The threshold of a class is the mean probability of the class over the images with that label. An image counts as confidently of a
    class if its probability is at least the threshold of the class; of several such classes, the most probable one. These counts by
    label and class are the confident joint. Scaled so that the sum of each label is its number of images, they estimate how many images
    of each label are of each other class. That many images are selected for each pair, those with the largest difference between
    the probability of the class and that of the label (the paper's "prune by noise rate"). An image whose most probable class is its
    label is never selected.

    Args:
        probabilities: float (image, class), of a classifier that was not trained on the image.
        labels: int64 (image,).

    Returns:
        The suspects, the most likely wrong label first.
    """
    if not len(labels):
        return []
    wide = probabilities.astype(np.float64)
    own = wide[np.arange(len(labels)), labels]
    found = []
    for label, others in _noise(wide, labels, own).items():
        members = np.flatnonzero(labels == label)
        doubted = members[wide[members].argmax(axis=1) != label]
        for other, count in others:
            gain = wide[doubted, other] - own[doubted]
            order = np.argsort(-gain, kind="stable")[:count]
            found += [
                Suspect(int(doubted[at]), other, float(wide[doubted[at], other]), float(own[doubted[at]])) for at in order if gain[at] > 0
            ]
    found.sort(key=lambda suspect: (suspect.margin, suspect.index))
    return list({suspect.index: suspect for suspect in reversed(found)}.values())[::-1]


def _noise(probabilities: Array, labels: Labels, own: Array) -> dict[int, list[tuple[int, int]]]:
    """For each label, the other classes with the estimated number of images that are of that class."""
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # no image has the label: no threshold, never suggested
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    chosen = confident.argmax(axis=1)
    sure = confident.max(axis=1) >= 0
    sure_of_label = np.bincount(labels[sure], minlength=classes)
    pairs, joint = np.unique(np.stack([labels[sure], chosen[sure]]), axis=1, return_counts=True)
    found: dict[int, list[tuple[int, int]]] = {}
    for (label, other), count in zip(pairs.T.tolist(), joint.tolist(), strict=True):
        estimated = round(count * counts[label] / sure_of_label[label])
        if label != other and estimated:
            found.setdefault(label, []).append((other, estimated))
    return found
