"""``tlx profiles``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, echo_path, print_json, print_table, progress
from tlexport.units import format_percent

if TYPE_CHECKING:
    from tlexport.ports import Progress

MOST_MODES = 4  # power modes shown in a row of the list


@click.group(
    name="profiles",
    cls=options.Group,
    invoke_without_command=True,
    epilog=options.examples("tlx profiles list", "tlx profiles show jetson-orin-nano:15w"),
)
@options.as_json
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Hardware profiles: list (the default), show, check, new, calibrate, schema."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json must come last: tlx profiles {ctx.invoked_subcommand} ... --json")


@command.command(name="list", epilog=options.examples("tlx profiles list", "tlx profiles list --json"))
@options.as_json
def list_command(as_json: bool) -> None:
    """List all profiles with their budgets and power modes.

    Select a power mode with --target PROFILE:MODE.
    """
    from tlexport.hardware.target import profile_names, resolve

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
    """Show every figure of a profile, with its status and source.

    NAME:MODE shows the profile in one of its power modes.
    """
    from tlexport.hardware.target import resolve

    target = resolve(name)
    if target.note:
        echo(f"note: {target.note}", err=True)
    data = target.profile.model_dump(exclude_none=True)
    if as_json:
        print_json(data)
        return
    echo(f"{target.profile.title}\n{target.path}")
    for file in target.file.chain()[1:]:
        echo(f"extends {file.path}")
    _show(data, "")
    for mode, title in target.file.modes().items():
        echo(f"power mode {target.profile.name}:{mode} = {title}")


def _show(data: dict[str, Any], prefix: str) -> None:
    for key, value in data.items():
        if isinstance(value, dict) and {"value", "source", "status"} <= set(value):
            shown = " ".join(map(str, value["value"])) if isinstance(value["value"], list | tuple) else value["value"]
            echo(f"{prefix}{key} = {shown}  [{value['status']}: {value['source']}]")
        elif isinstance(value, dict):
            _show(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for place, table in enumerate(value, 1):
                _show(table, f"{prefix}{key} {place}: ")
        elif key not in ("format", "title"):
            echo(f"{prefix}{key} = {value}")


@command.command(
    name="check", epilog=options.examples("tlx profiles check profiles/cpu-x86.toml", "tlx profiles check my-board.toml --json")
)
@click.argument("file", type=click.Path(path_type=Path))
@options.as_json
def check_command(file: Path, as_json: bool) -> None:
    """Report every error in a profile's file, with its line.

    The files that it extends are read too, and the profile is checked in each of its power modes.
    """
    from tlexport.hardware.target import load_file

    found = load_file(str(file) if file.suffix == ".toml" else f"{file}.toml")
    profile, *modes = found.check()
    if as_json:
        print_json({"file": str(file), "ok": True, "name": profile.name, "modes": [str(mode.mode) for mode in modes]})
    else:
        also = f", in {len(modes)} power modes" if modes else ""
        echo(f"{file} is a valid profile{also}: {profile.title}")


@command.command(
    name="new",
    epilog=options.examples(
        "tlx profiles new line-3 --from jetson-orin-nano", "tlx profiles new kiosk --from intel-n100 -o kiosk-profiles --json"
    ),
)
@click.argument("name")
@click.option("--from", "parent", required=True, metavar="PROFILE", help="The most similar profile: NAME or NAME:MODE.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("profiles"), show_default=True, help="The folder to write into.")
@options.as_json
def new_command(name: str, parent: str, out: Path, as_json: bool) -> None:
    """Write a new profile, NAME.toml, for you to edit.

    The file extends another profile and lists all keys that it can override as comments. Existing files are not overwritten.
    Profiles are searched in ./profiles and in the folders named in $TLX_PROFILES.
    """
    from tlexport.api.profiles import new_profile

    path = new_profile(name, parent, out)
    if as_json:
        print_json({"file": str(path), "name": name})
        return
    echo(f"edit it, then: tlx profiles check {path}", err=True)
    echo_path(path)


@command.command(
    name="schema", epilog=options.examples("tlx profiles schema", "tlx profiles schema -o profiles/profile.schema.json --json")
)
@options.out
@options.as_json
def schema_command(out: Path | None, as_json: bool) -> None:
    """Print the JSON Schema of profile files, for editors, or write it to --out."""
    from tlexport.api.profiles import write_schema
    from tlexport.hardware.schema import json_schema

    if out is None:
        print_json(json_schema())
        return
    write_schema(out)
    if as_json:
        print_json({"file": str(out)})
    else:
        echo_path(out)


@dataclass(frozen=True)
class CalibrateOptions:
    """The options of ``tlx profiles calibrate``."""

    words: tuple[str, ...]
    base: str | None
    precisions: tuple[Any, ...]
    threads: tuple[int, ...]
    seconds: float | None
    runs: tuple[Path, ...]
    what: Path | None
    out: Path | None
    as_json: bool
    verbose: bool
    quiet: bool


@command.command(
    name="calibrate",
    epilog=options.examples(
        "tlx profiles calibrate",
        "tlx profiles calibrate my-pc --precision fp32 --threads 1 --seconds 60 --json",
        "tlx profiles calibrate raspberry-pi-5 --from on-the-pi.json --what build/flowers-raspberry-pi-5",
    ),
)
@click.argument("words", nargs=-1, metavar="[NAME]")
@click.option("--base", metavar="PROFILE", help="Profile that a new NAME extends. Default: this machine's shipped profile.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["fp32", "int8"]), help="Only this precision. May be repeated.")
@click.option(
    "--threads", multiple=True, type=click.IntRange(1, 1024), help="CPU threads. May be repeated. Default: 1, and one for each core."
)
@click.option("--seconds", type=options.Number(1, 300), help="Time for each precision. Default and maximum: 300. Shorter is less accurate.")
@click.option(
    "--from", "runs", multiple=True, type=click.Path(path_type=Path), help="Output of tlx bench --json on the device. May be repeated."
)
@click.option(
    "--what",
    type=click.Path(path_type=Path),
    help="With --from: the measured bundle or .onnx file. Default: its path on the device.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of NAME.toml. Default: its current folder, else ./profiles.")
@options.as_json
@options.verbosity
@options.collected(CalibrateOptions)
def calibrate_command(given: CalibrateOptions) -> None:
    """Measure this machine for tlx estimate; or, with --from, correct a profile with measurements from a device.

    The layers of small random networks are timed. The resulting device model is written beside the profile NAME, which is created if
    it does not exist. Without NAME, the shipped profile of this machine is used, and a file of your own replaces it. Run nothing else
    on the machine meanwhile.

    With --from nothing is timed: the given measurements are compared with their estimates, and the profile is corrected. Without
    NAME, the bundle's own profile is corrected.
    """
    reporter = progress(given.verbose, given.quiet)
    more = [word for word in given.words if given.runs and word.endswith(".json")]  # from a shell's expansion of --from *.json
    names = [word for word in given.words if word not in more]
    if len(names) > 1:
        raise click.UsageError(f"one NAME was expected, {len(names)} were given: {', '.join(names)}")
    name = names[0] if names else None
    path, result = _correct(given, name, more) if given.runs else _calibrate(given, name, reporter)
    if given.as_json:
        print_json({"profile": str(path), "name": path.stem, result.key: result.records})
        return
    print_table("", result.columns, result.rows)
    echo_path(path)


@dataclass(frozen=True)
class _Tables:
    """The tables that were written to a profile: as JSON, and as rows to print."""

    key: str
    records: list[dict[str, Any]]
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _correct(given: CalibrateOptions, name: str | None, more: Sequence[str]) -> tuple[Path, _Tables]:
    """Correct a profile with the measurements of --from."""
    timing = {"--base": given.base, "--precision": given.precisions, "--threads": given.threads, "--seconds": given.seconds}
    if needless := next((option for option, value in timing.items() if value), None):
        raise click.UsageError(f"{needless} applies to timing, and --from times nothing")
    from tlexport.api.correct_profile import sharpen_profile

    path, tables = sharpen_profile(name, [*given.runs, *map(Path, more)], given.what, given.out)
    columns = ("precision", "threads", "models", "measured / estimated")
    rows = [(t.precision, str(t.threads), str(t.n), f"{t.factor:.3f}") for t in tables]
    return path, _Tables("sharpened", [table.model_dump(mode="json") for table in tables], columns, rows)


def _calibrate(given: CalibrateOptions, name: str | None, reporter: Progress) -> tuple[Path, _Tables]:
    """Time this machine."""
    if given.what:
        raise click.UsageError("--what names the model that ran on a device; it needs --from")
    from tlexport.api.calibrate_profile import MOST_SECONDS, Settings, calibrate_profile

    settings = Settings(given.base, given.precisions, given.threads, given.seconds or MOST_SECONDS, given.out)
    path, tables = calibrate_profile(name, settings, reporter)
    columns = ("precision", "threads", "networks", "median error", "within 10 %")
    rows = [(t.precision, str(t.threads), str(t.probes), format_percent(t.error), format_percent(t.within_10)) for t in tables]
    return path, _Tables("calibration", [table.model_dump(mode="json") for table in tables], columns, rows)
