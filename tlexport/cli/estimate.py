"""``tlx estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, print_table, progress
from tlexport.units import format_bytes

if TYPE_CHECKING:
    from tlexport.api.estimate import Answer


@dataclass(frozen=True)
class EstimateOptions:
    """The options of ``tlx estimate``."""

    what: Path
    names: tuple[str, ...]
    everything: bool
    precision: Any
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    threads: int
    max_latency: float | None
    max_size: int | None
    max_memory: int | None
    as_json: bool
    verbose: bool
    quiet: bool


@click.command(
    epilog=options.examples(
        "tlx estimate tlx-demo/bundle --target raspberry-pi-5 --target jetson-nano:5w",
        "tlx estimate tlx-demo/checkpoint --all --max-latency 10ms",
        "tlx estimate model.onnx --target jetson-orin-nano --shape input=1,3,224,224 --json",
    )
)
@click.argument("what", type=click.Path(path_type=Path))
@click.option("-t", "--target", "names", multiple=True, metavar="PROFILE", help="A name from `tlx profiles`, NAME:MODE, or a .toml file.")
@click.option("--all", "everything", is_flag=True, help="Every profile: those whose budget is met first, the slowest board on top.")
@options.precision
@options.shapes
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="CPU threads of the runtime on the board.")
@click.option("--max-latency", type=options.duration, help="Largest latency, such as 10ms. Default: the profile's budget.")
@click.option("--max-size", type=options.size, help="Largest model file, such as 2MB (1 MB = 10^6 bytes). Default: the profile's budget.")
@click.option("--max-memory", type=options.size, help="Largest memory, such as 100MB. Default: the profile's budget.")
@options.as_json
@options.verbosity
@options.collected(EstimateOptions)
def command(given: EstimateOptions) -> None:
    """Estimate latency and memory of WHAT on devices that are not connected.

    WHAT is a checkpoint (as FP32), a bundle, or an .onnx file. The interval contains the median latency of 80 % of networks. The
    basis states the data that an estimate uses; without data for a device, no estimate is printed. With --all, boards are sorted by
    their peak FP32 rate (hardware.fp32_tflops), lowest first, because profiles contain no prices.

    If limits are given and no board meets them, the exit code is 6.
    """
    from tlexport.api.estimate import estimate_what, expect_fit
    from tlexport.plan import Constraints

    if bool(given.names) == given.everything:
        raise click.UsageError("give --target PROFILE, once or several times, or --all")
    constraints = Constraints("auto", given.max_size, given.max_latency, threads=given.threads, max_memory_bytes=given.max_memory)
    reporter = progress(given.verbose, given.quiet)
    shapes = dict(given.shapes)
    found = estimate_what(given.what, given.names, constraints, precision=given.precision, shapes=shapes, progress=reporter)
    if given.as_json:
        print_json(found.to_json())
    else:
        threads = f"{given.threads} CPU thread{'s' if given.threads > 1 else ''}"
        _show(f"{found.model.what}, {found.model.precision}, {threads}: estimated, not measured", found.answers)
    if (given.max_size, given.max_latency, given.max_memory) != (None, None, None):
        expect_fit(found.answers)


def _show(heading: str, answers: Sequence[Answer]) -> None:
    """Print the table, then the basis of each estimate."""
    rows, lines = [], []
    for answer in answers:
        name, e = answer.target.profile.target, answer.estimate
        if e is None or answer.fit is None:
            rows.append((name, *["-"] * 6))
            lines.append(answer.error.message if answer.error else name)
            continue
        sizes = format_bytes(e.memory_bytes), format_bytes(e.size_bytes)
        interval = f"{e.low_ms:.3g} to {e.high_ms:.3g}"
        rows.append((name, f"{e.p50_ms:.3g}", interval, *sizes, answer.fit.likelihood, answer.kind or ""))
        each = f"{e.p50_ms / answer.batch:.3g} ms for each of the {answer.batch} images of a batch; " if answer.batch != 1 else ""
        lines.append(f"{name}: {each}{''.join(f'{over}; ' for over in answer.fit.broken)}{e.basis}")
    print_table(heading, ("target", "p50, ms", "80 % interval", "memory", "size", "in budget?", "basis"), rows)
    for line in lines:
        echo(line)
