"""Tables of images: ``.csv`` or ``.jsonl`` with path, label and, if wanted, split."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tlexport.dataset import Part
from tlexport.errors import InvalidFile
from tlexport.record import nearest
from tlexport.untrusted import parse_json

SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("path", "label", "split")
PARTS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHOWN = 10  # how many of many are named in a message


@dataclass(frozen=True)
class Row:
    """One image of a table."""

    path: str  # relative to the table's folder with forward slashes, or absolute where the file lies outside
    label: str
    part: Part | None  # None: the split is empty, or there is no such column


def few(items: Iterable[str], separator: str = ", ") -> str:
    """The first items, and how many more there are."""
    named = list(items)
    more = [f"and {len(named) - SHOWN} more"] if len(named) > SHOWN else []
    return separator.join(named[:SHOWN] + more)


def read_table(table: Path) -> tuple[list[Row], list[str]]:
    """Read a table. Files are looked for, not opened.

    Args:
        table: absolute path of a ``.csv`` file (the first line names the columns) or a ``.jsonl`` file (one object a line);
            UTF-8, with or without a byte order mark.

    Returns:
        One row an image, in the table's order, and notes for the user.

    Raises:
        InvalidFile: names the line, what was found and what was expected.
    """
    first: dict[str, tuple[int, Row]] = {}
    missing, repeated, unused = [], 0, set()
    for line, cells in _lines(table):
        unused |= cells.keys() - set(COLUMNS)
        text = _text(table, line, cells, "path")
        row = Row(_inside(table.parent, text), _text(table, line, cells, "label"), _part(table, line, cells))
        before, same = first.setdefault(row.path, (line, row))
        if same != row:
            raise InvalidFile(f"{table}, line {line}: {text} has another label or split on line {before}", "keep one of the two lines")
        repeated += before != line
        if not _is_file(table.parent / row.path):
            missing.append(f"line {line}: {text}")
    if missing:
        where = f"paths start from {table.parent}, or are absolute"
        raise InvalidFile(f"{table} names {len(missing)} files that do not exist:\n  {few(missing, chr(10) + '  ')}", where)
    unsplit = [line for line, row in first.values() if row.part is None]
    if 0 < len(unsplit) < len(first):
        raise InvalidFile(f"{table}, line {unsplit[0]}: split is empty, though other lines have one", "give every line a split, or none")
    notes = [f"{repeated} lines of {table.name} repeat another one; each image counts once"] if repeated else []
    notes += [f"columns of {table.name} that are not used: {few(sorted(unused))}"] if unused else []
    return [row for _, row in first.values()], notes


def _inside(folder: Path, text: str) -> str:
    full = folder / text
    if ".." in full.parts:
        full = full.resolve()
    return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else full.as_posix()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission, or a name that is too long
        return False


def _lines(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and cells by column."""
    with table.open(encoding="utf-8-sig", newline="") as stream:
        try:
            yield from _csv_lines(table, stream) if table.suffix.lower() == ".csv" else _jsonl_lines(table, stream)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InvalidFile(f"{table} cannot be read as a table: {error}", "save it as UTF-8 text") from None


def _csv_lines(table: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(stream, skipinitialspace=True, strict=True)
    for row in reader:
        if None in row or None in row.values():
            found = f"{table}, line {reader.line_num}: not one value for each of {few(reader.fieldnames or ())}"
            raise InvalidFile(found, "put values that hold a comma into quotes")
        yield reader.line_num, row


def _jsonl_lines(table: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        row = parse_json(text, f"{table}, line {line} is not JSON", "a .jsonl holds one object on each line")
        if not isinstance(row, dict):
            found = f"{table}, line {line} holds a JSON {type(row).__name__}, an object was expected"
            raise InvalidFile(found, 'write {"path": "cat/1.jpg", "label": "cat"}')
        yield line, row


def _text(table: Path, line: int, cells: dict[str, Any], key: str) -> str:
    if key not in cells:
        found = f"{table}, line {line}: no column '{key}'; found: {few(cells)}"
        raise InvalidFile(found, "a .csv names its columns in the first line: path,label or path,label,split")
    value = cells[key]
    if key == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a number as a class name, which a .csv gives as text
    if not isinstance(value, str) or not value:
        raise InvalidFile(f"{table}, line {line}: {key} is {value!r}, a text was expected", f"give the line a {key}, or remove it")
    return value


def _part(table: Path, line: int, cells: dict[str, Any]) -> Part | None:
    value = cells.get("split")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value.lower() not in PARTS:
        near = nearest(str(value).lower(), list(PARTS))
        raise InvalidFile(f"{table}, line {line}: split is {value!r}{near}", f"known: {', '.join(PARTS)}")
    return PARTS[value.lower()]
