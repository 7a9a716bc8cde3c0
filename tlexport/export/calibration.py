"""Selects calibration images: a class-balanced, seeded sample of the training part. Never validation images or random data."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from tlexport.artifact import Calibration, Tried
from tlexport.dataset import Dataset, Sample
from tlexport.errors import UsageError

CALIBRATION_IMAGES = 200  # ranges of small classifiers converge between 100 and 300 (NNCF's default is 300)
SELECTION_IMAGES = 200  # other images, on which the calibration method is chosen
MAX_TRAINING_IMAGES = 2000  # images per epoch of a training for INT8, to keep it short
MIN_CALIBRATION_IMAGES = 100  # fewer give a note to the user


def calibration_sample(dataset: Dataset, count: int, seed: int) -> tuple[Sample, ...]:
    """Up to ``count`` training images, at least one for each class, balanced over the classes as far as possible.

    Raises:
        UsageError: fewer training images than classes.
    """
    by_class: dict[int, list[Sample]] = {label: [] for label in range(len(dataset.classes))}
    for sample in sorted(dataset.part("train"), key=lambda s: s.path):
        by_class[sample.label].append(sample)
    total = sum(map(len, by_class.values()))
    if total < len(dataset.classes):
        raise UsageError(
            f"calibration has {total} training images for {len(dataset.classes)} classes", "add images, or use --precision fp32"
        )
    count = max(count, len(dataset.classes))
    draw = random.Random(seed)
    for samples in by_class.values():
        draw.shuffle(samples)
    chosen: list[Sample] = []
    for rank in range(max(map(len, by_class.values()))):
        chosen += [samples[rank] for samples in by_class.values() if rank < len(samples)]
        if len(chosen) >= count:
            break
    return tuple(chosen[:count])


def calibration_parts(dataset: Dataset, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Images for the ranges, and others for choosing the method; if there are few, all are for the ranges.

    Raises:
        UsageError: fewer training images than classes.
    """
    drawn = calibration_sample(dataset, CALIBRATION_IMAGES + SELECTION_IMAGES, seed)
    if len(drawn) < 2 * MIN_CALIBRATION_IMAGES:
        return drawn, ()
    half = (len(drawn) + 1) // 2
    return drawn[:half], drawn[half:]


def calibration_record(samples: Sequence[Sample], method: str, tried: tuple[Tried, ...] = ()) -> Calibration:
    """The record of a calibration: method, number of images, and a hash over their hashes."""
    digest = hashlib.sha256("\n".join(sorted(sample.sha256 for sample in samples)).encode()).hexdigest()
    return Calibration(method=method, tried=tried, images=len(samples), sha256=digest)
