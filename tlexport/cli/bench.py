"""``tlx bench``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, progress
from tlexport.errors import UsageError

if TYPE_CHECKING:
    from tlexport.api.bench import Benched, BenchOrder
    from tlexport.api.compare import Comparison
    from tlexport.remote.host import Host


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

    def order(self) -> BenchOrder:
        """What is measured, and how."""
        from tlexport.api.bench import BenchOrder, BenchSettings

        settings = BenchSettings(self.runtime, self.device, None, 1, self.runs, self.seconds, self.layers, dict(self.shapes))
        return BenchOrder(
            self.what,
            settings,
            batches=self.batches,
            threads=self.threads,
            precision=self.precision,
            compare=self.others,
            against=self.against,
            max_regression=self.max_regression,
            check=self.check,
            host=self.host,
            csv=self.csv_file,
            report=self.report,
        )


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
    from tlexport.api.bench import run_bench, run_comparison

    if given.markdown and (given.others or given.as_json):
        wrong = "--compare cannot be combined with --markdown" if given.others else "--markdown cannot be combined with --json"
        raise UsageError(wrong, "run them one after the other")
    reporter = progress(given.verbose, given.quiet)
    if given.others:
        _show_comparisons(given, run_comparison(given.order(), reporter))
    else:
        _show(given, run_bench(given.order(), reporter))


def _show_comparisons(given: BenchOptions, found: Sequence[Comparison]) -> None:
    """Print each comparison."""
    from tlexport.api.compare import to_json
    from tlexport.cli.bench_table import show_comparisons

    if given.as_json:
        print_json(to_json(found))
    else:
        show_comparisons(found[0].what, found)


def _show(given: BenchOptions, benched: Benched) -> None:
    """Print the results; only then fail if a model is over budget or slower than allowed."""
    from tlexport.cli import bench_table

    title = f"{given.what} on {given.host.name}" if given.host else str(given.what)
    if given.as_json:
        print_json(benched.to_json())
    elif given.markdown:
        echo(bench_table.markdown(title, benched.measurements, benched.regressions), nl=False)
    else:
        bench_table.show(title, benched.measurements)
        if benched.regressions:
            bench_table.show_regressions(benched.regressions)
    benched.expect_kept()
