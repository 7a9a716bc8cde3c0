"""``tlx verify``."""

from __future__ import annotations

from pathlib import Path

import click

from tlexport.cli import options
from tlexport.cli.output import print_json
from tlexport.errors import VerificationFailed


@click.command(epilog=options.examples("tlx verify tlx-demo/bundle", "tlx verify tlx-demo/bundle --threads 1 --json"))
@click.argument("bundle", type=click.Path(path_type=Path))
@options.device
@options.threads
@options.as_json
def command(bundle: Path, device: str, threads: int | None, as_json: bool) -> None:
    """Check the hashes of BUNDLE, then replay its golden vectors through the runtime that is here."""
    from tlexport.api.verify import verify
    from tlexport.device.golden import remedy, verdict

    checks = verify(bundle, device=device, threads=threads)
    failed = [check for check in checks if not check.ok]
    if as_json:
        print_json({"bundle": str(bundle), "ok": not failed, "verdict": verdict(checks), "checks": [check.to_json() for check in checks]})
    else:
        for check in checks:
            click.echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}{': ' if check.detail else ''}{check.detail}")
    if failed:
        first = f"{failed[0].name}: {failed[0].detail}"
        raise VerificationFailed(f"{len(failed)} of {len(checks)} checks failed ({verdict(checks)}), first: {first}", remedy(checks))
