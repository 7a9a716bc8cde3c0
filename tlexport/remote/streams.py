"""Lines of untrusted text from a pipe, bounded in length and safe to print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

LONGEST_LINE = 4096  # bytes


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """A stream of a process that was started with a pipe."""
    if stream is None:
        raise ValueError("the process has no pipe")
    return stream


def read_lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a stream as text; overlong lines are truncated, so that the memory is bounded."""
    begun = False  # the rest of a truncated line
    while raw := stream.readline(LONGEST_LINE):
        if not begun:
            yield _plain(raw)
        begun = not raw.endswith(b"\n")


def _plain(raw: bytes) -> str:
    """A line as printable text: a board's output must not control the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in raw.decode("utf-8", errors="replace").rstrip("\r\n"))
