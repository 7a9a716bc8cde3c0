"""Output: results on stdout; progress, notes and warnings on stderr. Rich is imported only when it is used."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from tlexport.errors import StepFailed
from tlexport.progress import CONTROLS, TerminalProgress, shortened, visible

if TYPE_CHECKING:
    from tlexport.ports import Progress

_IN_JSON = {character: f"\\u{character:04x}" for character in CONTROLS if character >= 0x20}


def echo(text: str = "", err: bool = False, nl: bool = True, label: tuple[str, str] | None = None) -> None:
    """Print text to stdout, or a message to stderr, with control characters escaped.

    A message that cannot be written to stderr is dropped: the command continues, and its exit code reports the result.

    Args:
        text: of any origin.
        err: print to stderr.
        nl: end with a newline.
        label: printed before the text, with its colour, such as ``("error: ", "red")``.

    Raises:
        StepFailed: stdout cannot be written.
        BrokenPipeError: the reader of stdout has ended.
    """
    shown = (click.style(label[0], fg=label[1]) if label else "") + visible(shortened(text) if err else text)
    with suppress(OSError) if err else writing():
        click.echo(shown, file=sys.stderr if err else sys.stdout, nl=nl)  # the explicit stream keeps click from changing its encoding


@contextmanager
def writing() -> Iterator[None]:
    """Raise StepFailed if standard output cannot be written, for example on a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StepFailed(f"cannot write to standard output: {error.strerror}", "redirect it to another disk, or free some space") from error


def echo_path(path: object) -> None:
    """Print a path to stdout: unchanged for programs, with control characters escaped on a terminal."""
    with writing():
        click.echo(visible(str(path)) if sys.stdout.isatty() else str(path), file=sys.stdout)


def print_json(value: object) -> None:
    """Print one JSON value to stdout. Control characters are escaped."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    with writing():
        click.echo(json.dumps(value, indent=1, ensure_ascii=not is_utf8).translate(_IN_JSON), file=sys.stdout)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout: plain text if stdout is not a terminal. Columns after the first are right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100)
    table = Table(title=Text(visible(title)) if title else None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(visible(column, lines=False)), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell, lines=False)) for cell in row))  # Text: a class called [red] is a name, not a colour
    with writing():
        console.print(table)
        sys.stdout.flush()


def progress(verbose: bool, quiet: bool) -> Progress:
    """The progress reporter for -v and -q."""
    from tlexport.ports import Silent

    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other")
    return Silent() if quiet else TerminalProgress(verbose)
