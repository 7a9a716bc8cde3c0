"""Run `tlx` as users do, for the tests of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from tlexport.cli.main import run, tlx

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 1200  # seconds, after which something hangs; even `tlx demo` on a machine that is busy with other things takes less
# what the script `tlx` does, with the modules that this test runs with, and nothing from the working directory
PROGRAM = [sys.executable, "-P", "-c", "from tlexport.cli.main import main; main()"]

# the same, with less time to search for the blocks of INT8 that are faster in float, which takes most of an export on a quiet machine
HASTY = [sys.executable, "-P", "-c", "from tlexport.optimize import latency_search as search; search.SECONDS = 1.0; " + PROGRAM[-1]]


def environment(**changes: str) -> dict[str, str]:
    """For a subprocess that stands elsewhere. No entry of the search path is empty: Python cannot resolve one in a folder that is gone."""
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *inherited])} | changes


def start(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[Any]:
    """`tlx` in a separate process, with the streams in `options`."""
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], cwd=cwd, env=environment(), **options)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def process(*arguments: str | Path, cwd: Path, program: list[str] = PROGRAM, env: Mapping[str, str] | None = None) -> Ended:
    """`tlx` in a process of its own, with pipes for its streams."""
    command = [*program, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(**(env or {})), capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    return Ended(done.returncode, done.stdout, done.stderr)


def here(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """`tlx` in this process, which saves the seconds that importing torch takes."""
    capfd.readouterr()
    code = run([str(argument) for argument in arguments])
    return Ended(code, *capfd.readouterr())


def commands() -> dict[str, click.Command]:
    """Every command under what is typed after `tlx`, found as the program itself finds them: "finetune", "profiles list", ..."""
    return _below(tlx, "")


def _below(group: click.Group, prefix: str) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{prefix}{name} is listed, but is not there"
        found[prefix + name] = command
        if isinstance(command, click.Group):
            found |= _below(command, f"{prefix}{name} ")
    return found


def tree(*folders: Path) -> dict[str, tuple[int, int] | str]:
    """Everything in some folders: size and time of change of each file, where each link points, and the folders."""
    state: dict[str, tuple[int, int] | str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                state[str(path)] = f"-> {path.readlink()}"
            elif path.is_dir():
                state[str(path)] = "folder"
            else:
                state[str(path)] = (path.stat().st_size, path.stat().st_mtime_ns)
    return state
