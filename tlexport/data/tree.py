"""The images in a folder, as names only, so that its layout can be decided without the file system."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tlexport.device.inputs.image_files import is_ignored, is_image

Names = tuple[str, ...]


@dataclass(frozen=True)
class Tree:
    """A folder with all images in it, at any depth."""

    place: Names  # the path from DATA to the folder, as names; empty for DATA itself
    images: tuple[Names, ...]  # the path from the folder to each image
    folders: tuple[Names, ...] = ()  # the path to each folder, empty ones included

    @property
    def name(self) -> str:
        """The path from DATA, with forward slashes."""
        return "/".join(self.place)

    @cached_property
    def loose(self) -> int:
        """Number of images directly in the folder."""
        return sum(len(names) == 1 for names in self.images)

    @cached_property
    def below(self) -> dict[str, Tree]:
        """The direct sub-folders, sorted by name."""
        images: dict[str, list[Names]] = defaultdict(list)
        folders: dict[str, list[Names]] = defaultdict(list)
        for names in self.images:
            if len(names) > 1:
                images[names[0]].append(names[1:])
        for names in self.folders:
            folders[names[0]] += [names[1:]] if len(names) > 1 else []
        known = sorted(images.keys() | folders.keys())
        return {name: Tree((*self.place, name), tuple(images[name]), tuple(folders[name])) for name in known}

    @cached_property
    def held(self) -> dict[str, Tree]:
        """The direct sub-folders that hold images."""
        return {name: tree for name, tree in self.below.items() if tree.images}

    @property
    def nested(self) -> bool:
        """Whether most of its images are in sub-folders, as in a part of a split."""
        return 2 * self.loose < len(self.images)


@dataclass
class Seen:
    """Other files in a folder, and notes."""

    skipped: Counter[str] = field(default_factory=Counter)  # extension -> files
    notes: list[str] = field(default_factory=list)


OURS = ({"checkpoint.json", "model.safetensors"}, {"manifest.json", "run.py"})  # files of a checkpoint, of a bundle


def read_tree(root: Path, seen: Seen) -> Tree:
    """List the images below a folder. Links are followed; within each top folder a directory is read once.

    Raises:
        OSError: a folder cannot be read.
    """
    images: list[Names] = []
    folders: list[Names] = []
    for item in sorted(root.iterdir()):
        if not item.is_dir():
            _take(item, (), images, Seen() if is_ignored(item.name) or not is_image(item.name) else seen)
        elif not is_ignored(item.name):
            _walk(root, item, images, folders, seen)
    return Tree((), tuple(images), tuple(folders))


def _walk(root: Path, folder: Path, images: list[Names], folders: list[Names], seen: Seen) -> None:
    def refuse(error: OSError) -> None:
        raise error

    top, read = folder.resolve(), {root.resolve()}
    for here, inner, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(here).resolve()
        place = Path(here).relative_to(root).parts
        if real in read or real in top.parents:
            seen.notes.append(f"did not follow {here}: it leads to {real}, which is read already or lies above")
            inner.clear()
            continue
        read.add(real)
        if any(written <= set(files) for written in OURS):
            seen.notes.append(f"left out {here}: tlx wrote it; it is a checkpoint or a bundle")
            inner.clear()
            continue
        folders.append(place)
        inner[:] = sorted(name for name in inner if not is_ignored(name))
        for name in files:
            _take(Path(here, name), place, images, seen)


def _take(path: Path, place: Names, images: list[Names], seen: Seen) -> None:
    """Record a file as an image, or as skipped."""
    # a dangling link stays in the list, so that decoding reports it; reading a pipe or a socket would block
    if is_image(path.name) and (path.is_file() or not path.exists()):
        images.append((*place, path.name))
    else:
        seen.skipped["hidden" if is_ignored(path.name) else path.suffix.lower()] += 1
