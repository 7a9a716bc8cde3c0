"""``tlexport.evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tlexport import arguments
from tlexport.python import values
from tlexport.python.result import ClassScore, Result, class_scores, confusion_tables, per_class_table, plain
from tlexport.python.tables import Table, percent
from tlexport.python.values import OnError, PathLike, Precision
from tlexport.storage.machine_errors import expect_usable, machine_errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tlexport.accuracy import Scores


@dataclass(frozen=True, repr=False)
class EvaluateResult(Result):
    """Accuracy on labelled images. Fractions 0..1."""

    what: Path
    runtime: str
    provider: str
    part: str
    n: int
    top1: float
    ece: float  # expected calibration error
    classes: tuple[str, ...]
    per_class: dict[str, ClassScore]
    _scores: Scores = field(compare=False)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts of images, int64 (true class, predicted class), by position in ``classes``."""
        return self._scores.confusion.copy()

    def _shown(self) -> Sequence[Table | str]:
        figures = f"top-1 {percent(self.top1)} of {self.n} images ({self.part}), expected calibration error {self.ece:.3f}"
        return [figures, f"{self.runtime}, {self.provider}", per_class_table(self.per_class), *confusion_tables(self._scores)]


def evaluate(
    what: PathLike,
    data: PathLike,
    *,
    part: Literal["auto", "all", "train", "val", "test"] = "auto",
    runtime: str = "auto",
    provider: Literal["tensorrt"] | None = None,
    precision: Precision | None = None,
    on_error: OnError | None = None,
    device: str = "auto",
    threads: int | None = None,
    verbose: bool = False,
    quiet: bool = False,
) -> EvaluateResult:
    """Measure the accuracy of a model on labelled images, as ``tlx evaluate`` does.

    Args:
        what: a checkpoint, a bundle, or an .onnx file of a bundle.
        data: see :func:`tlexport.finetune`; its classes must be among the model's.
        part: of data with its own split, or of the checkpoint's. ``"auto"``: test, else val, else all.
        runtime: ``"auto"``, ``"torch"``, ``"onnxruntime"`` or ``"tensorrt"``.
        provider: of ONNX Runtime, besides those that ``device`` selects.
        precision: which of a bundle's models; None: the chosen one.
        on_error: images that cannot be read: leave them out, or stop. None: leave out up to 5 %, else stop.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:N]"``.
        threads: CPU threads; None: one for each usable core.
        verbose: report the time of each step.
        quiet: no progress and no notes.

    Raises:
        TlxError: see :mod:`tlexport.errors`.
    """
    with machine_errors():
        from tlexport.api.evaluate import evaluate as measure
        from tlexport.loading.model import Execution
        from tlexport.python.notebook import reporter

        model, source = values.path("what", what), values.text("data", data)
        expect_usable([str(model), source])
        found = measure(
            model,
            source,
            run=Execution(
                runtime=values.runtime(runtime, provider),
                precision=values.precision(precision),
                device=values.parsed("device", device, arguments.device),
                threads=values.threads(threads),
            ),
            part=values.choice("part", part, "auto", "all", "train", "val", "test"),
            on_error=values.choice_or_none("on_error", on_error, "skip", "fail"),
            progress=reporter(verbose, quiet),
        )
        scores = found.scores
        return EvaluateResult(
            plain(found.to_json()),
            what=found.what,
            runtime=found.runtime,
            provider=found.provider,
            part=found.part,
            n=scores.n,
            top1=scores.top1,
            ece=scores.ece,
            classes=scores.classes,
            per_class=class_scores(scores),
            _scores=scores,
        )
