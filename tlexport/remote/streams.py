"""Lines of untrusted text from a pipe, bounded in length and safe to print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

LONGEST_LINE = 4096  # bytes


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """A pipe that was asked for."""
    if stream is None:
        raise ValueError("no pipe was asked for")
    return stream


def read_lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a stream as text; of one that is far too long the beginning, so that the memory is bounded."""
    begun = False  # a line whose beginning was given already
    while raw := stream.readline(LONGEST_LINE):
        if not begun:
            yield _plain(raw)
        begun = not raw.endswith(b"\n")


def _plain(raw: bytes) -> str:
    """A line as text that may be shown: a board's output must not steer the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in raw.decode("utf-8", errors="replace").rstrip("\r\n"))
