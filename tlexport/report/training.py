"""The report of a training: accuracy, confusions, calibration, learning curves, recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tlexport.accuracy import Probabilities, Scores, reliability
from tlexport.bundle.manifest import wilson
from tlexport.checkpoint import Checkpoint
from tlexport.ports import Pixels
from tlexport.report.health import HealthSection
from tlexport.report.page import render
from tlexport.report.text import short_names
from tlexport.report.thumbnail import thumbnail
from tlexport.report.training_plots import Epoch, calibration, curve

MATRIX_CLASSES = 20  # most classes for which the confusion matrix is readable
SHOWN_PAIRS = 20  # most frequent confusions shown
SHOWN_IMAGES = 24  # most confident mistakes shown
SHOWN_CLASSES = 20  # classes shown before the rest is collapsed


@dataclass(frozen=True)
class Validated:
    """The validation part with the network's predictions."""

    scores: Scores
    outputs: Probabilities  # float32 (image, class)
    labels: Sequence[int]
    files: Sequence[str]  # relative paths
    pixels: Callable[[int], Pixels]  # index -> preprocessed image, uint8 (height, width, channel)


@dataclass(frozen=True)
class RunTimes:
    """The times of a run. A resumed run has several sessions; their times are added."""

    steps: Sequence[tuple[str, float]]  # title and seconds
    seconds: float  # from the start to the report
    sessions: int = 1


@dataclass(frozen=True)
class Pair:
    """Images of one class that were classified as another."""

    true: str
    predicted: str
    n: int
    share: float  # of all images of the true class


@dataclass(frozen=True)
class Misclassified:
    """A misclassified image."""

    file: str
    link: str
    true: str
    probability_of_true: float
    predicted: str
    probability: float


@dataclass(frozen=True)
class ClassRow:
    """The accuracy of one class."""

    name: str
    n: int
    recall: float | None
    precision: float | None
    taken_for: str


def finetune_report(
    record: Checkpoint,
    source: str,
    history: Sequence[Epoch],
    validated: Validated,
    times: RunTimes,
    advice: Sequence[str] = (),
    health: HealthSection | None = None,
) -> str:
    """Render the page.

    Args:
        record: of the checkpoint.
        source: DATA as the user gave it.
        history: every epoch, as in history.jsonl.
        validated: the validation part with the predictions of the checkpoint's network.
        times: of the run and of its steps.
        advice: suggestions for the next training, a sentence each.
        health: the health check of the data; None: the page has no such section.
    """
    scores, bins = validated.scores, reliability(validated.outputs, validated.labels)
    wrong = mistakes(validated)
    return render(
        "finetune.html",
        record=record,
        source=source,
        short=short_names([source])[0],
        scores=scores,
        interval=wilson(scores.top1, scores.n),
        history=history,
        best=int(record.metrics["best_epoch"]),
        loss=curve(history, "loss", "Loss", "cross-entropy"),
        top1=curve(history, "top1", "Accuracy", "top-1, %", 100),
        calibration=calibration(bins),
        bins=bins,
        matrix=_matrix(scores) if len(scores.classes) <= MATRIX_CLASSES else None,
        pairs=confused(scores.confusion, scores.classes),
        mistakes=wrong,
        wrong=scores.n - int(np.trace(scores.confusion)),
        classes=class_rows(scores),
        worst=SHOWN_CLASSES,
        phases=_phases(history),
        times=times,
        advice=advice,
        health=health,
        raw={"checkpoint": record.model_dump(mode="json"), "history": [dict(line) for line in history], "per_class": scores.per_class()},
    )


def mistakes(validated: Validated) -> list[Misclassified]:
    """The misclassified images with the lowest probability of their true class, lowest first."""
    labels = np.asarray(validated.labels, dtype=np.int64)
    own = validated.outputs[np.arange(len(labels)), labels]
    answers = validated.outputs.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    found = []
    for index in wrong[np.argsort(own[wrong], kind="stable")][:SHOWN_IMAGES].tolist():
        classes, answer = validated.scores.classes, int(answers[index])
        probability = float(validated.outputs[index, answer])
        link = thumbnail(validated.pixels(index))
        found.append(Misclassified(validated.files[index], link, classes[labels[index]], float(own[index]), classes[answer], probability))
    return found


def confused(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> list[Pair]:
    """The most frequent confusions, from counts int64 (true class, predicted class)."""
    true, predicted = np.nonzero(confusion)  # a copy of the matrix of thousands of classes would take hundreds of MB
    wrong = true != predicted
    true, predicted = true[wrong], predicted[wrong]
    counts = confusion[true, predicted]
    most = np.argsort(-counts, kind="stable")[:SHOWN_PAIRS]
    totals = confusion.sum(axis=1)
    pairs = [(int(true[i]), int(predicted[i]), int(counts[i])) for i in most]
    return [Pair(classes[row], classes[column], n, n / float(totals[row])) for row, column, n in pairs]


def class_rows(scores: Scores) -> list[ClassRow]:
    """All classes by rising recall; classes without an image come last."""
    rows = []
    for index, (name, figures) in enumerate(scores.per_class().items()):
        errors = scores.confusion[index].copy()
        errors[index] = 0
        worst = int(errors.argmax())
        taken_for = f"{scores.classes[worst]} ({errors[worst]})" if errors[worst] else ""
        recall, precision = figures["recall"], figures["precision"]
        rows.append(ClassRow(name, int(figures["n"] or 0), recall, precision, taken_for))
    return sorted(rows, key=lambda row: 2.0 if row.recall is None else row.recall)


def _matrix(scores: Scores) -> list[tuple[str, list[tuple[int, float]]]]:
    """For each true class, the count of each predicted class and its share of the true class."""
    rows = []
    for name, counts in zip(scores.classes, scores.confusion, strict=True):
        total = max(1, int(counts.sum()))
        rows.append((name, [(int(count), int(count) / total) for count in counts]))
    return rows


def _phases(history: Sequence[Epoch]) -> list[dict[str, object]]:
    """The phases in order, each with its epochs, time and best accuracy."""
    found: dict[str, list[Epoch]] = {}
    for line in history:
        found.setdefault(line["phase"], []).append(line)
    return [
        {
            "name": name,
            "epochs": len(lines),
            "lr": lines[0]["lr"],
            "seconds": sum(line["seconds"] for line in lines),
            "images_per_s": float(np.median([line["images_per_s"] for line in lines])),
            "val_top1": max(line["val_top1"] for line in lines),
        }
        for name, lines in found.items()
    ]
