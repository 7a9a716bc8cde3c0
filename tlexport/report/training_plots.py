"""The plots of a training: how it went, and whether the classifier knows how sure it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tlexport.accuracy import Bin
from tlexport.report.svg import DASHES, INK, LINE, MARKERS, SERIES, Plot, drawing

Epoch = Mapping[str, Any]  # a line of history.jsonl


def curve(history: Sequence[Epoch], kind: str, title: str, unit: str, scale: float = 1.0) -> Plot:
    """One figure of training and validation by epoch; a thin line where a new phase begins.

    Args:
        history: every epoch.
        kind: ``loss`` or ``top1``.
        title: of the plot.
        unit: on the axis.
        scale: by which the figures are multiplied.
    """
    words = f"{title} of the training and of the validation images after each epoch; a dotted line stands where a new phase begins."
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
    """How often it is right where it is so sure; the diagonal is a classifier that knows. The larger a mark, the more images."""
    words = "For images that the network is about equally sure of: how sure it is from left to right, how many it gets right upwards."
    most = max(b.n for b in bins)
    with drawing("calibration", "Is it as sure as it is right?", words) as (plot, axes):
        axes.plot([0, 100], [0, 100], color=LINE, linestyle="--", linewidth=1)
        x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
        axes.plot(x, y, color=SERIES[0], linewidth=1)
        axes.scatter(x, y, s=[15 + 150 * b.n / most for b in bins], color=SERIES[0], clip_on=False, zorder=3)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_xlabel("mean probability of the answer, %")
        axes.set_ylabel("of these are right, %")
    return plot
