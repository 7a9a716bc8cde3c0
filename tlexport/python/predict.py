"""``tlexport.predict``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tlexport import arguments
from tlexport.errors import InvalidFile, UsageError
from tlexport.python import values
from tlexport.python.result import Result, Results, plain, with_result
from tlexport.python.tables import Table, percent
from tlexport.python.values import PathLike, Precision
from tlexport.storage.machine_errors import expect_usable, machine_errors

BEST = 5  # classes that are shown of one image


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """The class of one image."""

    path: Path
    class_name: str  # the most probable one
    probability: float  # 0..1
    probabilities: dict[str, float]  # of every class

    def _best(self) -> list[tuple[str, float]]:
        """The most probable classes, the best first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:BEST]

    def _shown(self) -> Sequence[Table | str]:
        table = Table(("class", "probability"), [(name, percent(value)) for name, value in self._best()])
        return [str(self.path), table]


@dataclass(frozen=True, repr=False)
class PredictResult(Results[Prediction]):
    """A :class:`Prediction` for each image, in their order."""

    def _shown(self) -> Sequence[Table | str]:
        rows = []
        for one in self.items:
            others = ", ".join(f"{name} {percent(value)}" for name, value in one._best()[1:3])
            rows.append((str(one.path), one.class_name, percent(one.probability), others))
        return [Table(("image", "class", "probability", "next"), rows, (0, 1, 3))]


def predict(
    what: PathLike,
    images: PathLike | Iterable[PathLike],
    *,
    runtime: str = "auto",
    provider: Literal["tensorrt"] | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    threads: int | None = None,
    host: str | None = None,
    ssh_option: str | Sequence[str] = (),
    host_python: str | None = None,
) -> PredictResult:
    """Classify images, as ``tlx predict`` does.

    Args:
        what: a checkpoint, a bundle, or an .onnx file of a bundle.
        images: a file, a folder, or several of them.
        runtime: ``"auto"``, ``"torch"``, ``"onnxruntime"`` or ``"tensorrt"``.
        provider: of ONNX Runtime, besides those that ``device`` selects.
        precision: which of a bundle's models; None: the chosen one.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:N]"``.
        threads: CPU threads; None: one for each usable core.
        host: run on this board, which ssh reaches; ``what`` is a bundle then.
        ssh_option: for ssh's -o, such as ``"Port=2222"``; one or several.
        host_python: Python on the board; None: python3.

    Raises:
        InvalidFile: images cannot be read; ``error.result`` is the :class:`PredictResult` of the others.
        TlxError: see :mod:`tlexport.errors`.
    """
    with machine_errors():
        from tlexport.api.remote import predict_on
        from tlexport.loading.model import Execution
        from tlexport.python.notebook import reporter

        model, names = values.path("what", what), values.texts("images", images)
        if not names:
            raise UsageError("images is empty; a file, a folder or a list of them was expected")
        expect_usable([str(model), *names])
        found = predict_on(
            values.host(host, ssh_option, host_python),
            model,
            [Path(name) for name in names],
            run=Execution(
                runtime=values.runtime(runtime, provider),
                precision=values.precision(precision),
                device=values.parsed("device", device, arguments.device),
                threads=values.threads(threads),
            ),
            progress=reporter(verbose=False, quiet=False),
        )
        rows = plain(found.to_json())
        items = tuple(
            Prediction(row, path=one.path, class_name=one.name, probability=one.probability, probabilities=dict(one.probabilities))
            for row, one in zip(rows, found.predictions, strict=True)
        )
        result = PredictResult(rows, items=items)
        try:
            found.expect_all()
        except InvalidFile as error:
            raise with_result(error, result) from None
        return result
