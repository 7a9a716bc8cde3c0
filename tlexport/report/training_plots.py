"""The plots of a training: the learning curves, and the calibration of the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tlexport.accuracy import Bin
from tlexport.report.svg import DASHES, INK, LINE, MARKERS, SERIES, Plot, drawing

Epoch = Mapping[str, Any]  # a line of history.jsonl


def curve(history: Sequence[Epoch], kind: str, title: str, unit: str, scale: float = 1.0) -> Plot:
    """A training and a validation curve by epoch; a thin line marks the start of each phase.

    Args:
        history: every epoch.
        kind: ``loss`` or ``top1``.
        title: of the plot.
        unit: label of the axis.
        scale: factor for the figures.
    """
    words = f"{title} on training and validation images after each epoch; a dotted line marks the start of a phase."
    epochs = [line["epoch"] for line in history]
    with drawing(kind, title, words) as (plot, axes):
        for place, (part, name) in enumerate((("train", "training"), ("val", "validation"))):
            values = [scale * line[f"{part}_{kind}"] for line in history]
            axes.plot(epochs, values, label=name, color=SERIES[place], linestyle=DASHES[place], marker=MARKERS[place], markersize=4)
        for before, after in pairwise(history):
            if before["phase"] != after["phase"]:
                axes.axvline(after["epoch"] - 0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.locator_params("x", integer=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.legend(fontsize=9)
    return plot


def calibration(bins: Sequence[Bin]) -> Plot:
    """Reliability diagram: accuracy against confidence. The diagonal is perfect calibration; the area of a mark is the number of images."""
    words = "Images grouped by confidence: mean confidence from left to right, accuracy from bottom to top."
    most = max(b.n for b in bins)
    with drawing("calibration", "Accuracy against confidence", words) as (plot, axes):
        axes.plot([0, 100], [0, 100], color=LINE, linestyle="--", linewidth=1)
        x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
        axes.plot(x, y, color=SERIES[0], linewidth=1)
        axes.scatter(x, y, s=[15 + 150 * b.n / most for b in bins], color=SERIES[0], clip_on=False, zorder=3)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_xlabel("mean probability of the predicted class, %")
        axes.set_ylabel("accuracy, %")
    return plot
