"""``tlx doctor``."""

from __future__ import annotations

import click

from tlexport.cli import options
from tlexport.cli.output import echo, print_json
from tlexport.errors import MissingDependency


@click.command(epilog=options.examples("tlx doctor", "tlx doctor --json"))
@options.as_json
def command(as_json: bool) -> None:
    """Show versions, devices and runtimes, and how to install what is missing."""
    from tlexport.api.doctor import doctor

    findings = doctor()
    if as_json:
        print_json({finding.name: finding.to_json() for finding in findings})
    else:
        for finding in findings:
            mark = "ok     " if finding.ok else "MISSING" if finding.needed else "-      "
            echo(f"{mark} {finding.name}: {finding.detail}")
    missing = [finding.name for finding in findings if finding.needed and not finding.ok]
    if missing:
        raise MissingDependency(f"missing or broken: {', '.join(missing)}", "pip install --force-reinstall tlexport")
