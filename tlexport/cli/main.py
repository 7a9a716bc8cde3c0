"""The ``tlx`` command: finds its commands in this folder, and converts errors to messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from tlexport.cli import options, streams
from tlexport.cli.output import echo
from tlexport.errors import INTERRUPTED, MissingDependency, StepFailed, TlxError
from tlexport.storage.machine_errors import as_error, expect_usable, root_cause
from tlexport.version import __version__

SHARED = ("__init__", "main", "options", "output", "streams", "bench_table")


def command_names() -> tuple[str, ...]:
    """Names of the commands: the files of this folder that define ``command``."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED))


class Commands(options.Group):
    """A group whose commands are the files of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, sorted."""
        return list(command_names())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the file of one command."""
        if name not in command_names():
            return None
        command: click.Command = importlib.import_module(f"tlexport.cli.{name}").command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tlx")
def tlx() -> None:
    """Fine-tune a pretrained image classifier on a small image set, then quantize, verify and export it for an edge device.

    Exit codes: 0 success, 1 failed step, 2 wrong usage or invalid file, 3 missing dependency, 4 not supported on this
    target, 5 verification failed, 6 over budget, 130 interrupted.
    """


def main() -> None:
    """Entry point of the ``tlx`` script."""
    try:
        streams.open_streams()
    except TlxError as error:
        sys.exit(_complain(error))
    code = run(sys.argv[1:])
    if (unwritten := streams.flush_stdout()) is not None:
        code = code or _unwritten(unwritten)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code.

    Errors of this package, of usage and of the machine are printed as messages. Bugs keep their traceback.
    """
    try:
        return _run(arguments)
    except MissingDependency as error:
        return _complain(root_cause(error))
    except TlxError as error:
        return _complain(error)
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        where = f" {error.ctx.command_path}" if isinstance(error, click.UsageError) and error.ctx else " tlx"
        return _complain(TlxError(error.format_message(), f"see:{where} --help"), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError as error:
        if not streams.reader_is_gone():
            raise
        return _unwritten(error)
    except BaseException as error:
        if isinstance(error, OSError) and (unwritten := streams.flush_stdout()) is not None:
            return _unwritten(unwritten)
        if (found := as_error(error)) is not None:
            return _complain(found)
        raise


def _run(arguments: list[str]) -> int:
    """Replace click's own main, which treats EOFError as Ctrl-C and any broken pipe as one of standard output."""
    if asked := os.environ.get("_TLX_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(tlx, {}, "tlx", "_TLX_COMPLETE", asked)
    expect_usable(arguments)
    try:
        with tlx.make_context("tlx", list(arguments)) as context:
            code = tlx.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _unwritten(error: OSError) -> int:
    """Report that standard output could not be written. No message if its reader has ended, as in ``tlx ... | head -1``."""
    if isinstance(error, BrokenPipeError):
        streams.flush_stdout()
        return 1
    return _complain(StepFailed(f"cannot write to standard output: {error.strerror}", "write to another disk, or free some space"))


def _complain(error: TlxError, code: int | None = None) -> int:
    echo(error.message, err=True, label=("error: ", "red"))
    if error.hint:
        echo(error.hint, err=True, label=("hint: ", "cyan"))
    return error.exit_code if code is None else code
