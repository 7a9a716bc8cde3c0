"""``tlexport.estimate``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlexport import arguments
from tlexport.errors import OverBudget, UsageError
from tlexport.python import values
from tlexport.python.result import Result, Results, plain, with_result
from tlexport.python.tables import Table
from tlexport.python.values import PathLike, Precision, Shapes
from tlexport.storage.machine_errors import expect_usable, machine_errors
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from tlexport.api.estimate import Answer


@dataclass(frozen=True, repr=False)
class BoardEstimate(Result):
    """What is expected of a model on one board; None if it cannot be estimated."""

    target: str
    p50_ms: float | None  # median latency
    low_ms: float | None  # the median is between low and high for 80 % of networks
    high_ms: float | None
    memory_bytes: int | None  # weights and activations, without the runtime's own memory
    size_bytes: int | None
    fits: str | None  # whether the model keeps the limits: likely, unlikely, ...
    over: tuple[str, ...]  # the limits that it breaks
    kind: str | None  # calibrated, published or proxy
    basis: str | None  # the source of the figures
    reason: str | None  # why there is no estimate

    def _row(self) -> tuple[str, ...]:
        if self.p50_ms is None or self.memory_bytes is None or self.size_bytes is None:
            return (self.target, *["-"] * 6)
        interval = f"{self.low_ms:.3g} to {self.high_ms:.3g}"
        sizes = format_bytes(self.memory_bytes), format_bytes(self.size_bytes)
        return (self.target, f"{self.p50_ms:.3g}", interval, *sizes, self.fits or "", self.kind or "")

    def _line(self) -> str:
        return self.reason or f"{self.target}: {''.join(f'{over}; ' for over in self.over)}{self.basis}"

    def _shown(self) -> Sequence[Table | str]:
        return [Table(COLUMNS, [self._row()], TEXTS), self._line()]


COLUMNS = ("target", "p50, ms", "80 % interval", "memory", "size", "in budget?", "basis")
TEXTS = (0, 5, 6)


@dataclass(frozen=True, repr=False)
class EstimateResult(Results[BoardEstimate]):
    """A :class:`BoardEstimate` for each board."""

    what: str
    precision: str
    threads: int

    def _shown(self) -> Sequence[Table | str]:
        heading = f"{self.what}, {self.precision}, {self.threads} CPU thread{'s' if self.threads > 1 else ''}: estimated, not measured"
        return [heading, Table(COLUMNS, [one._row() for one in self.items], TEXTS), *(one._line() for one in self.items)]


def estimate(
    what: PathLike,
    *,
    target: PathLike | Iterable[PathLike] = (),
    all: bool = False,
    precision: Precision | None = None,
    shape: Shapes = (),
    threads: int = 1,
    max_latency: str | float | None = None,
    max_size: str | int | None = None,
    max_memory: str | int | None = None,
    verbose: bool = False,
    quiet: bool = False,
) -> EstimateResult:
    """Estimate latency and memory of a model on boards that are not here, as ``tlx estimate`` does.

    Args:
        what: a checkpoint (taken as FP32), a bundle, or any .onnx file.
        target: a name from ``tlx profiles``, NAME:MODE, or a .toml file; one or several.
        all: every profile: first those that the model fits, the most modest one on top.
        precision: which of a bundle's models; None: the chosen one.
        shape: shape of each input with free axes besides the first: ``{"input": (1, 3, 224, 224)}`` or ``"input=1,3,224,224"``.
        threads: CPU threads of the runtime on the board.
        max_latency: latency to keep within, ``"10ms"`` or a number of seconds; None: the profile's budget.
        max_size: largest model file, ``"2MB"`` or a number of bytes; None: the profile's.
        max_memory: most memory, likewise; None: the profile's.
        verbose: report the time of each step.
        quiet: no progress and no notes.

    Raises:
        OverBudget: limits are given and no board keeps them; ``error.result`` is the :class:`EstimateResult`.
        Unsupported: the latency cannot be estimated for any of the boards.
        TlxError: see :mod:`tlexport.errors`.
    """
    values.flags(all=all)
    names = values.texts("target", target)
    if bool(names) == all:
        raise UsageError("give target, one or several, or all=True", 'see the names: tlx profiles; such as target="raspberry-pi-5"')
    with machine_errors():
        from tlexport.api.estimate import estimate_what, expect_fit
        from tlexport.plan import Constraints
        from tlexport.python.notebook import reporter

        model = values.path("what", what)
        expect_usable([str(model), *names])
        constraints = Constraints(
            max_size_bytes=values.parsed_or_none("max_size", max_size, arguments.size),
            max_latency_ms=values.parsed_or_none("max_latency", max_latency, arguments.duration),
            max_memory_bytes=values.parsed_or_none("max_memory", max_memory, arguments.size),
            threads=values.whole("threads", threads, 1, values.MOST_THREADS),
        )
        which = values.precision(precision)
        found = estimate_what(model, names, constraints, precision=which, shapes=values.shapes(shape), progress=reporter(verbose, quiet))
        boards = tuple(_board(answer, found.model.what) for answer in found.answers)
        result = EstimateResult(
            plain(found.to_json()), items=boards, what=found.model.what, precision=found.model.precision, threads=int(threads)
        )
        if (max_latency, max_size, max_memory) != (None, None, None):
            try:
                expect_fit(found.answers)
            except OverBudget as error:
                raise with_result(error, result) from None
        return result


def _board(answer: Answer, what: str) -> BoardEstimate:
    e = answer.estimate
    return BoardEstimate(
        plain(answer.to_json(what)),
        target=answer.target.profile.target,
        p50_ms=e.p50_ms if e else None,
        low_ms=e.low_ms if e else None,
        high_ms=e.high_ms if e else None,
        memory_bytes=e.memory_bytes if e else None,
        size_bytes=e.size_bytes if e else None,
        fits=answer.fit.likelihood if answer.fit else None,
        over=tuple(answer.fit.broken) if answer.fit else (),
        kind=answer.kind,
        basis=e.basis if e else None,
        reason=answer.error.message if answer.error else None,
    )
