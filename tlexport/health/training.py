"""The health check in the report of a training, with predictions and features that the training has anyway."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlexport.accuracy import Probabilities
from tlexport.data.decode import Decoded
from tlexport.dataset import Dataset, Part
from tlexport.health.check import Labelled, check_labels, examine, held_out, parts_of, pictures_of
from tlexport.health.findings import leak_note
from tlexport.health.record import DataHealth
from tlexport.health.section import health_section
from tlexport.ports import Progress
from tlexport.report.health import HealthSection
from tlexport.train.cross_validation import components

if TYPE_CHECKING:
    from torch import Tensor

PARTS: tuple[Part, Part] = ("train", "val")
MOST_TRAINING = 5000  # training images whose labels are checked in a training; tlx data checks all


@dataclass(frozen=True)
class TrainingHealth:
    """The health check of the data of a training. The network's predictions complete it."""

    decoded: Decoded
    dataset: Dataset
    health: DataHealth | None  # None: another process checks

    @classmethod
    def before(
        cls, decoded: Decoded, dataset: Dataset, input_size: int, notes: Sequence[str], progress: Progress, wanted: bool
    ) -> TrainingHealth:
        """Check what needs no network.

        Args:
            decoded: the images.
            dataset: their split.
            input_size: side of the network's input, pixels.
            notes: of reading and splitting the data.
            progress: receives the progress.
            wanted: False in all but the first of several processes.
        """
        return cls(decoded, dataset, examine(decoded, parts_of(dataset), input_size, notes, progress) if wanted else None)

    def notes(self) -> list[str]:
        """A line on near-duplicates across parts, if there are any."""
        return leak_note(self.health.groups) if self.health else []

    def section(self, outputs: Probabilities, features: Tensor | None, seed: int) -> HealthSection | None:
        """The section of the report; None if another process checks.

        Labels of validation images are compared with the network's predictions. Labels of training images are compared with a
        linear classifier, cross-validated on the kept features of the frozen stages.

        Args:
            outputs: of the trained network on the validation images, float32 (image, class).
            features: of the training images, float32 (image, feature); None: none are kept, so their labels are not checked.
            seed: of the cross-validation.
        """
        if self.health is None:
            return None
        pictures = pictures_of(self.decoded, parts_of(self.dataset))
        samples = {part: self.dataset.part(part) for part in PARTS}
        trained, validated = ([pictures[row] for row in self.decoded.rows(samples[part])] for part in PARTS)
        labels = np.array([sample.label for sample in samples["val"]], dtype=np.int64)
        sources = [Labelled(validated, outputs, labels, self.dataset.classes)]
        if features is not None and len(trained) <= MOST_TRAINING:
            predicted = held_out(components(features.numpy()), trained, seed)
            sources += [predicted] if predicted else []
        checked = check_labels(sources, self.health.images, "tlx data checks the labels of all images")
        complete = dataclasses.replace(self.health, labels=checked, far_skipped="tlx data searches them")
        return health_section(complete, lambda row: self.decoded.pixels[row])
