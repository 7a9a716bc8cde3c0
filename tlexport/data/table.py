"""Tables of images: ``.csv``, ``.tsv`` or ``.jsonl`` with path, label and an optional split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlexport.class_names import normal
from tlexport.data.part_names import KNOWN, PART_WORDS, part_of
from tlexport.data.table_lines import CSV_SUFFIXES, JSON_SUFFIXES, read_lines
from tlexport.dataset import Part
from tlexport.device.inputs.image_files import EXTENSIONS
from tlexport.errors import InvalidFile
from tlexport.record import nearest

SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES)
MOST_NAMED = 10  # items that a message names

# synonyms of column names, the first one preferred; case, spaces, hyphens and underscores are ignored
_MEANINGS = {
    "path": (
        *("path", "filepath", "relativepath", "relpath", "file", "files", "filename"),
        *("image", "images", "imagepath", "imagefile", "imagename", "img", "imgpath", "imgname"),
    ),
    "label": ("label", "labels", "labelname", "class", "classname", "classlabel", "category", "categoryname", "target"),
    "split": ("split", "datasplit", "subset", "partition", "set"),
}


@dataclass(frozen=True)
class Row:
    """One image of a table."""

    path: str  # relative to the table's folder with forward slashes, or absolute if the file is outside
    label: str  # in Unicode form NFC
    part: Part | None  # None: the split is empty, or the table has no such column


def few(items: Iterable[str], separator: str = ", ") -> str:
    """The first items, and the number of the others."""
    named = list(items)
    more = [f"and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return separator.join(named[:MOST_NAMED] + more)


def read_table(table: Path) -> tuple[list[Row], list[str]]:
    """Read a table. Checks that the files exist, but opens none.

    Args:
        table: absolute path of a ``.csv`` or ``.tsv`` file (the first line names the columns; separated by commas, semicolons,
            tabs or bars) or a ``.jsonl`` file (one object a line); UTF-8 or UTF-16.

    Returns:
        One row an image, in the table's order, and notes for the user.

    Raises:
        InvalidFile: names the line, what was found and what was expected.
    """
    first: dict[str, tuple[int, Row]] = {}
    missing: list[tuple[int, str]] = []
    repeated, unused = 0, set[str]()
    renamed: dict[str, str] = {}
    meant: dict[tuple[str, ...], dict[str, str]] = {}  # by the names of a line's columns
    for line, cells in read_lines(table, lambda names: len(_columns(table, names, lenient=True))):
        names = tuple(cells)
        columns = meant[names] = meant[names] if names in meant else _columns(table, names)
        unused |= cells.keys() - set(columns.values())
        renamed |= {column: key for key, column in columns.items() if column != key}
        text = _text(table, line, cells, "path", columns)
        path, found = _find(table.parent, text)
        label = _text(table, line, cells, "label", columns)
        row = Row(path, normal(label), _part(table, line, cells, columns))
        before, same = first.setdefault(row.path, (line, row))
        if same != row:
            raise InvalidFile(f"{table}, line {line}: {text} has another label or split on line {before}", "keep one of the two lines")
        repeated += before != line
        if not found:
            missing.append((line, text))
    if missing:
        listed = few((f"line {line}: {text:.200}" for line, text in missing), "\n  ")
        raise InvalidFile(
            f"{table} names {len(missing)} files that do not exist:\n  {listed}", _advice(table, [text for _, text in missing])
        )
    unsplit = [line for line, row in first.values() if row.part is None]
    if 0 < len(unsplit) < len(first):
        raise InvalidFile(f"{table}, line {unsplit[0]}: split is empty, though other lines have one", "give every line a split, or none")
    notes = [f"{repeated} lines of {table.name} repeat another one; each image counts once"] if repeated else []
    notes += [f"columns of {table.name}: " + few(f"'{c}' is read as {key}" for c, key in sorted(renamed.items()))] if renamed else []
    notes += [f"columns of {table.name} that are not used: {few(sorted(unused))}"] if unused else []
    return [row for _, row in first.values()], notes


def _columns(table: Path, names: Sequence[str], lenient: bool = False) -> dict[str, str]:
    """path, label and split -> the column that holds it."""
    plain = {name: re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) for name in names}
    found = {}
    for key, meanings in _MEANINGS.items():
        exact = [name for name in names if name == key] or [name for name in names if plain[name] == key]
        meant = exact or [name for name in names if plain[name] in meanings]
        if len(meant) > 1 and not lenient:
            raise InvalidFile(f"{table} has several columns that could be the {key}: {few(meant)}", f"rename the right one to '{key}'")
        if meant:
            found[key] = meant[0]
    return found


def _find(folder: Path, text: str) -> tuple[str, bool]:
    """The path of a row as stored in records, and whether the file exists.

    Backslashes may separate folders, and the file's name may be in another Unicode form than the table's.
    """
    for spelled in dict.fromkeys(_spellings(text)):
        full = folder / spelled
        try:
            if full.is_file():
                return _inside(folder, full), True
        except (OSError, ValueError):  # no permission, or a name that is too long or holds a NUL
            continue
    return text, False


def _spellings(text: str) -> Iterator[str]:
    for spelled in (text, text.replace("\\", "/")):
        yield from (spelled, unicodedata.normalize("NFC", spelled), unicodedata.normalize("NFD", spelled))


def _inside(folder: Path, full: Path) -> str:
    if ".." in full.parts:
        full = full.resolve()
    return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else full.as_posix()


def _advice(table: Path, missing: list[str]) -> str:
    """A hint for paths that do not exist."""
    folder, text = table.parent, missing[0]
    if any(re.match(r"[a-z]+://", name) for name in missing):
        return "addresses are not fetched: download the images, and write the path of each"
    if any(re.match(r"[A-Za-z]:[\\/]|\\\\", name) for name in missing):
        return f"paths of another machine: write them relative to {folder}"
    if kind := next((kind for kind in EXTENSIONS if _find(folder, text + kind)[1]), None):
        return f"write whole file names: {text}{kind} exists"
    inner = (item.name for item in sorted(folder.iterdir()) if item.is_dir())
    if name := next((name for name in inner if _find(folder, f"{name}/{text}")[1]), None):
        return f"paths start from {folder}: write {name}/{text}, or move the table into {name}"
    return f"paths start from {folder}, or are absolute"


def _text(table: Path, line: int, cells: dict[str, Any], key: str, columns: dict[str, str]) -> str:
    if key not in columns:
        found = f"{table}, line {line}: no column '{key}'; found: {few(f'{name:.80}' for name in cells)}"
        if any(_find(table.parent, name)[1] for name in cells):
            raise InvalidFile(found, "the first line is an image already: put the line path,label above it")
        raise InvalidFile(
            found, f"name the columns in the first line: path,label or path,label,split (for {key} also: {few(_MEANINGS[key][1:])})"
        )
    value = cells[columns[key]]
    if key == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a number as a class name; a .csv file gives it as text
    if not isinstance(value, str) or not value:
        raise InvalidFile(f"{table}, line {line}: {key} is {value!r:.80}, a text was expected", f"give the line a {key}, or remove it")
    return value


def _part(table: Path, line: int, cells: dict[str, Any], columns: dict[str, str]) -> Part | None:
    value = cells[columns["split"]] if "split" in columns else None
    if value is None or value == "":
        return None
    part = part_of(value) if isinstance(value, str) else None
    if part is None:
        near = nearest(str(value).lower(), list(PART_WORDS))
        named = "" if columns["split"] == "split" else f" (column '{columns['split']}')"
        raise InvalidFile(f"{table}, line {line}: split{named} is {value!r:.80}{near}", f"known: {KNOWN}")
    return part
