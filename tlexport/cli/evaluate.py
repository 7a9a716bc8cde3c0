"""``tlx evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, print_table, progress
from tlexport.units import format_percent


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of ``tlx evaluate``."""

    what: Path
    data: str
    part: Any
    runtime: str
    precision: Any
    on_error: Any
    device: str
    threads: int | None
    as_json: bool
    verbose: bool
    quiet: bool


@click.command(
    epilog=options.examples(
        "tlx evaluate tlx-demo/checkpoint demo:digits --part val",
        "tlx evaluate tlx-demo/bundle tlx-demo/digits --precision int8 --json",
    )
)
@click.argument("what", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--part",
    type=click.Choice(["auto", "all", "train", "val", "test"]),
    default="auto",
    show_default=True,
    help="Part of the data's own split, or of the checkpoint's. auto: test, else val, else all.",
)
@options.runtime
@options.precision
@options.on_error
@options.device
@options.threads
@options.as_json
@options.verbosity
@options.collected(EvaluateOptions)
def command(given: EvaluateOptions) -> None:
    """Measure the accuracy of WHAT on DATA: top-1, recall and precision of each class, calibration error.

    WHAT is a checkpoint, a bundle, or the .onnx file of a bundle.
    """
    from tlexport.api.evaluate import evaluate
    from tlexport.loading.model import Execution

    result = evaluate(
        given.what,
        given.data,
        run=Execution(runtime=given.runtime, precision=given.precision, device=given.device, threads=given.threads),
        part=given.part,
        on_error=given.on_error,
        progress=progress(given.verbose, given.quiet),
    )
    if given.as_json:
        print_json(result.to_json())
        return
    rows = []
    for index, (name, row) in enumerate(result.scores.per_class().items()):
        mistakes = result.scores.confusion[index].copy()
        mistakes[index] = 0
        most = f"{result.scores.classes[int(mistakes.argmax())]} ({int(mistakes.max())})" if mistakes.any() else "-"
        rows.append((name, str(row["n"]), *(format_percent(row[k]) for k in ("recall", "precision")), most))
    print_table("", ("class", "images", "recall", "precision", "most confused with"), rows)
    scores = result.scores
    echo(f"top-1 {format_percent(scores.top1)} of {scores.n} images ({result.part}), expected calibration error {scores.ece:.3f}")
    echo(f"{result.runtime}, {result.provider}")
