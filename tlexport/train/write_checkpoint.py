"""Writing a checkpoint directory, and reading its history again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.torch import save

from tlexport.checkpoint import DATASET, HISTORY, RECIPE, RECORD, REPORT, WEIGHTS, Checkpoint
from tlexport.dataset import Dataset
from tlexport.errors import InvalidFile, UsageError
from tlexport.network import Network
from tlexport.storage.files import check_replaceable, new_directory, sha256_of
from tlexport.storage.untrusted import LARGEST_JSON, parse_json, read_text
from tlexport.train.loop import Epoch
from tlexport.train.phases import Phase
from tlexport.train.plots import plot_confusion, plot_curves
from tlexport.train.saved_state import check_history, expect


def check_place(path: Path) -> None:
    """Refuse to replace anything but a checkpoint, such as a bundle or the images of the demo.

    Raises:
        UsageError: ``path`` exists and is neither empty nor a checkpoint.
    """
    check_replaceable(path)
    if path.is_dir() and any(path.iterdir()) and not (path / RECORD).is_file():
        raise UsageError(f"{path} exists and is not a checkpoint; it is left as it is", "choose another --out, or remove it first")


def write_checkpoint(
    path: Path,
    network: Network,
    record: Checkpoint,
    dataset: Dataset,
    history: Sequence[Epoch],
    confusion: npt.NDArray[np.int64],
    report: Callable[[Checkpoint], str] | None = None,
) -> Checkpoint:
    """Write everything beside ``path``, then rename, so that a checkpoint is complete or absent.

    Args:
        path: the directory to write; an earlier checkpoint is replaced, anything else refused.
        network: its state dict becomes the weights.
        record: complete except for the hash of the weights.
        dataset: the split that was used.
        history: every epoch.
        confusion: int64 (true class, predicted class) on the validation part.
        report: returns the HTML page for a record; None: no page.

    Returns:
        The record as written.

    Raises:
        UsageError: ``path`` holds something else.
        StepFailed: the file system refused.
    """
    check_place(path)
    with new_directory(path.resolve()) as folder:  # the target of a link, so that the link stays
        weights = folder / WEIGHTS
        # through bytes, so that a full disk is an OSError as for every other file, and the mode is the user's own default
        weights.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in network.net.state_dict().items()}))
        record = record.model_copy(update={"weights_sha256": sha256_of(weights)})
        record.write(folder / RECORD)
        dataset.write(folder / DATASET)
        (folder / RECIPE).write_text(record.recipe.to_toml(), encoding="utf-8")
        lines = [json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in history]
        (folder / HISTORY).write_text("".join(lines), encoding="utf-8")
        plot_curves(history, folder / "curves.png")
        plot_confusion(confusion, record.classes, folder / "confusion.png")
        if report is not None:
            (folder / REPORT).write_text(report(record), encoding="utf-8")
    return record


def read_history(path: Path, phases: Sequence[Phase]) -> tuple[Epoch, ...]:
    """Every epoch of a checkpoint's training.

    Args:
        path: the checkpoint.
        phases: those of its recipe.

    Raises:
        InvalidFile: the file is missing or damaged; the message names the line.
    """
    file, epochs, hint = path / HISTORY, list[Epoch](), "copy the checkpoint again, or train it anew"
    lines = read_text(file, "a history of training", LARGEST_JSON, hint).splitlines()
    try:
        for number, line in enumerate(lines, 1):
            epochs.append(Epoch(**parse_json(line, f"{file}, line {number}", hint)))
        check_history(epochs, phases, len(phases) - 1)
        expect(epochs, "it holds no epoch")
    except (ValueError, TypeError) as error:
        raise InvalidFile(f"{file} is not a history of training: {error} ({len(epochs)} lines were read)", hint) from None
    return tuple(epochs)
