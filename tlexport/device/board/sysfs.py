"""Read small system files (sysfs, procfs, device tree). Python 3.6 syntax: this file is copied into bundles unchanged.

Every function takes ``root``, the root of the file system: ``/`` on the device, a folder with copies of such files elsewhere.
Missing and unreadable files give None: most of these files are missing on most machines.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import List, Optional


def read_text(root: str, path: str) -> "Optional[str]":
    """Content of a file, stripped of white space and of the NUL after device-tree texts.

    Args:
        root: root of the file system.
        path: below it, without a leading slash.
    """
    try:
        return Path(root, path).read_bytes().decode("utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:  # missing, no permission, or a disabled sensor
        return None


def read_number(root: str, path: str) -> "Optional[int]":
    """An integer from a file; None if the content is not an integer."""
    try:
        return int(read_text(root, path) or "")
    except ValueError:
        return None


def find(root: str, pattern: str) -> "List[str]":
    """Paths below ``root`` that match a pattern with ``*``, in numerical order (``zone2`` before ``zone10``)."""
    found = (path.relative_to(root).as_posix() for path in Path(root).glob(pattern))
    return sorted(found, key=lambda path: (len(path), path))
