"""``tlx profiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlexport.cli import options
from tlexport.cli.output import print_json, print_table


@click.group(
    name="profiles",
    cls=options.Group,
    invoke_without_command=True,
    epilog=options.examples("tlx profiles list", "tlx profiles show jetson-orin-nano"),
)
@options.as_json
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """The hardware profiles: list (what is done if nothing else is said), show NAME, check FILE."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json belongs at the end here: tlx profiles {ctx.invoked_subcommand} ... --json")


@command.command(name="list", epilog=options.examples("tlx profiles list", "tlx profiles list --json"))
@options.as_json
def list_command(as_json: bool) -> None:
    """All profiles that are found, with their budgets."""
    from tlexport.target import profile_names, resolve

    targets = [resolve(name) for name in profile_names()]
    if as_json:
        print_json([{"name": t.profile.name, "title": t.profile.title, "file": str(t.path), "here": t.here} for t in targets])
        return
    rows = []
    for target in targets:
        profile, budget = target.profile, target.profile.budget
        name = profile.name + (" (this machine)" if target.here else "")
        limits = (limit or "-" for limit in (budget.size, budget.latency_p95, budget.memory))
        rows.append((name, profile.runtime, " ".join(profile.precisions.value), *limits))
    print_table("", ("profile", "runtime", "precisions", "size", "p95 latency", "memory"), rows)


@command.command(name="show", epilog=options.examples("tlx profiles show jetson-orin-nano", "tlx profiles show cpu-x86 --json"))
@click.argument("name")
@options.as_json
def show_command(name: str, as_json: bool) -> None:
    """Every figure of a profile, with its status and source."""
    from tlexport.target import resolve

    target = resolve(name)
    if target.note:
        click.echo(f"note: {target.note}", err=True)
    data = target.profile.model_dump(exclude_none=True)
    if as_json:
        print_json(data)
        return
    click.echo(f"{target.profile.title}\n{target.path}")
    _show(data, "")


def _show(data: dict[str, Any], prefix: str) -> None:
    for key, value in data.items():
        if isinstance(value, dict) and {"value", "source", "status"} <= set(value):
            shown = " ".join(map(str, value["value"])) if isinstance(value["value"], list | tuple) else value["value"]
            click.echo(f"{prefix}{key} = {shown}  [{value['status']}: {value['source']}]")
        elif isinstance(value, dict):
            _show(value, f"{prefix}{key}.")
        elif key not in ("format", "title"):
            click.echo(f"{prefix}{key} = {value}")


@command.command(
    name="check", epilog=options.examples("tlx profiles check profiles/cpu-x86.toml", "tlx profiles check my-board.toml --json")
)
@click.argument("file", type=click.Path(path_type=Path))
@options.as_json
def check_command(file: Path, as_json: bool) -> None:
    """Read a profile's file and name every mistake in it."""
    from tlexport.target import load_profile

    profile = load_profile(str(file) if file.suffix == ".toml" else f"{file}.toml")
    if as_json:
        print_json({"file": str(file), "ok": True, "name": profile.name})
    else:
        click.echo(f"{file} is a valid profile: {profile.title}")
