"""The standard streams of a command: closed, on a full disk, or a pipe whose reader has ended."""

from __future__ import annotations

import io
import os
import select
import sys

from tlexport.errors import StepFailed


def open_streams() -> None:
    """Make the standard streams usable.

    A closed stream is opened on /dev/null, so that no other file gets its descriptor. Characters missing in a stream's encoding are
    written as ``\\xe9``.

    Raises:
        StepFailed: standard output is closed.
    """
    lost = sys.stdout is None
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if lost:
        raise StepFailed("standard output is closed, so results cannot be printed", "redirect it: > FILE, or > /dev/null")


def flush_stdout() -> OSError | None:
    """Flush standard output. Returns the error, and drops the rest, if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # lets the interpreter's own flush at exit succeed
        return error
    return None


def reader_is_gone() -> bool:
    """Whether standard output or standard error is a pipe whose reader has ended, as with ``head``."""
    if not hasattr(select, "poll"):
        return True
    pipes = select.poll()
    for number in (1, 2):
        pipes.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in pipes.poll(0))
