"""``tlx profiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlexport.cli import options
from tlexport.cli.output import echo, echo_path, percent, print_json, print_table, progress

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
    """The hardware profiles: list (done if nothing else is said), show, check, new, calibrate, schema."""
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
    """Every figure of a profile, with its status and source.

    NAME:MODE shows it in one of its power modes.
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
    """Name every mistake in a profile's file, with its line.

    What the file extends is read too, and the profile is checked in each of its power modes.
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
@click.option("--from", "parent", required=True, metavar="PROFILE", help="The profile that is nearest: NAME or NAME:MODE.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("profiles"), show_default=True, help="The folder to write into.")
@options.as_json
def new_command(name: str, parent: str, out: Path, as_json: bool) -> None:
    """Write a new profile, NAME.toml, to be edited.

    It is a short file that extends another profile, with all that can be overridden in comments. Nothing is overwritten. The folder
    ./profiles is one where profiles are looked for; others are named in $TLX_PROFILES.
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
    """Print the JSON Schema of a profile's file, for editors; or write it with --out."""
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


@command.command(
    name="calibrate",
    epilog=options.examples(
        "tlx profiles calibrate",
        "tlx profiles calibrate my-pc --precision fp32 --threads 1 --seconds 60 --json",
        "tlx profiles calibrate raspberry-pi-5 --from on-the-pi.json --what build/flowers-raspberry-pi-5",
    ),
)
@click.argument("words", nargs=-1, metavar="[NAME]")
@click.option("--base", metavar="PROFILE", help="What NAME extends if it is new; default: the shipped profile that fits this machine.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["fp32", "int8"]), help="Only this one; may be repeated.")
@click.option(
    "--threads", multiple=True, type=click.IntRange(1, 1024), help="CPU threads; may be repeated; default: 1, and one for each core."
)
@click.option("--seconds", type=options.Number(1, 300), help="Time for each precision; default, and most: 300. Less is less exact.")
@click.option(
    "--from", "runs", multiple=True, type=click.Path(path_type=Path), help="What tlx bench --json printed on the device; may be repeated."
)
@click.option("--what", type=click.Path(path_type=Path), help="With --from: the bundle or .onnx file that ran; default: its path there.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The folder of NAME.toml; default: where it is, else ./profiles.")
@options.as_json
@options.verbosity
def calibrate_command(
    words: tuple[str, ...],
    base: str | None,
    precisions: tuple[Any, ...],
    threads: tuple[int, ...],
    seconds: float | None,
    runs: tuple[Path, ...],
    what: Path | None,
    out: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Let this machine describe itself, so that tlx estimate knows it; or correct a profile by real runs.

    The layers of small random networks are timed, and a model of them is written beside the profile NAME, which is made if it is not
    there. Without NAME it is the shipped profile that fits this machine, with a file of your own in its place. Nothing else should run
    meanwhile.

    With --from nothing is timed: what was measured on a device, in one or several .json files, is held against what is estimated for it,
    and the profile corrected. Without NAME it is the profile that the bundle was made for.
    """
    reporter = progress(verbose, quiet)
    more = [word for word in words if runs and word.endswith(".json")]  # what a shell makes of --from *.json
    names = [word for word in words if word not in more]
    if len(names) > 1:
        raise click.UsageError(f"one NAME was expected, {len(names)} were given: {', '.join(names)}")
    name = names[0] if names else None
    if runs:
        timing = {"--base": base, "--precision": precisions, "--threads": threads, "--seconds": seconds}
        if needless := next((option for option, value in timing.items() if value), None):
            raise click.UsageError(f"{needless} says what to time, and with --from nothing is timed")
        from tlexport.api.correct_profile import sharpen_profile

        path, corrected = sharpen_profile(name, [*runs, *map(Path, more)], what, out)
        answer = "sharpened", [table.model_dump(mode="json") for table in corrected]
        columns = ["precision", "threads", "models", "measured / estimated"]
        rows = [[t.precision, str(t.threads), str(t.n), f"{t.factor:.3f}"] for t in corrected]
    else:
        if what:
            raise click.UsageError("--what names the model that ran on a device, and belongs to --from")
        from tlexport.api.calibrate_profile import MOST_SECONDS, Settings, calibrate_profile

        path, timed = calibrate_profile(name, Settings(base, precisions, threads, seconds or MOST_SECONDS, out), reporter)
        answer = "calibration", [table.model_dump(mode="json") for table in timed]
        columns = ["precision", "threads", "networks", "median error", "within 10 %"]
        rows = [[t.precision, str(t.threads), str(t.probes), percent(t.error), percent(t.within_10)] for t in timed]
    if as_json:
        print_json({"profile": str(path), "name": path.stem, answer[0]: answer[1]})
        return
    print_table("", columns, rows)
    echo_path(path)
