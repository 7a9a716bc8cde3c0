"""Where in a TOML text a key stands. The standard library's parser tells what a file holds, but not where."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence

Path = tuple[str, ...]


class KeyLines:
    """The line on which each key of a TOML text is written."""

    def __init__(self, text: str) -> None:
        """Args: text: valid TOML. One statement after the other is given to the parser, which says what the statement defines."""
        self._lines: dict[Path, int] = {}
        table: Path = ()
        statement, start = "", 1
        for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
            statement += line + "\n"
            try:
                defined = tomllib.loads(statement)
            except tomllib.TOMLDecodeError:  # a string or a list that goes on in the next line
                continue
            paths = list(_paths(defined))
            header = statement.lstrip().startswith("[")
            if header:
                table = max(paths, key=len)
                self._lines[table] = start  # rather than an earlier header that only implied it
            for path in paths:
                self._lines.setdefault(path if header else table + path, start)
            statement, start = "", number + 1

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
