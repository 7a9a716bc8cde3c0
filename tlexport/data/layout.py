"""Decides from names only whether the folders of DATA are classes or the parts of a split. Reads no file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tlexport.class_names import normal
from tlexport.data.part_names import KNOWN, is_filler, is_numbered, part_of, parts_of, resembles_part
from tlexport.data.table import few
from tlexport.data.tree import Tree
from tlexport.dataset import Part
from tlexport.errors import InvalidFile

SHAPES = (
    "DATA is a folder of class folders (DATA/cat/1.jpg), a folder with train/ and val/ (and test/) of that shape, "
    "or a .csv or .jsonl table with path,label[,split]"
)
_AS_TABLE = "list the images in a .csv table with path,label[,split]"
_AS_PARTS = f"for a split, name the folders train, val and test (known: {KNOWN}) and put a folder for each class into each"

_CLASS_WORDS = frozenset(("train", "valid"))  # names of parts that may also be classes: a vehicle, the opposite of invalid
_YEAR = re.compile(r"(?:19|20)\d\d")


@dataclass
class Layout:
    """The class folders of DATA."""

    classes: list[tuple[Tree, Part | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_layout(data: str, tree: Tree, to_train: bool) -> Layout:
    """Decide which folders are classes.

    Args:
        data: the name of DATA in messages.
        tree: the images in it.
        to_train: whether a part to train on is needed.

    Raises:
        InvalidFile: neither classes nor known parts, or what could be either.
    """
    layout = Layout()
    inner = _unwrapped(tree)
    where = f"{data}/{inner.name}" if inner.place else data
    if inner.place:
        layout.notes.append(f"reading the folders in {where}, the only folder that holds images")
    parts = _parts(where, inner, to_train)
    for name, part in parts.items():
        _add_classes(layout, _unwrapped(inner.held[name], part=name), part)
    if parts:
        layout.notes += [f"left out the folder {other.name}: it holds no images" for other in inner.below.values() if not other.images]
    else:
        _check_classes(where, inner)
        _add_classes(layout, inner, None)
    if outside := len(tree.images) - sum(len(folder.images) for folder, _ in layout.classes):
        layout.notes.append(f"left out {outside} images that lie outside any class folder, directly in {where} or in a part")
    return layout


def _add_classes(layout: Layout, folder: Tree, part: Part | None) -> None:
    for name, below in folder.below.items():
        if below.images:
            layout.classes.append((below, part))
        else:
            layout.notes.append(f"left out the class folder {below.name}: it holds no images")
        if below.images and part is None and part_of(name):
            layout.notes.append(f"the folder '{name}' is taken as a class, since other class folders lie beside it")


def _unwrapped(tree: Tree, part: str = "") -> Tree:
    """The folder that holds the parts or classes: ``DATA/images`` of ``DATA/images/train/cat/1.jpg``.

    Args:
        tree: the folder to start from.
        part: the name of the part that ``tree`` is, or empty: within a part, ``train/train/cat`` is ``train/cat``.
    """
    while len(tree.held) == 1 and not tree.loose:
        ((name, only),) = tree.held.items()
        if part:
            wraps = is_filler(name) or part_of(name) is not None or normal(name).casefold() == normal(part).casefold()
        else:
            is_split = len(parts_of(only.held)) == len(only.held) and all(below.nested for below in only.held.values())
            wraps = is_split or (is_filler(name) and part_of(name) is None)
        if not wraps or not only.nested:
            break
        tree = only
    return tree


def _parts(where: str, tree: Tree, to_train: bool) -> dict[str, Part]:
    """The part of each folder; empty if the folders are classes."""
    known = parts_of(tree.held)
    odd = [name for name in tree.held if name not in known and resembles_part(name)]
    others = [name for name in tree.held if name not in known and name not in odd]
    if not known and (len(tree.held) == 1 or not odd):
        return {}
    if others and _are_classes(tree, [*known, *odd], others):
        return {}
    if odd or others:
        raise _mixed(where, list(known), odd + others)
    if flat := [name for name in known if not _has_classes(tree.held[name], name)]:
        what = few(f"{name} ({len(tree.held[name].images)} images)" for name in flat)
        advice = "sort its images into class folders, or move it away" if len(flat) < len(known) else "sort the images into class folders"
        raise InvalidFile(f"{where} holds parts of a split without class folders: {what}", f"{advice}; or {_AS_TABLE}; {SHAPES}")
    listed = few(known)
    if twice := [part for part, count in Counter(known.values()).items() if count > 1]:
        names = few(name for name, part in known.items() if part in twice)
        raise InvalidFile(f"{where} holds two folders for one part: {names} (of {listed})", "merge them, or move one of them away")
    if to_train and "train" not in known.values():
        raise InvalidFile(f"{where} holds {listed}, but no train", SHAPES)
    return known


def _are_classes(tree: Tree, parts: list[str], others: list[str]) -> bool:
    """Whether a folder with the name of a part is a class, such as ``train`` beside ``bus`` and ``car``."""
    flat = [name for name in others if not tree.held[name].nested]
    is_word = len(parts) == 1 and parts[0].casefold() in _CLASS_WORDS and not tree.held[parts[0]].nested
    return is_word and 2 * len(flat) >= len(others) and not all(is_filler(name) for name in others)


def _has_classes(folder: Tree, name: str) -> bool:
    held = _unwrapped(folder, part=name).held
    return folder.nested and not (len(held) == 1 and all(is_filler(below) or part_of(below) for below in held))


def _mixed(where: str, known: list[str], rest: list[str]) -> InvalidFile:
    if known:
        found = f"{where} holds {few(known)} and also {few(rest)}: names of parts of a split beside names that are none"
    else:
        found = f"{where} holds {few(rest)}: these look like parts of a split, but the names are not known"
    return InvalidFile(found, f"rename or move away what is no part: {_AS_PARTS}; if all these folders are classes, {_AS_TABLE}")


def _check_classes(where: str, tree: Tree) -> None:
    """Refuse folders that are unlikely to be classes."""
    held, loose = tree.held, tree.loose
    if not held:
        what = f"{loose} images, but no class folders" if loose else "no images" if tree.below else "neither class folders nor images"
        raise InvalidFile(f"{where} holds {what}", f"give each class a folder; {SHAPES}")
    if loose > len(tree.images) - loose:
        found = f"{where} holds {loose} images outside its folders ({few(held)}), more than in them"
        raise InvalidFile(found, f"sort them into class folders, or move them away; or {_AS_TABLE}")
    if len(held) == 1:
        return
    if all(is_filler(name) for name in held):
        raise InvalidFile(
            f"{where} holds {few(held)}, which are no names of classes", f"{SHAPES}; if these folders are classes, {_AS_TABLE}"
        )
    nested = [name for name, folder in held.items() if folder.nested]
    if all(is_numbered(name) for name in held) and 2 * len(nested) >= len(held):
        found = f"{where} holds {few(held)}: these look like folds of one data set, with class folders in each"
        raise InvalidFile(found, f"{_AS_PARTS}; if these folders are the classes, {_AS_TABLE}")
    if shared := _shared(held):
        found = f"{where} holds {few(held)}, which hold folders of the same names: {few(shared)}"
        if all(part_of(name) for name in shared):
            raise InvalidFile(f"{found}; the parts must be the outer folders", f"move cat/train to train/cat, and so on; or {_AS_TABLE}")
        raise InvalidFile(
            f"{found}; are these the parts of a split, or the classes?",
            f"{_AS_PARTS}; if the outer folders are the classes, {_AS_TABLE}, or put the images directly into them",
        )


def _shared(held: Mapping[str, Tree]) -> list[str]:
    """Folder names that occur in most of the folders, as class names in the parts of a split do. Years do not count."""
    inner = {
        name: {normal(below).casefold() for below in _unwrapped(folder, part=name).held if not _YEAR.fullmatch(below)}
        for name, folder in held.items()
        if folder.nested
    }
    count = Counter(below for names in inner.values() for below in names)
    common = {name: {below for below in names if count[below] > 1} for name, names in inner.items()}
    alike = [name for name, names in common.items() if len(names) > 1 and 2 * len(names) >= len(inner[name])]
    return sorted({below for name in alike for below in common[name]}) if 2 * len(alike) >= max(2, len(held)) else []
