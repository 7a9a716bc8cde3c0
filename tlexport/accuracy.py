"""Accuracy and calibration error of any Runner: torch, ONNX Runtime, an engine, a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tlexport.ports import Array, Pixels, Progress, Runner

Probabilities = npt.NDArray[np.float32]

ECE_BINS = 15  # as in Guo et al. 2017, "On Calibration of Modern Neural Networks"

BATCH = 16  # images per run in an evaluation


class Images(Protocol):
    """Images uint8 (image, height, width, channel) that are read slice by slice: an array, or a file's contents."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, rows: slice, /) -> Pixels:
        """A slice of the images."""


def probabilities(runner: Runner, pixels: Images, batch: int, progress: Progress, title: str) -> Probabilities:
    """Run a model on all images.

    Args:
        runner: an open model with one image input and one output.
        pixels: the images, converted to the type of the input.
        batch: images per run. Ignored for a model with a fixed batch axis.
        progress: advanced by the number of images.
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
    """Accuracy of a classifier on labelled images. Fractions 0..1."""

    n: int
    top1: float
    ece: float  # expected calibration error: mean distance of confidence from accuracy
    confusion: npt.NDArray[np.int64]  # (true class, predicted class), counts
    classes: tuple[str, ...]

    def per_class(self) -> dict[str, dict[str, float | int | None]]:
        """Recall and precision of each class; None if there are no images or no predictions of the class."""
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
    """Score probabilities float32 (image, class) against class indices (image,)."""
    truth = np.asarray(labels, dtype=np.int64)
    predicted = outputs.argmax(axis=1)
    right = predicted == truth
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    gaps = [abs(b.accuracy - b.confidence) * b.n / len(truth) for b in reliability(outputs, labels)]
    return Scores(len(truth), float(right.mean()), float(sum(gaps)), confusion, classes)


class Bin(NamedTuple):
    """Images with similar confidence."""

    low: float  # bounds of the confidence, 0..1
    high: float
    n: int
    confidence: float  # mean, 0..1
    accuracy: float  # fraction classified correctly, 0..1


def reliability(outputs: Probabilities, labels: Sequence[int]) -> tuple[Bin, ...]:
    """Accuracy by confidence: the bins of the expected calibration error.

    Args:
        outputs: probabilities float32 (image, class).
        labels: class indices (image,).

    Returns:
        The nonempty bins, out of ECE_BINS of equal width, by rising confidence.
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
