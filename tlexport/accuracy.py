"""Accuracy, written once against Runner: the same code for torch, ONNX Runtime, an engine, a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tlexport.ports import Array, Pixels, Progress, Runner

Probabilities = npt.NDArray[np.float32]

ECE_BINS = 15  # as in Guo et al. 2017, "On Calibration of Modern Neural Networks"

BATCH = 16  # images that are evaluated at once


class Images(Protocol):
    """uint8 (image, height, width, channel), of which a slice is taken at a time: an array, or what reads from a file."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, rows: slice, /) -> Pixels:
        """Some of them."""


def probabilities(runner: Runner, pixels: Images, batch: int, progress: Progress, title: str) -> Probabilities:
    """Run every image.

    Args:
        runner: an open model with one image input and one output.
        pixels: the images; converted to the input's type if that is another.
        batch: images at a time; a model with a fixed batch axis is fed that many.
        progress: moved on by the number of images.
        title: of the progress bar.

    Returns:
        float32 (image, class), rows sum to 1.
    """
    (spec,), (output,) = runner.inputs, runner.outputs
    if isinstance(spec.shape[0], int):
        batch = spec.shape[0]
    rows: list[Array] = []
    with progress.task(title, len(pixels)) as advance:
        for start in range(0, len(pixels), batch):
            part = pixels[start : start + batch]
            missing = batch - len(part) if isinstance(spec.shape[0], int) else 0
            fed = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            rows.append(runner.run({spec.name: np.ascontiguousarray(fed, dtype=spec.dtype)})[output.name][: len(part)])
            advance(len(part))
    return np.concatenate(rows)


@dataclass(frozen=True)
class Scores:
    """How good a classifier is on labelled images. Fractions 0..1."""

    n: int
    top1: float
    ece: float  # expected calibration error: how far confidence is from accuracy
    confusion: npt.NDArray[np.int64]  # (true class, predicted class), counts
    classes: tuple[str, ...]

    def per_class(self) -> dict[str, dict[str, float | int | None]]:
        """Recall and precision of each class; None where there is nothing to divide by."""
        table: dict[str, dict[str, float | int | None]] = {}
        counts = (self.confusion.diagonal(), self.confusion.sum(axis=1), self.confusion.sum(axis=0))
        for name, right, true, predicted in zip(self.classes, *(count.tolist() for count in counts), strict=True):
            table[name] = {
                "n": true,
                "recall": round(right / true, 6) if true else None,
                "precision": round(right / predicted, 6) if predicted else None,
            }
        return table


def score(outputs: Probabilities, labels: Sequence[int], classes: tuple[str, ...]) -> Scores:
    """Compare probabilities float32 (image, class) with class indices (image,)."""
    truth = np.asarray(labels, dtype=np.int64)
    predicted = outputs.argmax(axis=1)
    right = predicted == truth
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    gaps = [abs(b.accuracy - b.confidence) * b.n / len(truth) for b in reliability(outputs, labels)]
    return Scores(len(truth), float(right.mean()), float(sum(gaps)), confusion, classes)


class Bin(NamedTuple):
    """The images that a classifier is about equally sure of."""

    low: float  # of the confidence, 0..1
    high: float
    n: int
    confidence: float  # their mean
    accuracy: float  # the share of them that is right


def reliability(outputs: Probabilities, labels: Sequence[int]) -> tuple[Bin, ...]:
    """How often a classifier is right where it is so sure: what the expected calibration error sums up.

    Args:
        outputs: probabilities float32 (image, class).
        labels: class indices (image,).

    Returns:
        The bins that hold an image, the least sure first, of ECE_BINS of equal width.
    """
    confidence = outputs.max(axis=1)
    right = outputs.argmax(axis=1) == np.asarray(labels, dtype=np.int64)
    place = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    found = []
    for b in range(ECE_BINS):
        inside = place == b
        if inside.any():
            means = float(confidence[inside].mean()), float(right[inside].mean())
            found.append(Bin(b / ECE_BINS, (b + 1) / ECE_BINS, int(inside.sum()), *means))
    return tuple(found)
