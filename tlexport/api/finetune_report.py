"""What a training leaves for people: report.html in the checkpoint, and the times of the steps that it tells of."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlexport.accuracy import Probabilities, Scores
from tlexport.checkpoint import REPORT, Checkpoint
from tlexport.dataset import Dataset
from tlexport.files import new_file
from tlexport.ports import Pixels, Progress, Task
from tlexport.report.training import Validated, finetune_report
from tlexport.train.fit import Fit, Images


class Stopwatch:
    """A Progress that hands on what it is told, and keeps how long each step took."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.steps: list[tuple[str, float]] = []  # title and seconds, in the order in which they ended
        self.started = time.perf_counter()

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """See Progress."""
        started = time.perf_counter()
        with self.inner.task(title, total) as advance:
            yield advance
        self.steps.append((title, time.perf_counter() - started))

    def note(self, text: str) -> None:
        """See Progress."""
        self.inner.note(text)


def write_finetune_report(
    folder: Path,
    record: Checkpoint,
    dataset: Dataset,
    fit: Fit,
    val: Images,
    outputs: Probabilities,
    scores: Scores,
    watch: Stopwatch,
) -> None:
    """Write the report into a checkpoint that is already complete without it.

    Args:
        folder: the checkpoint.
        record: its record.
        dataset: the split.
        fit: how training went.
        val: the validation part.
        outputs: probabilities float32 (image, class) of the network that the checkpoint holds, on that part.
        scores: of these.
        watch: what told the steps of this run.

    Raises:
        StepFailed: the file system refused.
    """

    def pixels(index: int) -> Pixels:
        taken: Pixels = val[index : index + 1][0]
        return taken

    files = [sample.path for sample in dataset.part("val")]
    validated = Validated(scores, outputs, val.labels.tolist(), files, pixels)
    history = [dataclasses.asdict(epoch) for epoch in fit.history]
    page = finetune_report(record, dataset.source, history, validated, watch.steps, time.perf_counter() - watch.started)
    with new_file(folder / REPORT) as file:
        file.write_text(page, encoding="utf-8")
