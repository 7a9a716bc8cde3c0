"""The report of a training: how good the classifier is, what it confuses, and how it came about."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tlexport.accuracy import Probabilities, Scores, reliability
from tlexport.checkpoint import Checkpoint
from tlexport.ports import Pixels
from tlexport.report.page import render
from tlexport.report.text import data_link, short_names
from tlexport.report.training_plots import Epoch, calibration, curve

MATRIX = 20  # classes that a matrix of numbers is readable with
PAIRS = 20  # that are confused most
IMAGES = 24  # that it got most wrong
WORST = 20  # classes that are shown before the rest is folded away
SIDE = 112  # of a thumbnail, pixels


@dataclass(frozen=True)
class Validated:
    """The validation part, and what the network says of it."""

    scores: Scores
    outputs: Probabilities  # float32 (image, class)
    labels: Sequence[int]
    files: Sequence[str]  # relative paths
    pixels: Callable[[int], Pixels]  # of one image as the network saw it: uint8 (height, width, channel)


@dataclass(frozen=True)
class Times:
    """How long a run took, in all its sessions: it has several where it was resumed."""

    steps: Sequence[tuple[str, float]]  # title and seconds
    seconds: float  # from the beginning to the report
    sessions: int = 1


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    n: int
    share: float  # of all images of the true class


@dataclass(frozen=True)
class Mistake:
    """An image, and what the network takes it for."""

    file: str
    link: str
    true: str
    probability_of_true: float
    predicted: str
    probability: float


@dataclass(frozen=True)
class ClassRow:
    """How one class fares."""

    name: str
    n: int
    recall: float | None
    precision: float | None
    taken_for: str


def finetune_report(
    record: Checkpoint, source: str, history: Sequence[Epoch], validated: Validated, times: Times, advice: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        record: of the checkpoint.
        source: DATA as the user gave it.
        history: every epoch, as in history.jsonl.
        validated: the images of the validation part with the answers of the network that the checkpoint holds.
        times: of the run and of its steps.
        advice: what the figures suggest, a sentence each.
    """
    scores, bins = validated.scores, reliability(validated.outputs, validated.labels)
    wrong = mistakes(validated)
    return render(
        "finetune.html",
        record=record,
        source=source,
        short=short_names([source])[0],
        scores=scores,
        interval=wilson(round(scores.top1 * scores.n), scores.n),
        history=history,
        best=int(record.metrics["best_epoch"]),
        loss=curve(history, "loss", "Loss", "cross-entropy"),
        top1=curve(history, "top1", "Accuracy", "top-1, %", 100),
        calibration=calibration(bins),
        bins=bins,
        matrix=_matrix(scores) if len(scores.classes) <= MATRIX else None,
        pairs=confused(scores.confusion, scores.classes),
        mistakes=wrong,
        wrong=scores.n - int(np.trace(scores.confusion)),
        classes=class_rows(scores),
        worst=WORST,
        phases=_phases(history),
        times=times,
        advice=advice,
        raw={"checkpoint": record.model_dump(mode="json"), "history": [dict(line) for line in history], "per_class": scores.per_class()},
    )


def mistakes(validated: Validated) -> list[Mistake]:
    """The images whose own class got the least probability, the worst first; only those that were answered wrongly."""
    labels = np.asarray(validated.labels, dtype=np.int64)
    own = validated.outputs[np.arange(len(labels)), labels]
    answers = validated.outputs.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    found = []
    for index in wrong[np.argsort(own[wrong], kind="stable")][:IMAGES].tolist():
        classes, answer = validated.scores.classes, int(answers[index])
        probability = float(validated.outputs[index, answer])
        link = thumbnail(validated.pixels(index))
        found.append(Mistake(validated.files[index], link, classes[labels[index]], float(own[index]), classes[answer], probability))
    return found


def thumbnail(pixels: Pixels) -> str:
    """Decoded pixels uint8 (height, width, channel), encoded anew: nothing of the file that they came from is left."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return data_link(stream.getvalue(), "image/jpeg")


def confused(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> list[Pair]:
    """Which class is taken for which, the most frequent first, from int64 (true class, predicted class)."""
    true, predicted = np.nonzero(confusion)  # of thousands of classes, a copy of the whole would take hundreds of megabytes
    wrong = true != predicted
    true, predicted = true[wrong], predicted[wrong]
    counts = confusion[true, predicted]
    most = np.argsort(-counts, kind="stable")[:PAIRS]
    totals = confusion.sum(axis=1)
    pairs = [(int(true[i]), int(predicted[i]), int(counts[i])) for i in most]
    return [Pair(classes[row], classes[column], n, n / float(totals[row])) for row, column, n in pairs]


def class_rows(scores: Scores) -> list[ClassRow]:
    """Every class, the one that is found least often first; last those of which there was no image."""
    rows = []
    for index, (name, figures) in enumerate(scores.per_class().items()):
        errors = scores.confusion[index].copy()
        errors[index] = 0
        worst = int(errors.argmax())
        taken_for = f"{scores.classes[worst]} ({errors[worst]})" if errors[worst] else ""
        recall, precision = figures["recall"], figures["precision"]
        rows.append(ClassRow(name, int(figures["n"] or 0), recall, precision, taken_for))
    return sorted(rows, key=lambda row: 2.0 if row.recall is None else row.recall)


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, 0..1, from so many right answers of n (Wilson 1927)."""
    z = 1.959964
    centre, width = (right + z * z / 2) / (n + z * z), z * (right * (n - right) / n + z * z / 4) ** 0.5 / (n + z * z)
    return max(0.0, centre - width), min(1.0, centre + width)


def _matrix(scores: Scores) -> list[tuple[str, list[tuple[int, float]]]]:
    """For each class the counts by answer, with their share of the class."""
    rows = []
    for name, counts in zip(scores.classes, scores.confusion, strict=True):
        total = max(1, int(counts.sum()))
        rows.append((name, [(int(count), int(count) / total) for count in counts]))
    return rows


def _phases(history: Sequence[Epoch]) -> list[dict[str, object]]:
    """Each phase with its epochs, its time and its best accuracy, in order."""
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
