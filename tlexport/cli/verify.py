"""``tlx verify``."""

from __future__ import annotations

from pathlib import Path

import click

from tlexport.cli import options
from tlexport.cli.output import print_json
from tlexport.errors import VerificationFailed


@click.command(epilog=options.examples("tlx verify tlx-demo/bundle", "tlx verify tlx-demo/bundle --threads 1 --json"))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Public key (PEM, Ed25519) of whoever must have signed the bundle.")
@options.device
@options.threads
@options.as_json
def command(bundle: Path, key: Path | None, device: str, threads: int | None, as_json: bool) -> None:
    """Check the hashes of BUNDLE, a directory or a .zip or .tar.gz, then replay its golden vectors through the runtime that is here."""
    from tlexport.api.verify import verify

    checks = verify(bundle, device=device, threads=threads, key=key)
    failed = [check for check in checks if not check.ok]
    if as_json:
        print_json({"bundle": str(bundle), "ok": not failed, "checks": [check.to_json() for check in checks]})
    else:
        for check in checks:
            click.echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}{': ' if check.detail else ''}{check.detail}")
    if failed:
        first = f"{failed[0].name}: {failed[0].detail}"
        raise VerificationFailed(f"{len(failed)} of {len(checks)} checks failed, first: {first}", "copy or export the bundle again")
