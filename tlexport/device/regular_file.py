"""Open untrusted files only if they are regular files. Python 3.6 syntax: this file is copied into bundles unchanged.

A link may lead anywhere, a FIFO blocks its reader, and a device may never end.
"""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidFile

if TYPE_CHECKING:
    from typing import BinaryIO

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def why_not_regular(path: Path) -> str:
    """Reason why a path is not a regular file; empty if it is one. Opens nothing."""
    try:
        mode = os.lstat(str(path)).st_mode
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return "it cannot be read: {}".format(getattr(error, "strerror", None) or error)
    return "" if stat.S_ISREG(mode) else "it is {}; a regular file was expected".format(_KINDS.get(stat.S_IFMT(mode), "no file"))


def open_regular(path: Path) -> "BinaryIO":
    """Open a file for reading and check it again, because it may have been replaced. Raises InvalidFile."""
    reason = why_not_regular(path)
    if not reason:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            stream = os.fdopen(os.open(str(path), flags), "rb")
        except OSError as error:
            raise InvalidFile("{} cannot be read: {}".format(path, error.strerror or error)) from None
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return stream
        stream.close()
        reason = "it was replaced while it was opened"
    raise InvalidFile("{} cannot be read: {}".format(path, reason))


def read_regular(path: Path, largest: int) -> bytes:
    """A file's bytes. Raises InvalidFile: not a regular file, not readable, or of more than ``largest`` bytes."""
    with open_regular(path) as stream:
        try:
            content = stream.read(largest + 1)
        except OSError as error:
            raise InvalidFile("{} cannot be read: {}".format(path, error.strerror or error)) from None
    if len(content) > largest:
        raise InvalidFile("{} is larger than the {} bytes that were expected at most".format(path, largest))
    return content
