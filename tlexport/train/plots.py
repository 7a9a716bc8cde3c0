"""The pictures of a checkpoint: curves and confusion matrix, as PNG."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tlexport.train.loop import Epoch

CELLS = 500  # most cells of a confusion matrix in one direction; a cell has about two pixels


def plot_curves(history: Sequence[Epoch], path: Path) -> None:
    """Loss and accuracy of training and validation by epoch; a thin line at each new phase."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")  # without pyplot: no global state, no display
    loss, accuracy = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    for axes, kind, scale in ((loss, "loss", 1), (accuracy, "top1", 100)):
        axes.plot(epochs, [scale * getattr(e, f"train_{kind}") for e in history], label="training", marker=".")
        axes.plot(epochs, [scale * getattr(e, f"val_{kind}") for e in history], label="validation", marker=".")
        for before, after in pairwise(history):
            if before.phase != after.phase:
                axes.axvline(after.epoch - 0.5, color="grey", linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.legend()
    loss.set_ylabel("cross-entropy")
    accuracy.set_ylabel("top-1, %")
    figure.savefig(path, dpi=110, format="png")


def plot_confusion(confusion: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Counts of (true class, predicted class); coloured by the share of the true class. Class names up to 40 classes.

    Of more than ``CELLS`` classes, neighbours share a cell: the memory of the picture does not grow with the classes.
    """
    together = -(-len(classes) // CELLS)
    starts = np.arange(0, len(classes), together)
    if together > 1:
        confusion = np.add.reduceat(np.add.reduceat(confusion, starts, axis=0), starts, axis=1)
    side = min(14.0, 2.5 + 0.4 * len(classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    unit = f", {together} classes in a cell" if together > 1 else ""
    axes.set_xlabel(f"predicted{unit}")
    axes.set_ylabel(f"true{unit}")
    if len(classes) <= 40:
        # a dollar sign would start matplotlib's formula syntax
        names = [name.replace("$", r"\$") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)
    with warnings.catch_warnings():
        # matplotlib's font may lack the script of a class name; the picture then shows boxes
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(path, dpi=110, format="png")
