"""Lists the images of DATA: class folders, a split of class folders, or a table. Opens no image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from tlexport.class_names import name_fault, normal
from tlexport.data.demo import digits_folder
from tlexport.data.layout import SHAPES, find_layout
from tlexport.data.table import SUFFIXES, few, read_table
from tlexport.data.tree import Seen, read_tree
from tlexport.dataset import Part
from tlexport.errors import InvalidFile, UsageError
from tlexport.record import nearest
from tlexport.storage.cache import cache_folder


@dataclass(frozen=True)
class Entry:
    """One image of the data."""

    path: str  # relative to the root of the listing, with forward slashes; absolute if a table names a file outside
    label: int  # index into classes
    part: Part | None = None  # None: the data has no split


@dataclass(frozen=True)
class Listing:
    """The images of DATA, in an order that does not depend on the file system."""

    source: str  # DATA as the user gave it
    root: Path  # absolute
    classes: tuple[str, ...]  # sorted as strings
    entries: tuple[Entry, ...]  # sorted by part, label, path
    skipped: int  # other files: hidden ones, and those without the suffix of an image
    notes: tuple[str, ...]  # for the user
    to_train: bool = True  # a class without training images is an error

    def file(self, entry: Entry) -> Path:
        """The path of an entry's file."""
        return self.root / entry.path


@dataclass
class _Found:
    """The state of a listing in progress."""

    images: list[tuple[str, str, Part | None]]  # path, class, part
    notes: list[str]
    seen: Seen = field(default_factory=Seen)


def read_source(data: str, to_train: bool = True) -> Listing:
    """List the images that DATA names.

    Args:
        data: a folder, a ``.csv`` or ``.jsonl`` table, or ``demo:digits``.
        to_train: require two classes, with training images of each. False (evaluation): one class or part is enough.

    Raises:
        InvalidFile: no such file, none of the known shapes, fewer than two classes, a class without training images, or a
            table with errors (naming the line).
        UsageError: an unknown ``demo:`` name.
    """
    if data.startswith("demo:"):
        if data != "demo:digits":
            raise UsageError(f"there is no {data}{nearest(data, ['demo:digits'])}", "known: demo:digits")
        return replace(read_source(str(digits_folder(cache_folder() / "digits")), to_train), source=data)
    try:
        if not data or not Path(data).exists():
            raise _missing(data)
        path = Path(data).resolve()
        if path.is_dir():
            return _listing(data, path, _read_folder(path, to_train), to_train)
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise InvalidFile(f"{data} is a file, but not a table", SHAPES)
        rows, notes = read_table(path)
        return _listing(data, path.parent, _Found([(row.path, row.label, row.part) for row in rows], notes), to_train)
    except OSError as error:
        raise InvalidFile(
            f"{error.filename or data} cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from None


def _read_folder(root: Path, to_train: bool) -> _Found:
    seen = Seen()
    tree = read_tree(root, seen)
    try:
        layout = find_layout(str(root), tree, to_train)
    except InvalidFile as error:
        tables = [str(item) for item in sorted(root.iterdir()) if item.suffix.lower() in SUFFIXES and item.is_file()]
        if tables and not error.hint.startswith("merge"):
            raise InvalidFile(error.message, f"give the table if it lists the images ({few(tables)}); or {error.hint}") from None
        raise
    images = []
    spellings: dict[str, set[str]] = {}
    for folder, part in layout.classes:
        name = normal(folder.place[-1])
        spellings.setdefault(name, set()).add(folder.place[-1])
        images += [("/".join((*folder.place, *names)), name, part) for names in folder.images]
    merged = [name for name, spelled in spellings.items() if len(spelled) > 1]
    notes = seen.notes + layout.notes
    notes += [f"folders whose names differ in Unicode form alone are one class: {few(merged)}"] if merged else []
    return _Found(images, notes, seen)


def _missing(data: str) -> InvalidFile:
    path = Path(data)
    beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    return InvalidFile(f"'{data}' does not exist{nearest(path.name, beside)}", SHAPES + "; or demo:digits")


def _listing(data: str, root: Path, found: _Found, to_train: bool) -> Listing:
    if not found.images:
        raise InvalidFile(f"{data} holds no images", SHAPES)
    for path, name, _ in found.images:
        _check_text(path, name)
    classes = tuple(sorted({name for _, name, _ in found.images}))
    if to_train:
        _check_trained(data, root, found.images)
    folded = Counter(name.casefold() for name in classes)
    if alike := [name for name in classes if folded[name.casefold()] > 1]:
        found.notes.append(f"classes whose names differ in case alone: {few(alike)}")
    label = {name: index for index, name in enumerate(classes)}
    order: tuple[Part | None, ...] = (None, "train", "val", "test")
    entries = [Entry(path, label[name], part) for path, name, part in found.images]
    entries.sort(key=lambda entry: (order.index(entry.part), entry.label, entry.path))
    skipped = found.seen.skipped
    if skipped:
        kinds = few(f"{kind or 'no extension'} ({count})" for kind, count in sorted(skipped.items()))
        found.notes.append(f"left out {skipped.total()} files that are not images by their names: {kinds}")
    return Listing(data, root, classes, tuple(entries), skipped.total(), tuple(found.notes), to_train)


def _check_trained(data: str, root: Path, images: list[tuple[str, str, Part | None]]) -> None:
    """Require at least two classes, with training images of each. Raises InvalidFile."""
    trained = sorted({name for _, name, part in images if part in (None, "train")})
    if not trained:
        raise InvalidFile(f"{data} has a split, but nothing in train", "give the images to train on the split 'train'")
    if untrained := sorted({name for _, name, _ in images} - set(trained)):
        folded = {name.casefold(): name for name in trained}
        near = [f"'{name}' is '{folded[name.casefold()]}' in train" for name in untrained if name.casefold() in folded]
        advice = f"give the class one name in all parts: {few(near)}" if near else "add training images, or remove the class"
        raise InvalidFile(f"classes in val or test, but not in train: {few(untrained)}", advice)
    if len(trained) < 2:
        (only,) = trained
        deeper = all(part is None and path.startswith(f"{only}/") and path.count("/") > 1 for path, _, part in images)
        hint = f"if the classes are the folders inside it, give {root / only}" if deeper else SHAPES
        raise InvalidFile(f"{data} has one class, '{only}'; at least two are needed", hint)


def _check_text(path: str, name: str) -> None:
    """Refuse names that records (UTF-8) and labels.txt (one class per line) cannot hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidFile(f"the name {path!r} is not valid text", "rename the file") from None
    if fault := name_fault(name):
        raise InvalidFile(f"the class name {name[:80]!r} {fault}", "rename the class")
