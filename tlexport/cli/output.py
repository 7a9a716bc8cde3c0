"""What users see: results on stdout; progress, notes and warnings on stderr. Rich is imported only when something is shown."""

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
    """A text on stdout, or a message on stderr, made visible; a label, such as ``("error: ", "red")``, before it in its colour.

    A message that stderr does not take is dropped: the work goes on, and the exit code says how it ended.

    Raises:
        StepFailed: stdout does not take it.
        BrokenPipeError: nobody reads stdout any more.
    """
    shown = (click.style(label[0], fg=label[1]) if label else "") + visible(shortened(text) if err else text)
    with suppress(OSError) if err else writing():
        click.echo(shown, file=sys.stderr if err else sys.stdout, nl=nl)  # click itself would correct the stream's encoding


@contextmanager
def writing() -> Iterator[None]:
    """Name standard output where it cannot be written, as when its disk is full."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StepFailed(f"cannot write to standard output: {error.strerror}", "write it elsewhere, or free some space") from error


def echo_path(path: object) -> None:
    """A path on stdout for a program to read, and so as it is; made visible on a terminal."""
    with writing():
        click.echo(visible(str(path)) if sys.stdout.isatty() else str(path), file=sys.stdout)


def print_json(value: object) -> None:
    """One JSON value on stdout; everything but plain text is escaped."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    with writing():
        click.echo(json.dumps(value, indent=1, ensure_ascii=not is_utf8).translate(_IN_JSON), file=sys.stdout)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, plain text when stdout is not a terminal. Columns after the first are right-aligned."""
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
    """The progress that the options ask for."""
    from tlexport.ports import Silent

    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other")
    return Silent() if quiet else TerminalProgress(verbose)


def percent(fraction: float) -> str:
    """0.9512 -> ``"95.12 %"``."""
    return f"{100 * fraction:.2f} %"


def milliseconds(value: float | None) -> str:
    """0.8312 -> ``"0.831"``; a dash for None."""
    return "-" if value is None else f"{value:.3f}"
