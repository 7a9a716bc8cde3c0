"""Where the functions report their progress: bars in a Jupyter notebook, else on the terminal."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlexport.errors import UsageError
from tlexport.progress import TerminalProgress, message, visible

if TYPE_CHECKING:
    from tlexport.ports import Progress, Task

INTERVAL = 0.1  # seconds between two updates of a bar: each is a message to the browser


def reporter(verbose: bool, quiet: bool) -> Progress:
    """The progress that ``verbose`` and ``quiet`` select; see the options -v and -q of the commands.

    Raises:
        UsageError: both are set.
    """
    from tlexport.ports import Silent

    if verbose and quiet:
        raise UsageError("verbose=True and quiet=True exclude each other", "leave one out")
    if quiet:
        return Silent()
    return NotebookProgress(verbose) if in_notebook() else TerminalProgress(verbose)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is imported already in a kernel."""
    if (found := sys.modules.get("IPython")) is None:
        return False
    shell = found.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class NotebookProgress:
    """A bar in the cell's output while a step runs; lines and notes on stderr."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """A bar with the text beside it. It is removed at the end; when verbose, a line with the time it took remains."""
        from IPython.display import display

        started = shown = time.perf_counter()
        done, beside = 0, ""
        handle = display(_bar(title, 0, total, ""), raw=True, display_id=True)

        def move(advance: int, text: str = "") -> None:
            nonlocal done, beside, shown
            done += advance
            if text.endswith("\n"):
                message(text, end="")
            elif text:
                beside = text
            if (now := time.perf_counter()) - shown >= INTERVAL:
                handle.update(_bar(title, done, total, beside), raw=True)
                shown = now

        try:
            yield move
        finally:
            handle.update({"text/plain": "", "text/html": ""}, raw=True)
        if self.verbose:
            message(f"{title}: {time.perf_counter() - started:.2f} s")

    def note(self, text: str) -> None:
        """A line on stderr."""
        message(f"note: {text}")


def _bar(title: str, done: int, total: int, beside: str) -> dict[str, str]:
    """A MIME bundle: the bar in HTML, and one line of text for front ends without HTML."""
    share = min(1.0, done / total) if total else 1.0
    line = visible(f"{title} {100 * share:.0f} % {beside}".rstrip(), lines=False)
    name, text = line[: len(visible(title, lines=False))], line[len(visible(title, lines=False)) :]
    bar = f'<progress value="{share:.3f}" max="1"></progress>'
    return {"text/plain": line, "text/html": f"<div>{html.escape(name)} {bar}{html.escape(text)}</div>"}
