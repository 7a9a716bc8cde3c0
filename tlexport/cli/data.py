"""``tlx data``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, print_table, progress

if TYPE_CHECKING:
    from tlexport.api.data import CheckedData

MOST_ROWS = 20  # classes that the table shows


@dataclass(frozen=True)
class DataOptions:
    """The options of ``tlx data``."""

    data: str
    report: Path | None
    backbone: str
    weights: str
    image_size: int | None
    val_fraction: float
    seed: int
    device: str
    threads: int | None
    as_json: bool
    verbose: bool
    quiet: bool


@click.command(
    epilog=options.examples(
        "tlx data demo:digits",
        "tlx data tlx-demo/digits --report data.html --json",
    )
)
@click.argument("data")
@click.option("-o", "--out", "--report", "report", type=options.place, metavar="FILE.html", help="Also write a self-contained HTML report.")
@click.option("--backbone", default="mobilenet_v3_small", show_default=True, help="Network that computes the features.")
@click.option(
    "--weights",
    default="embedded",
    show_default=True,
    help="Its weights: embedded (printed letters, no download), pretrained (better for photos), none, or a file.",
)
@click.option("--image-size", type=click.IntRange(32, 1024), help="Side of the input, pixels. Default: that of the weights.")
@click.option(
    "--val-fraction",
    type=options.Number(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Fraction of the images that finetune would hold out, if DATA has no validation part.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of that split and of the folds.")
@options.device
@options.threads
@options.as_json
@options.verbosity
@options.collected(DataOptions)
def command(given: DataOptions) -> None:
    """Check the images of DATA before a training. Nothing is changed.

    Finds near-identical images in several parts of the split or with different labels, labels that are likely wrong, images
    far from all others, unreadable files, small classes, and unusual sizes. The exit code is 0 whatever is found.
    """
    from tlexport.loading.data_request import feature_recipe

    recipe = feature_recipe(given.backbone, given.weights, given.image_size, given.val_fraction, given.seed, given.report)
    from tlexport.api.data import DataSettings, check_data  # torch, which takes seconds to import

    reporter = progress(given.verbose, given.quiet)
    checked = check_data(given.data, DataSettings(recipe, given.device, given.threads), progress=reporter)
    if given.report is not None:
        checked.write_report(given.report)
        reporter.note(f"wrote {given.report}")
    if given.as_json:
        print_json(checked.to_json())
    else:
        _show(checked)


def _show(checked: CheckedData) -> None:
    """Print the classes, the notes and the findings."""
    from tlexport.health.findings import findings

    health = checked.health
    parts = [part for part in ("train", "val", "test", "left out") if any(part in counts for counts in health.classes.values())]
    rows = [(name, *(str(counts.get(part, 0)) for part in parts), str(sum(counts.values()))) for name, counts in health.classes.items()]
    print_table("", ("class", *parts, "images"), rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        echo(f"... and {len(rows) - MOST_ROWS} more classes: --json lists all")
    for note in health.notes:
        echo(f"note: {note}")
    for text, skipped in (("labels", health.labels.skipped), ("outliers", health.far_skipped)):
        if skipped:
            echo(f"note: {text}: {skipped}")
    found = findings(health)
    for finding in found:
        echo(f"{finding.severity}: {finding.message}")
        echo(f"  advice: {finding.advice}")
    counts = ", ".join(f"{kind}s: {sum(finding.severity == kind for finding in found)}" for kind in ("warning", "hint"))
    echo(f"images: {health.images}, {counts} ({checked.seconds:.1f} s)")
