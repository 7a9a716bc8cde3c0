"""``tlx bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    help="Time WHAT and OTHER in turn: is the difference real? May be repeated.",
)
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help="Hold against what an earlier bench wrote with --json.")
@click.option(
    "--max-regression",
    type=options.fraction,
    metavar="PERCENT",
    help="With --against: exit code 6 when it is slower than that for certain.",
)
@click.option("--check", is_flag=True, help="Hold the chosen model against the profile's budget; exit code 6 when it is over.")
@click.option("--batch", "batches", type=options.counts(4096), metavar="N[,N...]", default="1", show_default=True, help="Images at a time.")
@click.option("--threads", type=options.counts(1024), metavar="N[,N...]", help="CPU threads; default: one for each usable core.")
@click.option("--runs", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="At least so many timed runs.")
@click.option("--seconds", type=options.Number(0, 600), default=1.0, show_default=True, help="And at least so long.")
@click.option("--layers", is_flag=True, help="Also the ten slowest layers, as the runtime fused them.")
@options.shapes
@options.runtime
@options.precision
@options.device
@options.host
@click.option("--markdown", is_flag=True, help="A table in Markdown, for a pull request.")
@click.option("--csv", "csv_file", type=options.place, metavar="FILE", help="Also write a row for each measurement.")
@click.option("--report", type=options.place, metavar="FILE.html", help="Also write it as one page, to read and to hand on.")
@options.as_json
@options.verbosity
def command(
    what: Path,
    others: tuple[Path, ...],
    against: Path | None,
    max_regression: float | None,
    check: bool,
    batches: tuple[int, ...],
    threads: tuple[int, ...] | None,
    runs: int,
    seconds: float,
    layers: bool,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    runtime: str,
    precision: Any,
    device: str,
    host: Host | None,
    markdown: bool,
    csv_file: Path | None,
    report: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Measure WHAT: a checkpoint, a bundle, any .onnx file, or an engine.

    Latency, throughput, size, memory and the time to load; each model in a process of its own. Latency is one run of the whole batch,
    from pixels in memory to probabilities in memory; decoding and resizing are told apart. A model of others runs on inputs that are
    made up by the shapes that it declares. Several numbers for --batch and --threads measure every pair.

    With --host the bundle is copied to that board, measured there by its own runner, and removed again.
    """
    from tlexport.api.bench import BenchSettings

    here_only = {"--compare": others, "--layers": layers, "--shape": shapes}
    single = {"--check": check, "--compare": others}
    compared_only = {
        "--check": check,
        "--against": against,
        "--layers": layers,
        "--markdown": markdown,
        "--csv": csv_file,
    }
    _exclude("--host", host, here_only)
    _exclude("--compare", others, compared_only)
    _exclude("several numbers for --batch or --threads", len(batches) > 1 or len(threads or ()) > 1, single)
    _exclude("--markdown", markdown, {"--json": as_json})
    if max_regression is not None and against is None:
        raise UsageError("--max-regression says how much slower than before is allowed, and there is no before", "name it: --against FILE")
    if against is not None:
        from tlexport.bench.against import read_previous

        read_previous(against)  # what is wrong with it is told before anything is measured
    if report:
        from tlexport.api.bench_report import check_report

        check_report(report)
    reporter = progress(verbose, quiet)
    settings = BenchSettings(runtime, device, None, 1, runs, seconds, layers, dict(shapes))
    sweep = [replace(settings, batch=batch, threads=count) for batch, count in product(batches, threads or (None,))]
    if others:
        return _compare(what, others, sweep[0], precision, report, as_json, reporter)
    title = f"{what} on {host.name}" if host else str(what)
    measured = _measure(what, host, sweep, precision, check, reporter)
    regressions = _regressions(measured, against)
    if report:
        from tlexport.api.bench_report import write_report

        measurements = [one for one, _ in measured]
        write_report(report, what, measurements, regressions=regressions, host=host.name if host else "", host_fits=check)
        reporter.note(f"the report is {report}")
    _tell(title, measured, regressions, max_regression, what if check else None, host is not None, markdown, csv_file, as_json)


def _exclude(one: str, given: object, others: Mapping[str, object]) -> None:
    """Refuse options that do not go with one that is given."""
    wrong = [name for name, value in others.items() if value]
    if given and wrong:
        raise UsageError(f"{one} does not go with {' and '.join(wrong)}", "do the one after the other")


def _compare(
    what: Path, others: Sequence[Path], settings: BenchSettings, precision: Any, report: Path | None, as_json: bool, reporter: Progress
) -> None:
    from tlexport.api.compare import compare, to_json
    from tlexport.cli.bench_table import show_comparisons

    found = compare(what, others, settings, precision=precision, progress=reporter)
    if report:
        from tlexport.api.bench_report import write_comparison

        write_comparison(report, found, settings)
        reporter.note(f"the report is {report}")
    if as_json:
        print_json(to_json(found))
    else:
        show_comparisons(found[0].what, found)


def _measure(
    what: Path, host: Host | None, sweep: Sequence[BenchSettings], precision: Any, check: bool, reporter: Progress
) -> list[tuple[Measurement, dict[str, Any]]]:
    """The measurements, made here or on a board, each with what else is known of it."""
    if host:
        from tlexport.api.remote import bench_there

        there = [
            one for settings in sweep for one in bench_there(what, host, settings, precision=precision, for_target=check, progress=reporter)
        ]
        return [(one.measurement, one.also | {"host": host.name}) for one in there]
    from tlexport.api.bench import bench, target_here

    if check:
        target_here(what)
    precisions = [precision] if precision else None
    return [(one, {}) for settings in sweep for one in bench(what, settings, precisions=precisions, progress=reporter)]


def _regressions(measured: list[tuple[Measurement, dict[str, Any]]], against: Path | None) -> list[Regression]:
    """Each measurement, held against the earlier one; none where there is none to hold it against."""
    if against is None:
        return []
    from tlexport.bench import against as earlier

    return earlier.against([measurement for measurement, _ in measured], against)


def _tell(
    title: str,
    measured: list[tuple[Measurement, dict[str, Any]]],
    regressions: Sequence[Regression],
    max_regression: float | None,
    checked: Path | None,
    elsewhere: bool,
    markdown: bool,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Print what was measured, and only then fail for what is too slow or too large."""
    from tlexport.api.bench import check_budget
    from tlexport.bench.against import expect_no_regression
    from tlexport.bench.noise import noise
    from tlexport.cli import bench_table

    measurements = [measurement for measurement, _ in measured]
    broken: OverBudget | None = None
    if checked:
        try:
            check_budget(checked, measurements, elsewhere=elsewhere)
        except OverBudget as error:
            broken = error
    if csv_file:
        bench_table.write_csv(csv_file, measurements)
    if as_json:
        values = [also | one.to_json() | {"noise": noise(one)} for one, also in measured]
        for value, regression in zip(values, regressions, strict=False):
            value["against"] = regression.to_json()
        print_json(values[0] if len(values) == 1 else values)
    elif markdown:
        echo(bench_table.markdown(title, measurements, regressions), nl=False)
    else:
        bench_table.show(title, measurements)
        if regressions:
            bench_table.show_regressions(regressions)
    if broken:
        raise broken
    if max_regression is not None:
        expect_no_regression(regressions, max_regression)
