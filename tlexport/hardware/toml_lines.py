"""The line of each key in a TOML text. The standard library's parser does not report lines."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tlexport.storage.untrusted import toml_statements

Path = tuple[str, ...]


class Statement(NamedTuple):
    """One statement of a TOML text: a key with its value, a table's header, a comment or an empty line."""

    text: str  # with its line ends
    line: int  # its first
    header: bool
    defines: dict[str, Any]  # what the parser makes of it; relative to the last header, where it is none itself


def statements(text: str) -> Iterator[Statement]:
    """The statements of a valid TOML text, in order."""
    line = 1
    for statement in toml_statements(text):
        yield Statement(statement, line, statement.lstrip().startswith("["), tomllib.loads(statement))
        line += statement.count("\n")


class KeyLines:
    """The line on which each key of a TOML text is written."""

    def __init__(self, text: str) -> None:
        """Args: text: valid TOML."""
        self._lines: dict[Path, int] = {}
        table: Path = ()
        for statement in statements(text):
            paths = list(_paths(statement.defines))
            if statement.header:
                table = max(paths, key=len)
                self._lines[table] = statement.line  # rather than an earlier header that only implied it
            for path in paths:
                self._lines.setdefault(path if statement.header else table + path, statement.line)

    def of(self, where: Sequence[int | str]) -> int | None:
        """The line of a key, or else of the nearest table around it that is written out; None when there is none.

        Args:
            where: keys from the outermost in; places in lists are left out of account, since a list is one statement.
        """
        path = tuple(part for part in where if isinstance(part, str))
        return next((self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines), None)

    def has(self, where: Sequence[int | str]) -> bool:
        """Whether the text defines this very key."""
        return tuple(part for part in where if isinstance(part, str)) in self._lines


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Every key path in nested tables, the outer ones first. ``[[name]]`` counts as ``name``."""
    if isinstance(value, list):
        for inner in value:
            if isinstance(inner, Mapping):
                yield from _paths(inner, path)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*path, key)
            yield from _paths(inner, (*path, key))
