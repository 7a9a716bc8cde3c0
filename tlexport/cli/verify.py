"""``tlx verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, progress

if TYPE_CHECKING:
    from tlexport.remote.host import Host


@click.command(epilog=options.examples("tlx verify tlx-demo/bundle", "tlx verify tlx-demo/bundle --threads 1 --json"))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Require a valid signature by this public key (PEM, Ed25519).")
@options.device
@options.threads
@options.host
@options.as_json
def command(bundle: Path, key: Path | None, device: str, threads: int | None, host: Host | None, as_json: bool) -> None:
    """Check the hashes of BUNDLE (a directory, .zip or .tar.gz), then replay its golden vectors with the local runtime.

    With --host, the bundle's own runner does this on a board.
    """
    from tlexport.api.remote import verify_on

    verified = verify_on(host, bundle, device=device, threads=threads, key=key, progress=progress(verbose=False, quiet=False))
    if as_json:
        print_json(verified.to_json())
    else:
        for check in verified.checks:
            echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}{': ' if check.detail else ''}{check.detail}")
    verified.expect_ok()
