"""``tlx evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, percent, print_json, print_table, progress


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
    help="Of data with its own split, or of the checkpoint's. auto: test, else val, else all.",
)
@options.runtime
@options.precision
@options.on_error
@options.device
@options.threads
@options.as_json
@options.verbosity
def command(
    what: Path,
    data: str,
    part: Any,
    runtime: str,
    precision: Any,
    on_error: Any,
    device: str,
    threads: int | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Accuracy of WHAT (a checkpoint, a bundle, or a bundle's .onnx file) on DATA: top-1, per class, calibration error."""
    from tlexport.api.evaluate import evaluate

    result = evaluate(
        what,
        data,
        runtime=runtime,
        precision=precision,
        device=device,
        threads=threads,
        part=part,
        on_error=on_error,
        progress=progress(verbose, quiet),
    )
    if as_json:
        print_json(result.to_json())
        return
    rows = []
    for index, (name, row) in enumerate(result.scores.per_class().items()):
        mistakes = result.scores.confusion[index].copy()
        mistakes[index] = 0
        most = f"{result.scores.classes[int(mistakes.argmax())]} ({int(mistakes.max())})" if mistakes.any() else "-"
        rows.append((name, str(row["n"]), *("-" if row[k] is None else percent(row[k] or 0.0) for k in ("recall", "precision")), most))
    print_table("", ("class", "images", "recall", "precision", "taken most for"), rows)
    scores = result.scores
    echo(f"top-1 {percent(scores.top1)} of {scores.n} images ({result.part}), expected calibration error {scores.ece:.3f}")
    echo(f"{result.runtime}, {result.provider}")
