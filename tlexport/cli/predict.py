"""``tlx predict``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import print_json, print_table, progress
from tlexport.units import format_percent

if TYPE_CHECKING:
    from tlexport.remote.host import Host


@dataclass(frozen=True)
class PredictOptions:
    """The options of ``tlx predict``."""

    what: Path
    images: tuple[Path, ...]
    runtime: str
    precision: Any
    device: str
    threads: int | None
    host: Host | None
    as_json: bool


@click.command(
    epilog=options.examples(
        "tlx predict tlx-demo/checkpoint tlx-demo/digits/7/0007.png",
        "tlx predict tlx-demo/bundle tlx-demo/digits/1/*.png --precision int8 --json",
    )
)
@click.argument("what", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.runtime
@options.precision
@options.device
@options.threads
@options.host
@options.as_json
@options.collected(PredictOptions)
def command(given: PredictOptions) -> None:
    """Predict the class and probability of each of IMAGES with WHAT: a checkpoint, a bundle, or the .onnx file of a bundle.

    IMAGES are files or folders. Unreadable images are reported at the end, with exit code 2; the others are still predicted.
    """
    from tlexport.api.remote import predict_on
    from tlexport.loading.model import Execution

    found = predict_on(
        given.host,
        given.what,
        given.images,
        run=Execution(runtime=given.runtime, precision=given.precision, device=given.device, threads=given.threads),
        progress=progress(verbose=False, quiet=False),
    )
    if given.as_json and found.predictions:
        print_json(found.to_json())
    elif found.predictions:
        rows = [(str(p.path), p.name, format_percent(p.probability)) for p in found.predictions]
        print_table("", ("image", "class", "probability"), rows)
    found.expect_all()
