"""``tlexport.bench``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from tlexport import arguments
from tlexport.errors import OverBudget
from tlexport.python import values
from tlexport.python.result import Result, Results, plain, with_result
from tlexport.python.tables import Table, figure
from tlexport.python.values import PathLike, Precision, Shapes
from tlexport.storage.machine_errors import expect_usable, machine_errors
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from tlexport.api.bench import Benched, BenchOrder
    from tlexport.ports import Progress


@dataclass(frozen=True, repr=False)
class BenchMeasurement(Result):
    """Measured latency, throughput and memory of one model under one setting."""

    what: str
    precision: str
    runtime: str
    provider: str
    threads: int
    batch: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput_per_s: float  # images
    size_bytes: int
    peak_memory_bytes: int
    load_ms: float
    latencies_ns: tuple[int, ...]  # every timed run
    noise: str | None  # what disturbed the machine meanwhile

    def _row(self) -> tuple[str, ...]:
        times = (figure(self.p50_ms), figure(self.p90_ms), figure(self.p95_ms), figure(self.p99_ms), figure(self.mean_ms))
        rest = (f"{self.throughput_per_s:.0f}", format_bytes(self.size_bytes), format_bytes(self.peak_memory_bytes))
        return (self.precision, str(self.batch), str(self.threads), *times, *rest)

    def _shown(self) -> Sequence[Table | str]:
        return [f"{self.what}, latency in ms", Table(COLUMNS, [self._row()]), f"{self.provider}, {len(self.latencies_ns)} runs"]


COLUMNS = ("model", "batch", "threads", "p50", "p90", "p95", "p99", "mean", "images/s", "size", "memory")


@dataclass(frozen=True, repr=False)
class BenchResult(Results[BenchMeasurement]):
    """A :class:`BenchMeasurement` for each model and setting."""

    what: str

    def _shown(self) -> Sequence[Table | str]:
        noisy = [f"{one.precision}: noisy measurement, {one.noise}" for one in self.items if one.noise]
        where = [f"{self.items[0].provider}, at least {min(len(one.latencies_ns) for one in self.items)} runs each"]
        return [f"{self.what}, latency in ms", Table(COLUMNS, [one._row() for one in self.items]), *where, *noisy]


@dataclass(frozen=True)
class BenchComparison:
    """The time of another model over that of the first one."""

    other: str
    ratio: float
    low: float  # of the interval
    high: float
    real: bool  # whether there is a difference
    verdict: str


@dataclass(frozen=True, repr=False)
class CompareResult(Results[BenchComparison]):
    """A :class:`BenchComparison` for each other model, timed in turn with ``what``."""

    what: str

    def _shown(self) -> Sequence[Table | str]:
        rows = [(one.other, figure(one.ratio), f"{one.low:.3f} to {one.high:.3f}", one.verdict) for one in self.items]
        return [f"time of each model over that of {self.what}", Table(("model", "ratio", "99 % interval", "verdict"), rows, (0, 3))]


@overload
def bench(
    what: PathLike,
    *,
    against: PathLike | None = ...,
    max_regression: str | None = ...,
    check: bool = ...,
    batch: int | str | Iterable[int] = ...,
    threads: int | str | Iterable[int] | None = ...,
    runs: int = ...,
    seconds: float = ...,
    layers: bool = ...,
    shape: Shapes = ...,
    runtime: str = ...,
    provider: Literal["tensorrt"] | None = ...,
    precision: Precision | None = ...,
    device: str = ...,
    host: str | None = ...,
    ssh_option: str | Sequence[str] = ...,
    host_python: str | None = ...,
    csv: PathLike | None = ...,
    report: PathLike | None = ...,
    verbose: bool = ...,
    quiet: bool = ...,
) -> BenchResult: ...


@overload
def bench(
    what: PathLike,
    *,
    compare: PathLike | Iterable[PathLike],
    batch: int | str = ...,
    threads: int | str | None = ...,
    runs: int = ...,
    seconds: float = ...,
    shape: Shapes = ...,
    runtime: str = ...,
    provider: Literal["tensorrt"] | None = ...,
    precision: Precision | None = ...,
    device: str = ...,
    report: PathLike | None = ...,
    verbose: bool = ...,
    quiet: bool = ...,
) -> CompareResult: ...


def bench(
    what: PathLike,
    *,
    compare: PathLike | Iterable[PathLike] = (),
    against: PathLike | None = None,
    max_regression: str | None = None,
    check: bool = False,
    batch: int | str | Iterable[int] = 1,
    threads: int | str | Iterable[int] | None = None,
    runs: int = 100,
    seconds: float = 1.0,
    layers: bool = False,
    shape: Shapes = (),
    runtime: str = "auto",
    provider: Literal["tensorrt"] | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    host: str | None = None,
    ssh_option: str | Sequence[str] = (),
    host_python: str | None = None,
    csv: PathLike | None = None,
    report: PathLike | None = None,
    verbose: bool = False,
    quiet: bool = False,
) -> BenchResult | CompareResult:
    """Measure latency, throughput, size and memory, each model in a process of its own, as ``tlx bench`` does.

    Args:
        what: a checkpoint, a bundle, any .onnx file, or an engine.
        compare: time ``what`` in turn with these models; the result is a :class:`CompareResult` then.
        against: hold the result against what an earlier ``tlx bench --json`` wrote.
        max_regression: with ``against``: the largest slowdown that is allowed, such as ``"5%"``.
        check: hold the chosen model against the profile's budget.
        batch: images at a time; one number, several, or ``"1,4,16"``.
        threads: CPU threads, likewise; None: one for each usable core.
        runs: timed runs, at least.
        seconds: time of the runs, at least.
        layers: also the ten slowest layers, in :meth:`BenchMeasurement.to_dict`.
        shape: shape of each input with free axes besides the first: ``{"input": (1, 3, 224, 224)}`` or ``"input=1,3,224,224"``.
        runtime: ``"auto"``, ``"torch"``, ``"onnxruntime"`` or ``"tensorrt"``.
        provider: of ONNX Runtime, besides those that ``device`` selects.
        precision: which of a bundle's models; None: all, in a comparison the chosen one.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:N]"``.
        host: measure on this board, which ssh reaches; ``what`` is a bundle then.
        ssh_option: for ssh's -o, such as ``"Port=2222"``; one or several.
        host_python: Python on the board; None: python3.
        csv: also write a CSV file with a row for each measurement.
        report: also write an HTML page.
        verbose: report the time of each step.
        quiet: no progress and no notes.

    Raises:
        OverBudget: with ``check`` or ``max_regression``; ``error.result`` is the :class:`BenchResult`.
        TlxError: see :mod:`tlexport.errors`.
    """
    values.flags(check=check, layers=layers)
    with machine_errors():
        from tlexport.api.bench import BenchOrder, BenchSettings
        from tlexport.python.notebook import reporter

        model, others = values.path("what", what), values.texts("compare", compare)
        expect_usable([str(model), *others])
        settings = BenchSettings(
            values.runtime(runtime, provider),
            values.parsed("device", device, arguments.device),
            min_runs=values.whole("runs", runs, 1, 1_000_000),
            min_seconds=values.real("seconds", seconds, 0, 600),
            layers=layers,
            shapes=values.shapes(shape),
        )
        order = BenchOrder(
            model,
            settings,
            batches=values.counts("batch", batch, 4096),
            threads=None if threads is None else values.counts("threads", threads, values.MOST_THREADS),
            precision=values.precision(precision),
            compare=tuple(map(Path, others)),
            against=values.path_or_none("against", against),
            max_regression=values.parsed_or_none("max_regression", max_regression, arguments.fraction),
            check=check,
            host=values.host(host, ssh_option, host_python),
            csv=values.place("csv", csv),
            report=values.place("report", report),
        )
        return _compare(order, reporter(verbose, quiet)) if others else _bench(order, reporter(verbose, quiet))


def _compare(order: BenchOrder, progress: Progress) -> CompareResult:
    from tlexport.api.bench import run_comparison
    from tlexport.api.compare import to_json

    found = plain(to_json(run_comparison(order, progress)))
    fields = BenchComparison.__dataclass_fields__
    items = tuple(BenchComparison(**{name: row[name] for name in fields}) for row in found["compared"])
    return CompareResult(found, items=items, what=found["what"])


def _bench(order: BenchOrder, progress: Progress) -> BenchResult:
    from tlexport.api.bench import run_bench

    benched = run_bench(order, progress)
    result = _result(benched)
    try:
        benched.expect_kept()
    except OverBudget as error:
        raise with_result(error, result) from None
    return result


def _result(benched: Benched) -> BenchResult:
    found = plain(benched.to_json())
    rows = found if isinstance(found, list) else [found]
    title = f"{benched.order.what} on {benched.order.host.name}" if benched.order.host else str(benched.order.what)
    return BenchResult(found, items=tuple(map(_measurement, rows)), what=title)


def _measurement(row: dict[str, Any]) -> BenchMeasurement:
    latency = row["latency_ms"]
    same = ("what", "precision", "runtime", "provider", "threads", "batch", "throughput_per_s", "size_bytes", "peak_memory_bytes")
    return BenchMeasurement(
        row,
        **{name: row[name] for name in same},
        **{f"{name}_ms": latency[name] for name in ("mean", "p50", "p90", "p95", "p99")},
        load_ms=row["load_ms"],
        latencies_ns=tuple(row["latencies_ns"]),
        noise=row["noise"],
    )
