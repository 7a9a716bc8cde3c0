"""Images that are far from all others, by their features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 10
FEWEST = 30  # images; of fewer, the spread of the distances is not known
DEVIATIONS = 5.0  # from the median, in standard deviations
TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for normally distributed values
FARTHER = 1.5  # least ratio to the median distance
BLOCK = 512  # rows of the distance matrix computed at a time


@dataclass(frozen=True)
class Outlier:
    """An image far from all others."""

    index: int
    ratio: float  # distance to its neighbours, in multiples of the median


def outliers(features: npt.NDArray[np.float32]) -> list[Outlier]:
    """Images whose mean distance to their nearest neighbours is unusually large.

    The score is the logarithm of the mean distance to the ``NEIGHBOURS`` nearest images (Ramaswamy, Rastogi, Shim 2000, with the mean in
    place of the last distance). An outlier exceeds the median score by ``DEVIATIONS`` robust standard deviations, estimated
    from the median absolute deviation, and the median distance by the factor ``FARTHER``.

    Args:
        features: float32 (image, feature).

    Returns:
        The farthest image first; empty for fewer than ``FEWEST`` images.
    """
    if len(features) < FEWEST:
        return []
    distances = neighbour_distances(features)
    middle = float(np.median(distances))
    if middle <= 0:
        return []  # most images are identical
    score = np.log(np.maximum(distances, 1e-6 * middle) / middle)
    spread = TO_SIGMA * float(np.median(np.abs(score)))
    far = np.flatnonzero(score > max(DEVIATIONS * spread, np.log(FARTHER)))
    found = [Outlier(int(index), float(distances[index] / middle)) for index in far]
    return sorted(found, key=lambda outlier: (-outlier.ratio, outlier.index))


def neighbour_distances(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean Euclidean distance of each image to its ``NEIGHBOURS`` nearest others, float32 (image,)."""
    squares = (features**2).sum(axis=1)
    count = min(NEIGHBOURS, len(features) - 1)
    distances = np.empty(len(features), np.float32)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        squared = squares[rows, None] + squares[None] - 2 * features[rows] @ features.T
        here = np.arange(len(squared))
        squared[here, start + here] = np.inf
        nearest = np.partition(squared, count - 1, axis=1)[:, :count]
        distances[rows] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
    return distances
