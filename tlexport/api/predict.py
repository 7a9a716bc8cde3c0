"""The verb ``predict``: class and probability of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlexport.accuracy import probabilities
from tlexport.api.evaluate import BATCH
from tlexport.api.subject import find_subject
from tlexport.artifact import Precision
from tlexport.data.decode import decode_files
from tlexport.errors import InvalidFile
from tlexport.ports import Progress, Silent


@dataclass(frozen=True)
class Prediction:
    """What was seen in one image."""

    path: Path
    name: str  # of the most probable class
    probability: float
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, object]:
        """As cli.md has it."""
        return {"path": str(self.path), "class": self.name, "probability": self.probability, "probabilities": self.probabilities}


def predict(
    what: Path,
    images: Sequence[Path],
    *,
    runtime: str = "auto",
    precision: Precision | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Classify image files; one prediction for each, in their order.

    Raises:
        InvalidFile: WHAT is not a model, or an image cannot be read (each is named, with the reason).
    """
    subject = find_subject(what, runtime, precision)
    if not images:
        return []
    pixels, bad = decode_files(images, subject.preprocess)
    if bad:
        raise InvalidFile("these images cannot be read:\n" + "\n".join(f"  {path}: {reason}" for path, reason in bad))
    with subject.open(device, threads) as runner:
        outputs = probabilities(runner, pixels, BATCH, progress or Silent(), "predicting")
    return [
        Prediction(
            path,
            subject.classes[int(row.argmax())],
            round(float(row.max()), 6),
            {name: round(float(p), 6) for name, p in zip(subject.classes, row, strict=True)},
        )
        for path, row in zip(images, outputs, strict=True)
    ]
