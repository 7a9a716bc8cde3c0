"""Test whether one model is slower than another, from raw samples.

Percentile bootstrap (Efron 1979). Whole rounds or blocks are resampled, not single runs: consecutive runs are disturbed together, so
treating them as independent would give intervals that are far too narrow.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tlexport.measurement import Interval

RESAMPLES = 5000
CONFIDENCE = 0.99  # confidence of the interval: 1 % false positives
BLOCKS = 10  # of one measurement, each of runs that follow each other

Samples = tuple[int, ...]  # ns
Turns = tuple[Samples, ...]  # of one model in a round


def round_ratio(one: Turns, other: Turns) -> float:
    """Ratio of two models in a round: the median over turns of the ratio of medians.

    Adjacent turns are compared, so that a disturbance longer than a turn affects both models.

    Args:
        one: turns of the one model, at least one, none empty.
        other: as many of the other.
    """
    pairs = zip(one, other, strict=True)
    return statistics.median(statistics.median(second) / statistics.median(first) for first, second in pairs)


def paired(rounds: Sequence[tuple[Turns, Turns]]) -> Interval:
    """Ratio of two models that were timed in turn in the same rounds: the median over rounds of :func:`round_ratio`.

    Rounds are resampled: each round uses new processes, whose speed differs for their whole lifetime.

    Args:
        rounds: turns of the one and of the other model.
    """
    ratios = np.array([round_ratio(one, other) for one, other in rounds])
    draw = np.random.default_rng(0)  # the same rounds give the same interval
    medians = np.median(ratios[draw.integers(0, len(ratios), (RESAMPLES, len(ratios)))], axis=1)
    return _interval(float(np.median(ratios)), medians)


def unpaired(before: Samples, after: Samples) -> Interval:
    """Ratio of the medians of two measurements made at different times.

    Each is cut into blocks of consecutive runs, and the blocks are resampled. This covers drift within a measurement, but not
    differences between two starts of a model.
    """
    draw = np.random.default_rng(0)
    drawn = []
    for samples in (before, after):
        blocks = _block_medians(samples)
        drawn.append(np.median(blocks[draw.integers(0, len(blocks), (RESAMPLES, len(blocks)))], axis=1))
    return _interval(statistics.median(after) / statistics.median(before), drawn[1] / drawn[0])


def _block_medians(samples: Samples) -> npt.NDArray[np.float64]:
    parts = np.array_split(np.asarray(samples, dtype=np.float64), min(BLOCKS, max(1, len(samples) // 2)))
    return np.array([np.median(part) for part in parts])


def _interval(ratio: float, drawn: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(ratio, min(ratio, float(low)), max(ratio, float(high)))
