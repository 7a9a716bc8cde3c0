"""The verb ``evaluate``: accuracy of a checkpoint, a bundle or a model file on labelled images, through the same Runner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tlexport.accuracy import BATCH, Scores, probabilities, score
from tlexport.bench.environment import default_threads
from tlexport.checkpoint import DATASET, read_dataset
from tlexport.class_names import normal
from tlexport.data.decode import Decoded, decode_all
from tlexport.data.source import read_source
from tlexport.data.table import few
from tlexport.errors import InvalidFile
from tlexport.loading.model import DEFAULT_EXECUTION, Execution, LoadedModel, load
from tlexport.ports import Progress, Silent
from tlexport.record import nearest

Part = Literal["auto", "all", "train", "val", "test"]
MATRIX = 1000  # most classes with a full confusion matrix; for 5,000 it has 25 million numbers


@dataclass(frozen=True)
class Evaluated:
    """The result of ``evaluate``."""

    what: Path
    runtime: str
    provider: str
    part: str
    scores: Scores

    def to_json(self) -> dict[str, object]:
        """For ``--json``: with the rows of the confusion matrix up to ``MATRIX`` classes, and all counts above 0 as triples."""
        confusion = self.scores.confusion
        true, predicted = np.nonzero(confusion)
        counts = np.stack([true, predicted, confusion[true, predicted]], axis=1)
        return {
            "what": str(self.what),
            "runtime": self.runtime,
            "provider": self.provider,
            "part": self.part,
            "n": self.scores.n,
            "top1": self.scores.top1,
            "per_class": self.scores.per_class(),
            "ece": self.scores.ece,
            "confusion": confusion.tolist() if len(confusion) <= MATRIX else None,
            "confusion_counts": counts.tolist(),  # (true class, predicted class, images), by position in classes
            "classes": list(self.scores.classes),
        }


def evaluate(
    what: Path | LoadedModel,
    data: str,
    *,
    run: Execution = DEFAULT_EXECUTION,
    part: Part = "auto",
    on_error: Literal["skip", "fail"] | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Accuracy on DATA.

    Args:
        what: a checkpoint, a bundle, or an .onnx file of a bundle.
        data: DATA of the command line; the model must have its classes. One class, or one part of a split, is enough.
        run: which model, runtime, device and threads.
        part: of data that has a split of its own, or of the split that the checkpoint was trained with. ``auto``: ``test`` if
            the data has that, else ``val`` if it has that, else all.
        on_error: how to treat unreadable images.
        progress: receives progress and notes.

    Raises:
        InvalidFile: DATA has classes that the model lacks, or no image in that part.
    """
    progress = progress or Silent()
    loaded = load(what)
    model = loaded.runnable(run.runtime, run.precision)
    listing = read_source(data, to_train=False)
    for note in listing.notes:
        progress.note(note)
    position = {normal(name): index for index, name in enumerate(model.classes)}
    if unknown := [name for name in listing.classes if name not in position]:
        near = nearest(unknown[0], list(position))
        raise InvalidFile(f"{data} has classes that {loaded.what} lacks: {few(unknown)}{near}", f"its classes: {few(model.classes)}")
    with progress.task("reading images", len(listing.entries)) as advance:
        decoded = decode_all(listing, model.preprocess, on_error, run.threads or default_threads(), advance)
    chosen, part = _choose_part(loaded, data, decoded, part, progress)
    entries = decoded.listing.entries
    labels = [position[listing.classes[entries[index].label]] for index in chosen]
    with model.open(run.device, run.threads) as runner:
        outputs = probabilities(runner, decoded.pixels[np.array(chosen)], BATCH, progress, "evaluating")
        return Evaluated(loaded.what, model.runtime, runner.provider, part, score(outputs, labels, model.classes))


def _choose_part(model: LoadedModel, data: str, decoded: Decoded, part: Part, progress: Progress) -> tuple[list[int], Part]:
    """The positions of the images in a part of DATA, and the part that ``auto`` means. Notes images that the model was trained on."""
    entries, trained = decoded.listing.entries, _parts_of_checkpoint(model)
    own = {entry.part for entry in entries} - {None}
    if own <= {"train"}:  # nothing is held out there, so use the split of the checkpoint
        parts = [trained.get(digest) or entry.part or "" for entry, digest in zip(entries, decoded.sha256, strict=True)]
    else:
        parts = [entry.part or "" for entry in entries]
    if part == "auto":
        part = "test" if "test" in own else "val" if "val" in own else "all"
    chosen = [index for index, name in enumerate(parts) if part in ("all", name)]
    if not chosen:
        raise InvalidFile(f"{data} has no image in the part '{part}'", "leave out --part, or give data with train/ val/ test/ folders")
    seen = [entries[index].path for index in chosen if trained.get(decoded.sha256[index]) == "train"]
    if seen and part != "train":
        use_val = part == "all" and "val" in parts
        advice = "for an honest figure give --part val" if use_val else f"for an honest figure remove them: {few(seen)}"
        progress.note(f"{len(seen)} of {len(chosen)} images were used to train {model.what}; {advice}")
    return chosen, part


def _parts_of_checkpoint(model: LoadedModel) -> dict[str, str]:
    """sha256 of an image file -> its part when the checkpoint was trained; empty for anything but a checkpoint."""
    if model.checkpoint is None or not (model.path / DATASET).is_file():
        return {}
    return {sample.sha256: sample.part for sample in read_dataset(model.path).samples}
