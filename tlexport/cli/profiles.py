"""``tlx profiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlexport.cli import options
from tlexport.cli.output import print_json, print_table

MOST_MODES = 4  # power modes that a row of the list names


@click.group(
    name="profiles",
    cls=options.Group,
    invoke_without_command=True,
    epilog=options.examples("tlx profiles list", "tlx profiles show jetson-orin-nano:15w"),
)
@options.as_json
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """The hardware profiles: list (done if nothing else is said), show, check, new, schema."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json belongs at the end here: tlx profiles {ctx.invoked_subcommand} ... --json")


@command.command(name="list", epilog=options.examples("tlx profiles list", "tlx profiles list --json"))
@options.as_json
def list_command(as_json: bool) -> None:
    """All profiles that are found, with their budgets and power modes.

    A power mode is chosen as --target PROFILE:MODE.
    """
    from tlexport.target import profile_names, resolve

    targets = [resolve(name) for name in profile_names()]
    if as_json:
        keys = ("name", "title", "runtime", "file", "here", "modes")
        values = ((t.profile.name, t.profile.title, t.profile.runtime, str(t.path), t.here, list(t.file.modes())) for t in targets)
        print_json([dict(zip(keys, row, strict=True)) for row in values])
        return
    rows = []
    for target in targets:
        profile, budget = target.profile, target.profile.budget
        name = profile.name + (" (this machine)" if target.here else "")
        limits = (limit or "-" for limit in (budget.size, budget.latency_p95, budget.memory))
        rows.append((name, profile.runtime, " ".join(profile.precisions.value), *limits, _compact(list(target.file.modes()))))
    print_table("", ("profile", "runtime", "precisions", "size", "p95", "memory", "power modes"), rows)


def _compact(modes: list[str]) -> str:
    """``"maxn 50w 30w 15w"``, ``"maxn 10w 15w +5"``, or a dash."""
    shown = modes if len(modes) <= MOST_MODES else [*modes[: MOST_MODES - 1], f"+{len(modes) - MOST_MODES + 1}"]
    return " ".join(shown) or "-"


@command.command(
    name="show",
    epilog=options.examples(
        "tlx profiles show jetson-orin-nano", "tlx profiles show jetson-orin-nano:15w", "tlx profiles show cpu-x86 --json"
    ),
)
@click.argument("name")
@options.as_json
def show_command(name: str, as_json: bool) -> None:
    """Every figure of a profile, with its status and source.

    NAME:MODE shows it in one of its power modes.
    """
    from tlexport.target import resolve

    target = resolve(name)
    if target.note:
        click.echo(f"note: {target.note}", err=True)
    data = target.profile.model_dump(exclude_none=True)
    if as_json:
        print_json(data)
        return
    click.echo(f"{target.profile.title}\n{target.path}")
    for file in target.file.chain()[1:]:
        click.echo(f"extends {file.path}")
    _show(data, "")
    for mode, title in target.file.modes().items():
        click.echo(f"power mode {target.profile.name}:{mode} = {title}")


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
    """Name every mistake in a profile's file, with its line.

    What the file extends is read too, and the profile is checked in each of its power modes.
    """
    from tlexport.target import load_file

    found = load_file(str(file) if file.suffix == ".toml" else f"{file}.toml")
    profile, *modes = found.check()
    if as_json:
        print_json({"file": str(file), "ok": True, "name": profile.name, "modes": [str(mode.mode) for mode in modes]})
    else:
        also = f", in {len(modes)} power modes" if modes else ""
        click.echo(f"{file} is a valid profile{also}: {profile.title}")


@command.command(
    name="new",
    epilog=options.examples(
        "tlx profiles new line-3 --from jetson-orin-nano", "tlx profiles new kiosk --from intel-n100 -o kiosk-profiles --json"
    ),
)
@click.argument("name")
@click.option("--from", "parent", required=True, metavar="PROFILE", help="The profile that is nearest: NAME or NAME:MODE.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("profiles"), show_default=True, help="The folder to write into.")
@options.as_json
def new_command(name: str, parent: str, out: Path, as_json: bool) -> None:
    """Write a new profile, NAME.toml, to be edited.

    It is a short file that extends another profile, with all that can be overridden in comments. Nothing is overwritten. The folder ./profiles is one where profiles are looked for; others are named in $TLX_PROFILES.
    """
    from tlexport.api.profiles import new_profile

    path = new_profile(name, parent, out)
    if as_json:
        print_json({"file": str(path), "name": name})
        return
    click.echo(f"edit it, then: tlx profiles check {path}", err=True)
    click.echo(str(path))


@command.command(
    name="schema", epilog=options.examples("tlx profiles schema", "tlx profiles schema -o profiles/profile.schema.json --json")
)
@options.out
@options.as_json
def schema_command(out: Path | None, as_json: bool) -> None:
    """Print the JSON Schema of a profile's file, for editors; or write it with --out."""
    from tlexport.api.profiles import write_schema
    from tlexport.profile_schema import json_schema

    if out is None:
        print_json(json_schema())
        return
    write_schema(out)
    if as_json:
        print_json({"file": str(out)})
    else:
        click.echo(str(out))
