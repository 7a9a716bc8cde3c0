"""What DATA names: class folders, parts of class folders, or a table. Lists the images; opens none of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tlexport.cache import cache_folder
from tlexport.data.demo import digits_folder
from tlexport.data.table import PARTS, SUFFIXES, few, read_table
from tlexport.dataset import Part
from tlexport.device.image_files import is_ignored, is_image
from tlexport.errors import InvalidFile, UsageError
from tlexport.record import nearest

SHAPES = (
    "DATA is a folder of class folders (DATA/cat/1.jpg), a folder with train/ and val/ (and test/) of that shape, "
    "or a .csv or .jsonl table with path,label[,split]"
)


@dataclass(frozen=True)
class Entry:
    """One image of the data."""

    path: str  # relative to the listing's root, with forward slashes; absolute where a table names a file outside
    label: int  # index into classes
    part: Part | None = None  # None: the data brings no split of its own


@dataclass(frozen=True)
class Listing:
    """The images of DATA, in an order that does not depend on the file system."""

    source: str  # DATA as the user gave it
    root: Path  # absolute
    classes: tuple[str, ...]  # sorted as strings
    entries: tuple[Entry, ...]  # sorted by part, label, path
    skipped: int  # files beside the images: hidden, or no images by their names
    notes: tuple[str, ...]  # what the user should know

    def file(self, entry: Entry) -> Path:
        """Where an entry's file lies."""
        return self.root / entry.path


@dataclass
class _Found:
    """What reading has come across so far."""

    images: list[tuple[str, str, Part | None]] = field(default_factory=list)  # path, class, part
    skipped: Counter[str] = field(default_factory=Counter)  # extension -> files
    notes: list[str] = field(default_factory=list)


def read_source(data: str) -> Listing:
    """List the images that DATA names.

    Args:
        data: a folder, a ``.csv`` or ``.jsonl`` table, or ``demo:digits``.

    Raises:
        InvalidFile: no such file, none of the known shapes, fewer than two classes, a class without training images, or a
            table with errors (naming the line).
        UsageError: an unknown ``demo:`` name.
    """
    if data.startswith("demo:"):
        if data != "demo:digits":
            raise UsageError(f"there is no {data}{nearest(data, ['demo:digits'])}", "known: demo:digits")
        return replace(read_source(str(digits_folder(cache_folder() / "digits"))), source=data)
    found = _Found()
    try:
        if not data or not Path(data).exists():
            raise _missing(data)
        path = Path(data).resolve()
        if path.is_dir():
            _read_folder(path, found)
        elif path.suffix.lower() in SUFFIXES:
            rows, found.notes = read_table(path)
            found.images = [(row.path, row.label, row.part) for row in rows]
        else:
            raise InvalidFile(f"{data} is a file, but not a table", SHAPES)
    except OSError as error:
        raise InvalidFile(
            f"{error.filename or data} cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from None
    return _listing(data, path if path.is_dir() else path.parent, found)


def _missing(data: str) -> InvalidFile:
    path = Path(data)
    beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    return InvalidFile(f"'{data}' does not exist{nearest(path.name, beside)}", SHAPES + "; or demo:digits")


def _listing(data: str, root: Path, found: _Found) -> Listing:
    if not found.images:
        raise InvalidFile(f"{data} holds no images", SHAPES)
    for path, name, _ in found.images:
        _check_text(path, name)
    trained = {name for _, name, part in found.images if part in (None, "train")}
    if not trained:
        raise InvalidFile(f"{data} has a split, but nothing in train", "give the images to train on the split 'train'")
    if untrained := {name for _, name, _ in found.images} - trained:
        raise InvalidFile(f"classes in val or test, but not in train: {few(sorted(untrained))}", "add training images, or remove the class")
    classes = tuple(sorted(trained))
    if len(classes) < 2:
        deeper = all(part is None and path.startswith(f"{name}/") and path.count("/") > 1 for path, name, part in found.images)
        hint = f"if the classes are the folders inside it, give {root / classes[0]}" if deeper else SHAPES
        raise InvalidFile(f"{data} has one class, '{classes[0]}'; at least two are needed", hint)
    label = {name: index for index, name in enumerate(classes)}
    order: tuple[Part | None, ...] = (None, "train", "val", "test")
    entries = [Entry(path, label[name], part) for path, name, part in found.images]
    entries.sort(key=lambda entry: (order.index(entry.part), entry.label, entry.path))
    if found.skipped:
        kinds = few(f"{kind or 'no extension'} ({count})" for kind, count in sorted(found.skipped.items()))
        found.notes.append(f"left out {found.skipped.total()} files that are not images by their names: {kinds}")
    return Listing(data, root, classes, tuple(entries), found.skipped.total(), tuple(found.notes))


def _check_text(path: str, name: str) -> None:
    """Refuse names that records (UTF-8) and labels.txt (one class a line) cannot hold."""
    try:
        (path + name).encode()
    except UnicodeEncodeError:
        raise InvalidFile(f"the name {path!r} is not valid text", "rename the file") from None
    if len(name.splitlines()) != 1 or name != name.strip():
        raise InvalidFile(f"the class name {name!r} is empty, has several lines, or starts or ends with a space", "rename the class")


def _read_folder(root: Path, found: _Found) -> None:
    folders, _ = _children(root)
    parts = {folder: PARTS[folder.name.lower()] for folder in folders if folder.name.lower() in PARTS}
    listed = few(folder.name for folder in parts)
    if len(parts) < len(folders):
        if "train" in parts.values() and len(set(parts.values())) > 1:
            others = few(folder.name for folder in folders if folder not in parts)
            raise InvalidFile(f"{root} holds {listed} and also {others}", f"move the ones or the others away; {SHAPES}")
        found.notes += [f"the folder '{folder.name}' is taken as a class, since other class folders lie beside it" for folder in parts]
        parts = {}
    if not parts:
        _read_classes(root, root, None, found)
    elif len(set(parts.values())) < len(parts):
        raise InvalidFile(f"{root} holds two folders for one part: {listed}", "keep one of them")
    elif "train" not in parts.values():
        raise InvalidFile(f"{root} holds {listed}, but no train", SHAPES)
    for folder, part in parts.items():
        _read_classes(root, folder, part, found)


def _children(folder: Path) -> tuple[list[Path], int]:
    """The visible folders directly in a folder, sorted, and the number of visible images beside them."""
    visible = sorted(item for item in folder.iterdir() if not is_ignored(item.name))
    folders = [item for item in visible if item.is_dir()]
    return folders, sum(is_image(item.name) and not item.is_dir() for item in visible)


def _read_classes(root: Path, folder: Path, part: Part | None, found: _Found) -> None:
    classes, loose = _children(folder)
    if not classes:
        what = f"{loose} images, but no class folders" if loose else "neither class folders nor images"
        raise InvalidFile(f"{folder} holds {what}", f"give each class a folder; {SHAPES}")
    if loose:
        found.notes.append(f"left out {loose} images that lie directly in {folder}, outside any class folder")
    for class_folder in classes:
        images = [path.relative_to(root).as_posix() for path in _images(class_folder, found)]
        found.images += [(image, class_folder.name, part) for image in images]
        if not images:
            found.notes.append(f"left out the class folder {class_folder.relative_to(root).as_posix()}: it holds no images")


def _images(folder: Path, found: _Found) -> Iterator[Path]:
    """The images in a class folder and below. Links are followed; each directory is read once, and none that lies above."""

    def refuse(error: OSError) -> None:
        raise error

    top, seen = folder.resolve(), set[Path]()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(here).resolve()
        if real in seen or real in top.parents:
            found.notes.append(f"did not follow {here}: it leads to {real}, which is read already or lies above")
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        for name in files:
            path = Path(here, name)
            # a dangling link stays in the list, so that decoding reports it; a pipe or a socket would block
            if not is_image(name) or (path.exists() and not path.is_file()):
                found.skipped["hidden" if is_ignored(name) else path.suffix.lower()] += 1
            else:
                yield path
