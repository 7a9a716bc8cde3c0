"""The report of a training, and the times of the steps that it shows."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tlexport.accuracy import Probabilities, Scores
from tlexport.checkpoint import Checkpoint
from tlexport.dataset import Dataset
from tlexport.ports import Pixels, Progress, Task
from tlexport.recipe import Recipe
from tlexport.report.training import RunTimes, Validated, finetune_report
from tlexport.train.advice import after_training
from tlexport.train.fit import Fit
from tlexport.train.images import Images
from tlexport.train.saved_state import number, whole


class Stopwatch:
    """A Progress that hands on what it is told, and keeps how long each step took, in all sessions of a run that was resumed."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.sessions = 1
        self._steps: dict[str, float] = {}  # seconds by title, in the order in which they began
        self._running: dict[str, float] = {}  # when the steps under way began
        self._earlier = 0.0  # seconds of the sessions before
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of all sessions until now; of one that was killed, until its last saved state."""
        return self._earlier + time.perf_counter() - self._started

    @property
    def steps(self) -> list[tuple[str, float]]:
        """Title and seconds of each step until now."""
        now = time.perf_counter()
        return [(title, taken + (now - self._running[title] if title in self._running else 0)) for title, taken in self._steps.items()]

    def state(self) -> dict[str, Any]:
        """What :meth:`add` takes in a later session."""
        return {"seconds": self.seconds, "steps": [list(step) for step in self.steps], "sessions": self.sessions}

    def add(self, earlier: dict[str, Any]) -> None:
        """Count the sessions before this one. Raises ValueError, and others, when ``earlier`` is no :meth:`state`."""
        seconds, sessions = number(earlier["seconds"], "the time of the run", 0), whole(earlier["sessions"], 1, math.inf, "sessions")
        steps = {str(title): number(taken, "the time of a step", 0) for title, taken in earlier["steps"]}
        self._steps = {title: steps.get(title, 0) + self._steps.get(title, 0) for title in (*steps, *self._steps)}
        self._earlier, self.sessions = seconds, sessions + 1

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """See Progress."""
        self._steps.setdefault(title, 0)
        started = self._running[title] = time.perf_counter()
        try:
            with self.inner.task(title, total) as advance:
                yield advance
        finally:
            del self._running[title]
            self._steps[title] += time.perf_counter() - started

    def note(self, text: str) -> None:
        """See Progress."""
        self.inner.note(text)


def report_of(
    record: Checkpoint,
    dataset: Dataset,
    fit: Fit,
    val: Images,
    outputs: Probabilities,
    scores: Scores,
    advice: Sequence[str],
    watch: Stopwatch,
) -> str:
    """The page.

    Args:
        record: of the checkpoint.
        dataset: the split.
        fit: how training went.
        val: the validation part.
        outputs: probabilities float32 (image, class) of the network that the checkpoint holds, on that part.
        scores: of these.
        advice: what the user was told after training.
        watch: what told the steps of this run.
    """

    def pixels(index: int) -> Pixels:
        taken: Pixels = val[index : index + 1][0]
        return taken

    files = [sample.path for sample in dataset.part("val")]
    validated = Validated(scores, outputs, val.labels.tolist(), files, pixels)
    history = [dataclasses.asdict(epoch) for epoch in fit.history]
    return finetune_report(record, dataset.source, history, validated, RunTimes(watch.steps, watch.seconds, watch.sessions), advice)


def advice_after(recipe: Recipe, fit: Fit, scores: Scores) -> list[str]:
    """What the user is told after training."""
    head = max((epoch.val_top1 for epoch in fit.history if epoch.phase == "head"), default=math.nan)
    missed = [name for name, figures in scores.per_class().items() if figures["recall"] == 0]
    last = fit.history[-1]
    train = max(fit.best.train_top1, last.train_top1)  # where the best epoch was an early one, the last one shows more
    return after_training(recipe, train, fit.best.val_top1, head, len(scores.classes), missed)


def metrics_of(fit: Fit, scores: Scores) -> dict[str, float]:
    """As the checkpoint's record has them."""
    best = fit.best
    return {
        "val_top1": scores.top1,
        "val_ece": round(scores.ece, 6),
        "val_loss": round(best.val_loss, 6),
        "val_images": scores.n,
        "train_top1": round(best.train_top1, 6),
        "train_loss": round(best.train_loss, 6),
        "best_epoch": best.epoch,
        "epochs": len(fit.history),
    }
