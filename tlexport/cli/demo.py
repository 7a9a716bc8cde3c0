"""``tlx demo``."""

from __future__ import annotations

from pathlib import Path

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, print_table, progress
from tlexport.units import format_bytes, format_percent


@click.command(epilog=options.examples("tlx demo", "tlx demo --out elsewhere --json"))
@click.option("-o", "--out", type=options.place, metavar="PATH", default="tlx-demo", show_default=True, help="Where to write.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the split and of the training.")
@options.threads
@options.as_json
@options.verbosity
def command(out: Path, seed: int, threads: int | None, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Run everything on embedded data and weights: fine-tune, export, bench, verify. Needs no network and no GPU.

    A network pretrained on printed letters is fine-tuned on scikit-learn's 1,797 handwritten digits.
    """
    from tlexport.api.demo import demo

    result = demo(out, seed=seed, threads=threads, progress=progress(verbose, quiet))
    if as_json:
        print_json(result.to_json())
        return
    rows = [
        (
            ("* " if model.chosen else "  ") + model.artifact.precision.upper(),
            format_bytes(model.artifact.size_bytes),
            format_percent(model.top1),
            f"{measured.percentile_ms(50):.3f}",
            f"{measured.percentile_ms(95):.3f}",
        )
        for model, measured in zip(result.exported.manifest.models, result.measurements, strict=True)
    ]
    print_table("", ("model", "size", "top-1", "p50, ms", "p95, ms"), rows)
    n, environment = result.trained.scores.n, result.measurements[0].environment
    echo(f"* chosen. Top-1 of {n} validation images; latency of one image on {environment.cpu}, 1 thread, ONNX Runtime.")
    echo(f"{len(result.checks)} checks of the bundle passed. Total time: {result.seconds:.0f} s.")
    echo(f"next: tlx predict {result.exported.path} {result.out}/digits/7/*.png")
