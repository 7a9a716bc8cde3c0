"""The verb ``bench``: latency, throughput, size and memory of models, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlexport.api.bench_report import check_report, write_comparison, write_report
from tlexport.api.compare import Comparison, compare
from tlexport.artifact import Precision
from tlexport.bench.against import Regression, against, expect_no_regression, read_previous
from tlexport.bench.noise import noise
from tlexport.bench.process import measure
from tlexport.bundle.manifest import Manifest
from tlexport.errors import OverBudget, Unsupported, UsageError
from tlexport.hardware.target import is_here
from tlexport.loading.bench_request import BenchSettings as BenchSettings
from tlexport.loading.bench_request import requests_for
from tlexport.loading.model import LoadedModel, load
from tlexport.measurement import Measurement
from tlexport.plan import Candidate, Limits, not_as_budgeted, violations
from tlexport.ports import Progress, Silent
from tlexport.storage.files import temporary_folder

if TYPE_CHECKING:
    from tlexport.remote.host import Host


def bench(
    what: Path | LoadedModel, settings: BenchSettings, *, precisions: Sequence[Precision] | None = None, progress: Progress | None = None
) -> list[Measurement]:
    """Measure WHAT, each model in its own process, on the golden images of a bundle or on synthetic inputs.

    Args:
        what: a checkpoint, a bundle (all of its models, unless ``precisions`` names some), any .onnx file, or an engine.
        settings: runtime, device, threads, batch, duration.
        precisions: which of a bundle's models.
        progress: receives progress and notes.

    Raises:
        Unsupported: the model is a TensorRT INT8 graph, whose time on a CPU is not representative. If a whole bundle is measured, this
            model is left out with a note.
        TlxError: see errors.py.
    """
    progress, model = progress or Silent(), load(what)
    measurements = []
    with temporary_folder("tlx-bench-") as folder:
        requests = requests_for(model, settings, precisions, progress, folder)
        with progress.task("measuring", len(requests)) as advance:
            for request in requests:
                measurements.append(measure(request))
                if found := noise(measurements[-1]):
                    progress.note(f"noisy measurement of {request.what}: {found}")
                advance(1)
    return measurements


def target_here(bundle: Path | LoadedModel) -> Manifest:
    """The manifest of a bundle whose budget can be checked on this machine. Call it before measuring.

    Raises:
        InvalidFile: not a bundle.
        Unsupported: this machine is not the bundle's target.
    """
    model = load(bundle)
    manifest = model.bundle()
    if not is_here(manifest.profile):
        raise Unsupported(
            f"{model.what} is for {manifest.target}, but this machine is not one",
            "run it on the device, or name the device: --host user@board",
        )
    return manifest


def check_budget(bundle: Path | LoadedModel, measurements: Sequence[Measurement], *, elsewhere: bool = False) -> None:
    """Compare the measurement of a bundle's chosen model with the budget of its profile.

    Args:
        bundle: the bundle.
        measurements: of its models.
        elsewhere: they were made on a board that is the target.

    Raises:
        OverBudget: names each broken limit.
        Unsupported: this machine is not the bundle's target, or the target runs an engine instead of the measured model.
        UsageError: the chosen model is not among the measurements, or was measured with several images at a time.
    """
    model = load(bundle)
    manifest = model.bundle() if elsewhere else target_here(model)
    chosen, budget = manifest.model(), manifest.profile.budget
    measured = next((m for m in measurements if m.artifact_sha256 == chosen.artifact.sha256), None)
    if measured is None:
        raise UsageError(f"the chosen model of {model.what}, {chosen.artifact.precision}, was not measured", "leave out --precision")
    if wrong := not_as_budgeted(manifest.profile, measured.runtime, measured.provider):
        engine = "build the engine and time it, in the bundle: python3 run.py build, python3 run.py bench"
        session = f"tlx bench {model.what} --check --device {manifest.profile.device or 'cpu'}"
        raise Unsupported(f"{manifest.target}: {wrong}", engine if manifest.profile.runtime == "tensorrt" else session)
    if measured.batch != 1:
        raise UsageError(f"the budget is for one image at a time, but {measured.batch} were measured", "leave out --batch")
    p50, p95 = measured.percentile_ms(50), measured.percentile_ms(95)
    candidate = Candidate(chosen.artifact.precision, measured.size_bytes, chosen.drop_points, p50, p95, measured.peak_memory_bytes)
    broken = violations(candidate, Limits(budget.size_bytes, budget.latency_p95_ms, budget.memory_bytes, drop_points=100.0))
    if broken:
        noisy = f"the measurement is noisy ({found}): measure again; or " if (found := noise(measured)) else ""
        raise OverBudget(
            f"{measured.what} is over the budget of {manifest.target}: {'; '.join(broken)}",
            f"{noisy}export with --precision auto, or raise the budget",
        )


@dataclass(frozen=True)
class BenchOrder:
    """What was asked of a bench."""

    what: Path
    settings: BenchSettings
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] | None = None
    precision: Precision | None = None  # which of a bundle's models; None: all, in a comparison the chosen one
    compare: tuple[Path, ...] = ()  # models that are timed in turn with ``what``
    against: Path | None = None  # what an earlier bench wrote
    max_regression: float | None = None
    check: bool = False  # hold the chosen model against the profile's budget
    host: Host | None = None
    csv: Path | None = None
    report: Path | None = None

    @property
    def sweep(self) -> list[BenchSettings]:
        """The settings of each measurement."""
        return [replace(self.settings, batch=batch, threads=count) for batch, count in product(self.batches, self.threads or (None,))]

    def expect_consistent(self) -> None:
        """Refuse options that exclude each other, and files that cannot be read or written, before anything is measured.

        Raises:
            UsageError: names both options.
            InvalidFile: see :func:`read_previous`.
        """
        there = {"--compare": self.compare, "--layers": self.settings.layers, "--shape": self.settings.shapes}
        _exclude("--host", self.host, there)
        compared = {"--check": self.check, "--against": self.against, "--layers": self.settings.layers, "--csv": self.csv}
        _exclude("--compare", self.compare, compared)
        several = len(self.batches) > 1 or len(self.threads or ()) > 1
        _exclude("several numbers for --batch or --threads", several, {"--check": self.check, "--compare": self.compare})
        if self.max_regression is not None and self.against is None:
            raise UsageError("--max-regression needs an earlier measurement to compare with", "name it: --against FILE")
        if self.against is not None:
            read_previous(self.against)
        if self.report:
            check_report(self.report)


def _exclude(one: str, given: object, others: Mapping[str, object]) -> None:
    wrong = [name for name, value in others.items() if value]
    if given and wrong:
        raise UsageError(f"{one} cannot be combined with {' and '.join(wrong)}", "run them one after the other")


@dataclass(frozen=True)
class Benched:
    """What was measured, and whether it keeps what was asked."""

    order: BenchOrder
    measurements: tuple[Measurement, ...]
    also: tuple[dict[str, Any], ...]  # what a board's runner added to each
    regressions: tuple[Regression, ...]  # each measurement held against the earlier one; empty: there is none
    over: OverBudget | None  # the profile's budget is not kept

    def expect_kept(self) -> None:
        """Raises OverBudget: the budget is not kept, or a model became slower than allowed."""
        if self.over:
            raise self.over
        if self.order.max_regression is not None:
            expect_no_regression(self.regressions, self.order.max_regression)

    def to_json(self) -> object:
        """As cli.md has it: one object for one measurement, else a list."""
        pairs = zip(self.measurements, self.also, strict=True)
        values = [also | one.to_json() | {"noise": noise(one)} for one, also in pairs]
        for value, regression in zip(values, self.regressions, strict=False):
            value["against"] = regression.to_json()
        return values[0] if len(values) == 1 else values


def run_bench(order: BenchOrder, progress: Progress) -> Benched:
    """Measure as ordered; write the report and the CSV file.

    Raises:
        TlxError: see :func:`bench`. A budget that is not kept is no error here; see :meth:`Benched.expect_kept`.
    """
    order.expect_consistent()
    model = load(order.what)
    measurements, also = _measure(model, order, progress)
    regressions = tuple(against(measurements, order.against)) if order.against else ()
    if order.report:
        name = order.host.name if order.host else ""
        write_report(order.report, model, measurements, regressions=regressions, host=name, host_fits=order.check)
        progress.note(f"the report is {order.report}")
    over: OverBudget | None = None
    if order.check:
        try:
            check_budget(model, measurements, elsewhere=order.host is not None)
        except OverBudget as error:
            over = error
    if order.csv:
        from tlexport.report.bench_csv import write_csv

        write_csv(order.csv, measurements)
    return Benched(order, tuple(measurements), tuple(also), regressions, over)


def _measure(model: LoadedModel, order: BenchOrder, progress: Progress) -> tuple[list[Measurement], list[dict[str, Any]]]:
    """The measurements, and what a board's runner added to each."""
    if order.host:
        from tlexport.api.remote import bench_there

        there = [
            one
            for settings in order.sweep
            for one in bench_there(model, order.host, settings, precision=order.precision, for_target=order.check, progress=progress)
        ]
        return [one.measurement for one in there], [one.also | {"host": order.host.name} for one in there]
    if order.check:
        target_here(model)
    precisions = [order.precision] if order.precision else None
    measured = [one for settings in order.sweep for one in bench(model, settings, precisions=precisions, progress=progress)]
    return measured, [{} for _ in measured]


def run_comparison(order: BenchOrder, progress: Progress) -> list[Comparison]:
    """Time the models in turn, as ordered; write the report.

    Raises:
        TlxError: see :func:`tlexport.api.compare.compare`.
    """
    order.expect_consistent()
    settings = order.sweep[0]
    found = compare(order.what, order.compare, settings, precision=order.precision, progress=progress)
    if order.report:
        write_comparison(order.report, found, settings)
        progress.note(f"the report is {order.report}")
    return found
