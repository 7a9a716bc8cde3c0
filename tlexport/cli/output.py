"""What users see: results on stdout; progress, notes and warnings on stderr. Rich is imported only when something is shown."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tlexport.ports import Progress, Task


def print_json(value: object) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, plain text when stdout is not a terminal. Columns after the first are right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100)
    table = Table(title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a class called [red] is a name, not a colour
    console.print(table)


class TerminalProgress:
    """Bars, lines and notes on stderr; bars only where stderr is a terminal."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """A bar with what is beside it, the time left, and, when verbose, a line with the time it took."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        started = time.perf_counter()
        console = Console(stderr=True)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(10),  # what an epoch says fits beside it on 80 columns
            TextColumn("{task.percentage:>3.0f} % {task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as bars:
            identity = bars.add_task(title, total=total, text="")

            def move(advance: int, text: str = "") -> None:
                if text.endswith("\n"):  # on a terminal, rich puts it above the bar
                    click.echo(text, nl=False, err=True)
                    bars.advance(identity, advance)
                elif text:
                    bars.update(identity, advance=advance, text=text)
                else:
                    bars.advance(identity, advance)

            yield move
        if self.verbose:
            click.echo(f"{title}: {time.perf_counter() - started:.2f} s", err=True)

    def note(self, text: str) -> None:
        """A line on stderr."""
        click.echo(f"note: {text}", err=True)


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
