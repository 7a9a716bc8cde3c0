"""``tlx verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json, progress
from tlexport.errors import VerificationFailed

if TYPE_CHECKING:
    from tlexport.device.golden import Check
    from tlexport.remote.ssh import Host


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
    checks = _verify(bundle, key, device, threads, host)
    from tlexport.device.golden import remedy, verdict

    failed = [check for check in checks if not check.ok]
    if as_json:
        where = {"host": host.name} if host else {}
        found = {"bundle": str(bundle), "ok": not failed, "verdict": verdict(checks), "checks": [check.to_json() for check in checks]}
        print_json(found | where)
    else:
        for check in checks:
            echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}{': ' if check.detail else ''}{check.detail}")
    if failed:
        first = f"{failed[0].name}: {failed[0].detail}"
        raise VerificationFailed(f"{len(failed)} of {len(checks)} checks failed ({verdict(checks)}), first: {first}", remedy(checks))


def _verify(bundle: Path, key: Path | None, device: str, threads: int | None, host: Host | None) -> list[Check]:
    from tlexport.api.verify import check_key, verify

    reporter = progress(verbose=False, quiet=False)
    if host is None:
        return verify(bundle, device=device, threads=threads, key=key, progress=reporter)
    from tlexport.api.remote import verify_there

    signed = [check_key(bundle, key)] if key else []  # checked here: the key does not leave this machine
    if signed and not signed[0].ok:
        return signed
    return signed + verify_there(bundle, host, device=device, threads=threads, progress=reporter)
