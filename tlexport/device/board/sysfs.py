"""Reading the small files in which a system tells of itself. Python 3.6 syntax: it is copied into bundles as it is.

Every function takes ``root``, the root of the file system: ``/`` on the device, a folder with copies of such files elsewhere.
What is not there, or may not be read, is None: most of these files are missing on most machines.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import List, Optional


def read_text(root: str, path: str) -> "Optional[str]":
    """Content of a file, without what is blank at its ends and without the NUL after a device tree's texts.

    Args:
        root: root of the file system.
        path: below it, without a leading slash.
    """
    try:
        return Path(root, path).read_bytes().decode("utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:  # missing, not allowed, or a sensor that is switched off
        return None


def read_number(root: str, path: str) -> "Optional[int]":
    """A whole number in a file; None also where something else stands there."""
    try:
        return int(read_text(root, path) or "")
    except ValueError:
        return None


def find(root: str, pattern: str) -> "List[str]":
    """Paths below ``root`` that fit a pattern with ``*``, in order of their numbers (``zone2`` before ``zone10``)."""
    found = (path.relative_to(root).as_posix() for path in Path(root).glob(pattern))
    return sorted(found, key=lambda path: (len(path), path))
