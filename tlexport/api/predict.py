"""The verb ``predict``: class and probabilities of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlexport.accuracy import BATCH, probabilities
from tlexport.data.decode import decode_files
from tlexport.device.inputs.image_files import named_images
from tlexport.errors import InvalidFile
from tlexport.loading.model import DEFAULT_EXECUTION, Execution, LoadedModel, load
from tlexport.ports import Array, Progress, Silent

AT_ONCE = 256  # images in memory at a time; a folder may hold any number


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    path: Path
    name: str  # of the most probable class
    probability: float
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {"path": str(self.path), "class": self.name, "probability": self.probability, "probabilities": self.probabilities}


@dataclass(frozen=True)
class Predicted:
    """The predictions for the images that could be read, and why the others could not."""

    predictions: tuple[Prediction, ...]
    unreadable: tuple[tuple[str, str], ...] = ()  # path and reason
    host: str = ""  # the board that ran the model; empty: this machine

    def expect_all(self) -> None:
        """Raises InvalidFile: images could not be read; names each with the reason."""
        if self.unreadable:
            listed = "\n".join(f"  {path}: {reason}" for path, reason in self.unreadable)
            count = len(self.unreadable)
            raise InvalidFile(f"unreadable images: {count}\n{listed}", "leave them out, or save them as JPEG or PNG")

    def to_json(self) -> list[dict[str, object]]:
        """As cli.md has it."""
        where = {"host": self.host} if self.host else {}
        return [prediction.to_json() | where for prediction in self.predictions]


def predict(
    what: Path | LoadedModel,
    images: Sequence[Path],
    *,
    run: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
    unreadable: list[tuple[str, str]] | None = None,
) -> list[Prediction]:
    """Classify image files: one prediction for each readable image, in order.

    Args:
        what: a checkpoint, a bundle, or a bundle's .onnx file.
        images: files, or folders, whose images are selected by :mod:`tlexport.device.inputs.image_files`.
        run: which model, runtime, device and threads.
        progress: receives progress and notes.
        unreadable: receives path and reason of each unreadable image; None: an unreadable image is an error.

    Raises:
        InvalidFile: WHAT is not a model, a folder holds no images, or images cannot be read (each is named, with the reason).
    """
    model = load(what).runnable(run.runtime, run.precision)
    files = image_paths(images)
    predictions: list[Prediction] = []
    with model.open(run.device, run.threads) as runner:
        for start in range(0, len(files), AT_ONCE):
            block = files[start : start + AT_ONCE]
            pixels, bad = decode_files(block, model.preprocess)
            if bad and unreadable is None:
                raise InvalidFile("these images cannot be read:\n" + "\n".join(f"  {path}: {reason}" for path, reason in bad))
            (unreadable if unreadable is not None else []).extend(bad)
            good = [path for path in block if str(path) not in dict(bad)]
            if good:
                outputs = probabilities(runner, pixels, BATCH, progress or Silent(), "predicting")
                predictions += [_prediction(path, row, model.classes) for path, row in zip(good, outputs, strict=True)]
    return predictions


def image_paths(images: Sequence[Path]) -> list[Path]:
    """Files as named, and the images in folders. Raises InvalidFile if a folder holds none."""
    try:
        return [Path(name) for name in named_images([str(image) for image in images])]
    except FileNotFoundError as error:
        raise InvalidFile(str(error)) from None


def _prediction(path: Path, row: Array, classes: Sequence[str]) -> Prediction:
    probabilities = {name: round(float(p), 6) for name, p in zip(classes, row, strict=True)}
    return Prediction(path, classes[int(row.argmax())], round(float(row.max()), 6), probabilities)
