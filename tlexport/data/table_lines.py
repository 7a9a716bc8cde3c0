"""The lines of a table as cells by column, for any encoding and delimiter, and for JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tlexport.errors import InvalidFile
from tlexport.storage.untrusted import parse_json, regular_file

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson")
DELIMITERS = (",", ";", "\t", "|")
LONGEST_LINE = 100_000  # characters; a path has at most a few thousand
_HEADER = "the first line of a .csv names its columns: path,label or path,label,split"

Line = tuple[int, dict[str, Any]]  # line number and cells by column


def read_lines(table: Path, known: Callable[[list[str]], int]) -> Iterator[Line]:
    """Every line that is not empty.

    Args:
        table: a file whose name ends in one of the suffixes above; UTF-8, or UTF-16 with a byte order mark or plain ASCII at its start.
        known: counts the known names among columns; the delimiter with the most known names is used.

    Raises:
        InvalidFile: names the line, what was found and what was expected.
    """
    texts = _texts(table)
    return _csv_lines(table, texts, known) if table.suffix.lower() in CSV_SUFFIXES else _json_lines(table, texts)


def _texts(table: Path) -> Iterator[str]:
    """The lines as text, each with its line end."""
    number = 0
    with regular_file(table, "a table") as stream:
        encoding = _encoding(stream.read(4))
        stream.seek(0)
        try:
            # newline="": the CSV reader accepts all three line ends and keeps them inside quotes
            text = io.TextIOWrapper(stream, encoding=encoding, newline="")
            while line := text.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise InvalidFile(f"{table}, line {number} has more than {LONGEST_LINE:,} characters", "write one image on each line")
                yield line
        except UnicodeError as error:
            if encoding == "utf-8-sig":
                where = f"{table}, line {_undecodable(table)} is not UTF-8 text: {error}"
                raise InvalidFile(
                    where, f"save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8 {table.name} > utf8{table.suffix}"
                ) from None
            raise InvalidFile(f"{table} cannot be read as {encoding} text: {error}", "save it as UTF-8") from None


def _encoding(start: bytes) -> str:
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) == 4 and (start[1::2] == b"\0\0" or start[::2] == b"\0\0"):  # ASCII in 16 bits
        return "utf-16-le" if start[1] == 0 else "utf-16-be"
    return "utf-8-sig"


def _undecodable(table: Path) -> int:
    """The first line that is not UTF-8."""
    with regular_file(table, "a table") as stream:
        for number in itertools.count(1):
            line = stream.readline()
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
            if not line:
                return number
    return 0


def _csv_lines(table: Path, texts: Iterator[str], known: Callable[[list[str]], int]) -> Iterator[Line]:
    header, before = next(texts, ""), 0
    if header.strip().lower().startswith("sep="):  # Excel's own way to name the delimiter
        header, before = next(texts, ""), 1
    delimiter = max(DELIMITERS, key=lambda delimiter: known(_header(header, delimiter)))
    columns = _header(header, delimiter)
    if not any(columns):
        raise InvalidFile(f"{table} holds no images: its first line is empty", _HEADER)
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise InvalidFile(f"{table} has two columns of the name {', '.join(twice)}", "rename one of them")
    reader = csv.reader(texts, delimiter=delimiter, skipinitialspace=True, strict=True)
    before += 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            found = f"{table}, line {reader.line_num + before} cannot be read as a table: {error}"
            raise InvalidFile(found, 'a value with a quote in it is written in quotes, the quote twice: "12"" wheel"') from None
        if cells is None:
            return
        number = reader.line_num + before
        if not any(cell.strip() for cell in cells):
            continue
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        if len(cells) != len(columns):
            found = f"{table}, line {number}: not one value for each of {', '.join(columns)}"
            raise InvalidFile(found, f"{len(cells)} values were found; put values that hold a {delimiter!r} into quotes")
        yield number, {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name}


def _header(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _json_lines(table: Path, texts: Iterator[str]) -> Iterator[Line]:
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        row = parse_json(text, f"{table}, line {number} is not JSON", "a .jsonl holds one object on each line")
        if not isinstance(row, dict):
            found = f"{table}, line {number} holds a JSON {type(row).__name__}, an object was expected"
            raise InvalidFile(found, 'write {"path": "cat/1.jpg", "label": "cat"}')
        yield number, row
