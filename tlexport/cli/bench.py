"""``tlx bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, progress
from tlexport.errors import OverBudget, UsageError

if TYPE_CHECKING:
    from tlexport.api.bench import BenchSettings
    from tlexport.bench.against import Regression
    from tlexport.measurement import Measurement
    from tlexport.ports import Progress
    from tlexport.remote.ssh import Host

Measured = tuple["Measurement", dict[str, Any]]  # a measurement, and further JSON keys of a board


@dataclass(frozen=True)
class BenchOptions:
    """The options of ``tlx bench``."""

    what: Path
    others: tuple[Path, ...]
    against: Path | None
    max_regression: float | None
    check: bool
    batches: tuple[int, ...]
    threads: tuple[int, ...] | None
    runs: int
    seconds: float
    layers: bool
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    runtime: str
    precision: Any
    device: str
    host: Host | None
    markdown: bool
    csv_file: Path | None
    report: Path | None
    as_json: bool
    verbose: bool
    quiet: bool

    def sweep(self) -> list[BenchSettings]:
        """The settings of each measurement: every pair of batch size and threads."""
        from tlexport.api.bench import BenchSettings

        settings = BenchSettings(self.runtime, self.device, None, 1, self.runs, self.seconds, self.layers, dict(self.shapes))
        return [replace(settings, batch=batch, threads=count) for batch, count in product(self.batches, self.threads or (None,))]


@click.command(
    epilog=options.examples(
        "tlx bench tlx-demo/bundle",
        "tlx bench tlx-demo/checkpoint --threads 1 --json",
        "tlx bench tlx-demo/bundle --precision int8 --batch 1,4,16 --threads 1,2 --layers",
        "tlx bench tlx-demo/bundle/model.fp32.onnx --compare tlx-demo/bundle/model.int8.onnx",
    )
)
@click.argument("what", type=click.Path(path_type=Path))
@click.option(
    "--compare",
    "others",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="OTHER",
    help="Time WHAT and OTHER alternately and test whether they differ. May be repeated.",
)
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help="Compare with an earlier result of tlx bench --json.")
@click.option(
    "--max-regression",
    type=options.fraction,
    metavar="PERCENT",
    help="With --against: exit code 6 if a model is certainly slower by more than this.",
)
@click.option("--check", is_flag=True, help="Check the chosen model against the profile's budget; exit code 6 if it is over budget.")
@click.option("--batch", "batches", type=options.counts(4096), metavar="N[,N...]", default="1", show_default=True, help="Images per run.")
@click.option("--threads", type=options.counts(1024), metavar="N[,N...]", help="CPU threads. Default: one for each usable core.")
@click.option("--runs", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Minimum number of timed runs.")
@click.option("--seconds", type=options.Number(0, 600), default=1.0, show_default=True, help="Minimum time of all timed runs.")
@click.option("--layers", is_flag=True, help="Also print the ten slowest layers, as fused by the runtime.")
@options.shapes
@options.runtime
@options.precision
@options.device
@options.host
@click.option("--markdown", is_flag=True, help="Print a Markdown table, for example for a pull request.")
@click.option("--csv", "csv_file", type=options.place, metavar="FILE", help="Also write one row for each measurement to this file.")
@click.option("--report", type=options.place, metavar="FILE.html", help="Also write a self-contained HTML report.")
@options.as_json
@options.verbosity
@options.collected(BenchOptions)
def command(given: BenchOptions) -> None:
    """Measure latency, throughput, size, memory and load time of WHAT: a checkpoint, a bundle, an .onnx file, or an engine.

    Each model runs in its own process. Latency is the time of one run of the whole batch, from pixels in memory to
    probabilities in memory; decoding and resizing are reported separately. An external ONNX model runs on synthetic inputs
    of its declared shapes. With several values of --batch and --threads, every pair is measured.

    With --host, the bundle is copied to that board, measured there by its own runner, and removed again.
    """
    _expect_consistent(given)
    reporter, sweep = progress(given.verbose, given.quiet), given.sweep()
    if given.others:
        return _compare(given, sweep[0], reporter)
    measured = _measure(given, sweep, reporter)
    regressions = _regressions(measured, given.against)
    if given.report:
        from tlexport.api.bench_report import write_report

        host, measurements = given.host.name if given.host else "", [one for one, _ in measured]
        write_report(given.report, given.what, measurements, regressions=regressions, host=host, host_fits=given.check)
        reporter.note(f"the report is {given.report}")
    _show(given, measured, regressions)


def _expect_consistent(given: BenchOptions) -> None:
    """Refuse options that exclude each other, and files that cannot be used, before anything is measured."""
    several = len(given.batches) > 1 or len(given.threads or ()) > 1
    _exclude("--host", given.host, {"--compare": given.others, "--layers": given.layers, "--shape": given.shapes})
    compared_only = {
        "--check": given.check,
        "--against": given.against,
        "--layers": given.layers,
        "--markdown": given.markdown,
        "--csv": given.csv_file,
    }
    _exclude("--compare", given.others, compared_only)
    _exclude("several numbers for --batch or --threads", several, {"--check": given.check, "--compare": given.others})
    _exclude("--markdown", given.markdown, {"--json": given.as_json})
    if given.max_regression is not None and given.against is None:
        raise UsageError("--max-regression needs an earlier measurement to compare with", "name it: --against FILE")
    if given.against is not None:
        from tlexport.bench.against import read_previous

        read_previous(given.against)
    if given.report:
        from tlexport.api.bench_report import check_report

        check_report(given.report)


def _exclude(one: str, given: object, others: Mapping[str, object]) -> None:
    """Refuse the other options if the first is given."""
    wrong = [name for name, value in others.items() if value]
    if given and wrong:
        raise UsageError(f"{one} cannot be combined with {' and '.join(wrong)}", "run them one after the other")


def _compare(given: BenchOptions, settings: BenchSettings, reporter: Progress) -> None:
    from tlexport.api.compare import compare, to_json
    from tlexport.cli.bench_table import show_comparisons

    found = compare(given.what, given.others, settings, precision=given.precision, progress=reporter)
    if given.report:
        from tlexport.api.bench_report import write_comparison

        write_comparison(given.report, found, settings)
        reporter.note(f"the report is {given.report}")
    if given.as_json:
        print_json(to_json(found))
    else:
        show_comparisons(found[0].what, found)


def _measure(given: BenchOptions, sweep: Sequence[BenchSettings], reporter: Progress) -> list[Measured]:
    """The measurements, on this machine or on a board, each with its further JSON keys."""
    if given.host:
        from tlexport.api.remote import bench_there

        host, precision, for_target = given.host, given.precision, given.check
        return [
            (one.measurement, one.also | {"host": host.name})
            for settings in sweep
            for one in bench_there(given.what, host, settings, precision=precision, for_target=for_target, progress=reporter)
        ]
    from tlexport.api.bench import bench, target_here

    if given.check:
        target_here(given.what)
    precisions = [given.precision] if given.precision else None
    return [(one, {}) for settings in sweep for one in bench(given.what, settings, precisions=precisions, progress=reporter)]


def _regressions(measured: Sequence[Measured], against: Path | None) -> list[Regression]:
    """Each measurement compared with the earlier one; empty without --against."""
    if against is None:
        return []
    from tlexport.bench import against as earlier

    return earlier.against([measurement for measurement, _ in measured], against)


def _show(given: BenchOptions, measured: Sequence[Measured], regressions: Sequence[Regression]) -> None:
    """Print the results; only then fail if a model is over budget or slower than allowed."""
    from tlexport.bench.against import expect_no_regression
    from tlexport.cli import bench_table

    measurements = [measurement for measurement, _ in measured]
    over_budget = _over_budget(given, measurements)
    if given.csv_file:
        bench_table.write_csv(given.csv_file, measurements)
    title = f"{given.what} on {given.host.name}" if given.host else str(given.what)
    if given.as_json:
        values = _values(measured, regressions)
        print_json(values[0] if len(values) == 1 else values)
    elif given.markdown:
        echo(bench_table.markdown(title, measurements, regressions), nl=False)
    else:
        bench_table.show(title, measurements)
        if regressions:
            bench_table.show_regressions(regressions)
    if over_budget:
        raise over_budget
    if given.max_regression is not None:
        expect_no_regression(regressions, given.max_regression)


def _over_budget(given: BenchOptions, measurements: Sequence[Measurement]) -> OverBudget | None:
    """The error for a chosen model that is over its profile's budget, if --check is given."""
    from tlexport.api.bench import check_budget

    if given.check:
        try:
            check_budget(given.what, measurements, elsewhere=given.host is not None)
        except OverBudget as error:
            return error
    return None


def _values(measured: Sequence[Measured], regressions: Sequence[Regression]) -> list[dict[str, Any]]:
    """The measurements as JSON values."""
    from tlexport.bench.noise import noise

    values = [also | one.to_json() | {"noise": noise(one)} for one, also in measured]
    for value, regression in zip(values, regressions, strict=False):
        value["against"] = regression.to_json()
    return values
