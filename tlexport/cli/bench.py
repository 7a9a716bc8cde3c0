"""``tlx bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import milliseconds, print_json, print_table, progress
from tlexport.errors import OverBudget
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from tlexport.api.bench import BenchSettings
    from tlexport.measurement import Measurement
    from tlexport.ports import Progress
    from tlexport.remote.ssh import Host


@click.command(
    epilog=options.examples(
        "tlx bench tlx-demo/bundle",
        "tlx bench tlx-demo/checkpoint --threads 1 --json",
        "tlx bench tlx-demo/bundle --host user@board",
        "tlx bench tlx-demo/bundle --check --report bench.html",
    )
)
@click.argument("what", type=click.Path(path_type=Path))
@options.runtime
@options.precision
@click.option("--batch", type=click.IntRange(1, 4096), default=1, show_default=True, help="Images at a time.")
@click.option("--runs", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="At least so many timed runs.")
@click.option("--seconds", type=options.Number(0, 600), default=1.0, show_default=True, help="And at least so long.")
@click.option("--check", is_flag=True, help="Hold the chosen model against the profile's budget; exit code 6 when it is over.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write it as one HTML file, to read and to hand on.")
@options.device
@options.threads
@options.host
@options.as_json
@options.verbosity
def command(
    what: Path,
    runtime: str,
    precision: Any,
    batch: int,
    runs: int,
    seconds: float,
    check: bool,
    report: Path | None,
    device: str,
    threads: int | None,
    host: Host | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Measure latency, throughput, load time, size and memory of WHAT: a checkpoint, a bundle, or a bundle's .onnx file.

    With --host the bundle is copied to that board, measured there by its own runner, and removed again.

    Each model runs in a process of its own. Latency is one run of the whole batch, from pixels in memory to
    probabilities in memory; decoding and resizing are not in it.
    """
    from tlexport.api.bench import BenchSettings, check_budget

    reporter = progress(verbose, quiet)
    if report:
        from tlexport.api.bench_report import check_report, write_report

        check_report(report)
    settings = BenchSettings(runtime, device, threads, batch, runs, seconds)
    measured = _measure(what, host, settings, precision, check, reporter)
    measurements = [measurement for measurement, _ in measured]
    broken: OverBudget | None = None
    if check:
        try:
            check_budget(what, measurements, elsewhere=host is not None)
        except OverBudget as error:
            broken = error  # what was measured is shown first
    if report:
        write_report(report, what, measurements, host=host.name if host else "", host_fits=check)
        reporter.note(f"the report is {report}")
    if as_json:
        values = [also | measurement.to_json() for measurement, also in measured]
        print_json(values[0] if len(values) == 1 else values)
    else:
        _show_measurements(f"{what} on {host.name}" if host else str(what), measurements)
    if broken:
        raise broken


def _measure(
    what: Path, host: Host | None, settings: BenchSettings, precision: Any, check: bool, reporter: Progress
) -> list[tuple[Measurement, dict[str, Any]]]:
    """The measurements, made here or on a board, each with what else is known of it."""
    if host:
        from tlexport.api.remote import bench_there

        there = bench_there(what, host, settings, precision=precision, for_target=check, progress=reporter)
        return [(one.measurement, one.also | {"host": host.name}) for one in there]
    from tlexport.api.bench import bench, target_here

    if check:
        target_here(what)
    return [(one, {}) for one in bench(what, settings, precisions=[precision] if precision else None, progress=reporter)]


def _show_measurements(title: str, measurements: list[Measurement]) -> None:
    """The table, and the environment under it."""
    rows = []
    for m in measurements:
        latency = m.latency()
        rows.append(
            (
                m.precision,
                *(milliseconds(latency[key]) for key in ("p50", "p90", "p95", "p99")),
                f"{latency['mean']:.3f} ±{(latency['mean_high'] - latency['mean_low']) / 2:.3f}",
                f"{m.throughput_per_s:.0f}",
                format_bytes(m.size_bytes),
                f"{m.load_ns / 1e6:.0f}",
                format_bytes(m.peak_memory_bytes),
            )
        )
    columns = ("model", "p50", "p90", "p95", "p99", "mean ms", "img/s", "size", "load ms", "memory")
    first = measurements[0]
    print_table(f"{title}, batch {first.batch}, latency in ms", columns, rows)
    e = first.environment
    runs = min(len(m.latencies_ns) for m in measurements)
    click.echo(f"{first.provider}, {first.threads} threads, at least {runs} runs each")
    click.echo(f"{e.cpu}, governor {e.governor or 'not readable'}, load {e.load_1min}")
