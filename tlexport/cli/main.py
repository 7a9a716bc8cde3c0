"""The ``tlx`` command: finds its commands in this folder, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from tlexport import __version__
from tlexport.cli import options
from tlexport.errors import INTERRUPTED, TlxError

SHARED = ("__init__", "main", "options", "output", "bench_table")


def command_names() -> tuple[str, ...]:
    """A command is a file here that holds ``command``."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED))


class Commands(options.Group):
    """A group whose commands are the files of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted."""
        return list(command_names())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command's file."""
        if name not in command_names():
            return None
        command: click.Command = importlib.import_module(f"tlexport.cli.{name}").command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tlx")
def tlx() -> None:
    """Fine-tune a pretrained image classifier on a small image set, and export it, quantized and proven, to an edge device.

    Exit codes: 0 done, 1 failed step, 2 wrong usage or invalid file, 3 missing dependency, 4 not supported on this
    target, 5 verification failed, 6 over budget, 130 interrupted.
    """


def main() -> None:
    """Entry point of the ``tlx`` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code. Errors of ours and of usage are printed; bugs keep their traceback."""
    try:
        code = tlx.main(arguments, prog_name="tlx", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except TlxError as error:
        _complain(error.message, error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        where = f" {error.ctx.command_path}" if isinstance(error, click.UsageError) and error.ctx else " tlx"
        _complain(error.format_message(), f"see:{where} --help")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED


def _complain(message: str, hint: str) -> None:
    click.echo(click.style("error: ", fg="red") + message, err=True)
    if hint:
        click.echo(click.style("hint: ", fg="cyan") + hint, err=True)
