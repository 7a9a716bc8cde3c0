"""What users see: results on stdout; progress, notes and warnings on stderr. Rich is imported only when something is shown."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from tlexport.errors import StepFailed

if TYPE_CHECKING:
    from tlexport.ports import Progress, Task


# C0; DEL and C1; marks of the direction of writing and line separators; surrogates, which no encoding has
_RANGES = ((0, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069), (0xD800, 0xDFFF))
CONTROLS = [character for first, last in _RANGES for character in range(first, last + 1)]
_NAMES = {character: f"\\x{character:02x}" if character < 0x100 else f"\\u{character:04x}" for character in CONTROLS}
_LINES = {character: name for character, name in _NAMES.items() if character not in (ord("\n"), ord("\t"))}
_IN_JSON = {character: f"\\u{character:04x}" for character in CONTROLS if character >= 0x20}
LONGEST = 10_000  # characters of a message
LONGEST_WORD = 400


def visible(text: str, lines: bool = True) -> str:
    """A text that cannot steer the terminal: control characters as ``\\x1b``.

    Args:
        text: of any origin, such as a class name.
        lines: keep line breaks and tabs.
    """
    return text.translate(_LINES if lines else _NAMES)


def echo(text: str = "", err: bool = False, nl: bool = True, label: tuple[str, str] | None = None) -> None:
    """A text on stdout, or a message on stderr, made visible; a label, such as ``("error: ", "red")``, before it in its colour.

    A message that stderr does not take is dropped: the work goes on, and the exit code says how it ended.

    Raises:
        StepFailed: stdout does not take it.
        BrokenPipeError: nobody reads stdout any more.
    """
    shown = (click.style(label[0], fg=label[1]) if label else "") + visible(_shortened(text) if err else text)
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


def _shortened(text: str) -> str:
    """A message without what only fills the screen: names of thousands of characters."""
    text = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:100]}[{len(word[0]) - 200:,} characters]{word[0][-100:]}", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST:,} more characters)"


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
            TextColumn("{task.description}", markup=False),
            BarColumn(10),  # what an epoch says fits beside it on 80 columns
            TextColumn("{task.percentage:>3.0f} % {task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as bars:
            identity = bars.add_task(visible(title, lines=False), total=total, text="")

            def move(advance: int, text: str = "") -> None:
                if text.endswith("\n"):  # on a terminal, rich puts it above the bar
                    echo(text, nl=False, err=True)
                    bars.advance(identity, advance)
                elif text:
                    bars.update(identity, advance=advance, text=visible(text, lines=False))
                else:
                    bars.advance(identity, advance)

            yield move
        if self.verbose:
            echo(f"{title}: {time.perf_counter() - started:.2f} s", err=True)

    def note(self, text: str) -> None:
        """A line on stderr."""
        echo(f"note: {text}", err=True)


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
