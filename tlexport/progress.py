"""Progress bars and messages on stderr, with control characters escaped. Rich is imported only when a bar is shown."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlexport.ports import Task

# C0; DEL and C1; marks of the writing direction and line separators; surrogates, which cannot be encoded
_RANGES = ((0, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x2069), (0xD800, 0xDFFF))
CONTROLS = [character for first, last in _RANGES for character in range(first, last + 1)]
_NAMES = {character: f"\\x{character:02x}" if character < 0x100 else f"\\u{character:04x}" for character in CONTROLS}
_LINES = {character: name for character, name in _NAMES.items() if character not in (ord("\n"), ord("\t"))}
LONGEST = 10_000  # characters of a message
LONGEST_WORD = 400


def visible(text: str, lines: bool = True) -> str:
    """Escape control characters, as in ``\\x1b``, so that text cannot control the terminal.

    Args:
        text: of any origin, such as a class name.
        lines: keep line breaks and tabs.
    """
    return text.translate(_LINES if lines else _NAMES)


def shortened(text: str) -> str:
    """Shorten very long words and messages."""
    text = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:100]}[{len(word[0]) - 200:,} characters]{word[0][-100:]}", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST:,} more characters)"


def message(text: str, end: str = "\n") -> None:
    """Print a message to stderr with control characters escaped. It is dropped if stderr cannot be written."""
    with suppress(OSError):
        print(visible(shortened(text)), end=end, file=sys.stderr, flush=True)


class TerminalProgress:
    """Bars, lines and notes on stderr. Bars are shown only if stderr is a terminal."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """A bar with a text and the remaining time; if verbose, also a line with the total time."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        started = time.perf_counter()
        console = Console(stderr=True)
        with Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(10),  # leaves room for the text of an epoch on 80 columns
            TextColumn("{task.percentage:>3.0f} % {task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as bars:
            identity = bars.add_task(visible(title, lines=False), total=total, text="")

            def move(advance: int, text: str = "") -> None:
                if text.endswith("\n"):  # on a terminal, rich prints it above the bar
                    message(text, end="")
                    bars.advance(identity, advance)
                elif text:
                    bars.update(identity, advance=advance, text=visible(text, lines=False))
                else:
                    bars.advance(identity, advance)

            yield move
        if self.verbose:
            message(f"{title}: {time.perf_counter() - started:.2f} s")

    def note(self, text: str) -> None:
        """Print a note to stderr."""
        message(f"note: {text}")
