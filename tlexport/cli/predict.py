"""``tlx predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import percent, print_json, print_table, progress
from tlexport.errors import InvalidFile

if TYPE_CHECKING:
    from tlexport.remote.ssh import Host


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
def command(
    what: Path,
    images: tuple[Path, ...],
    runtime: str,
    precision: Any,
    device: str,
    threads: int | None,
    host: Host | None,
    as_json: bool,
) -> None:
    """Class and probability of each of IMAGES, by WHAT: a checkpoint, a bundle, or a bundle's .onnx file.

    IMAGES are files or folders. An image that cannot be read does not stop the rest: it is reported, and the exit code is 2.
    """
    unreadable: list[tuple[str, str]] = []
    if host:
        from tlexport.api.remote import predict_there

        reporter = progress(verbose=False, quiet=False)
        predictions = predict_there(
            what, images, host, runtime=runtime, precision=precision, device=device, threads=threads, progress=reporter
        )
    else:
        from tlexport.api.predict import predict

        predictions = predict(what, images, runtime=runtime, precision=precision, device=device, threads=threads, unreadable=unreadable)
    if as_json and predictions:
        where = {"host": host.name} if host else {}
        print_json([prediction.to_json() | where for prediction in predictions])
    elif predictions:
        print_table("", ("image", "class", "probability"), [(str(p.path), p.name, percent(p.probability)) for p in predictions])
    if unreadable:
        listed = "\n".join(f"  {path}: {reason}" for path, reason in unreadable)
        raise InvalidFile(f"images that cannot be read: {len(unreadable)}\n{listed}", "leave them out, or save them as JPEG or PNG")
