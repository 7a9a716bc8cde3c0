"""A board that ssh reaches, and the result of a command there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tlexport.errors import UsageError


@dataclass(frozen=True)
class Host:
    """Address of a board for ssh. Raises UsageError if it is not a host name."""

    name: str  # user@board, a name from ssh's configuration, or ssh://user@board:port
    options: tuple[str, ...] = ()  # for ssh's -o, such as "Port=2222"
    python: str = "python3"  # Python on the board; paths are relative to the home directory

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(?!-)[^\s\"'`$\\;&|<>(){}*?!#\x00-\x1f\x7f]+", self.name) or "@-" in self.name:
            raise UsageError(f"{self.name!r} is not a host name", "write user@board, a name from ~/.ssh/config, or ssh://user@board:port")
        if not self.python or self.python.startswith("-"):
            raise UsageError(
                f"{self.python!r} is not the path of a Python", "give the path of one on the board: --host-python venv/bin/python"
            )


@dataclass(frozen=True)
class CommandResult:
    """Result of a command on the board."""

    code: int
    out: str  # standard output
    err: tuple[str, ...]  # lines of standard error
