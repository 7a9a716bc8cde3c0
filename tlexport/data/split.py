"""Divides the images into training and validation: stratified, seeded, no image in both parts."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from tlexport.data.source import Entry, Listing
from tlexport.data.table import few
from tlexport.dataset import Dataset, Part, Sample
from tlexport.errors import InvalidFile


def split(listing: Listing, sha256: Sequence[str], val_fraction: float, seed: int) -> tuple[Dataset, tuple[str, ...]]:
    """Assign every image to a part.

    Data with its own split keeps it, except that training images whose bytes also occur in validation or test are
    dropped. Else (and where there is no validation part) each class gives up ``round(n * val_fraction)`` of its ``n`` training
    images, at least one and not all. Byte-identical files move together, so that none is in both parts.

    The images of a class are drawn in the order of a hash of seed and content: the split depends neither on names or order of
    the files nor on the other classes, and adding an image moves few others.

    Args:
        listing: the images.
        sha256: of the files' bytes, one for each entry.
        val_fraction: share of validation images, between 0 and 1.
        seed: any integer.

    Returns:
        The dataset, in the listing's order, and notes for the user.

    Raises:
        InvalidFile: a class is left without training images, or nothing is left to validate on.
    """
    parts: list[Part | None] = [entry.part or "train" for entry in listing.entries]
    drawn = "val" not in parts
    notes = _conflicts(listing, sha256, "they train and do not validate" if drawn else "the labels are kept as they are")
    if any(entry.part for entry in listing.entries):
        notes += _drop_leaks(listing, sha256, parts)
    if drawn:
        if any(entry.part for entry in listing.entries):
            notes.append(f"the data has no validation part: {100 * val_fraction:g} % of the training images of each class are taken for it")
        notes += _draw(listing, sha256, parts, val_fraction, seed)
    else:
        validated = {entry.label for entry, part in zip(listing.entries, parts, strict=True) if part == "val"}
        without = [name for label, name in enumerate(listing.classes) if label not in validated]
        notes += [f"classes without validation images: {few(without)}"] if without else []
    samples = tuple(
        Sample(path=entry.path, label=entry.label, part=part, sha256=digest)
        for entry, digest, part in zip(listing.entries, sha256, parts, strict=True)
        if part is not None
    )
    _check(listing, samples)
    return Dataset(source=listing.source, root=str(listing.root), classes=listing.classes, samples=samples), tuple(notes)


def _check(listing: Listing, samples: tuple[Sample, ...]) -> None:
    trained = {sample.label for sample in samples if sample.part == "train"}
    lost = [name for label, name in enumerate(listing.classes) if label not in trained]
    if lost:
        raise InvalidFile(f"all training images of {few(lost)} are copies of validation or test images", "add other images to train")
    if not any(sample.part == "val" for sample in samples):
        raise InvalidFile(f"{listing.source}: no class has two different training images, so nothing is left to validate on", "add images")


def _conflicts(listing: Listing, sha256: Sequence[str], done: str) -> list[str]:
    """A note that names identical files with different labels."""
    copies: dict[str, list[Entry]] = defaultdict(list)
    for entry, digest in zip(listing.entries, sha256, strict=True):
        copies[digest].append(entry)
    torn = [entries for entries in copies.values() if len({entry.label for entry in entries}) > 1]
    if not torn:
        return []
    named = few((" = ".join(f"{entry.path} ({listing.classes[entry.label]})" for entry in entries) for entries in torn), "; ")
    return [f"{len(torn)} images appear with different labels ({done}): {named}"]


def _drop_leaks(listing: Listing, sha256: Sequence[str], parts: list[Part | None]) -> list[str]:
    """Remove from ``parts`` the training images that are also in validation or test."""
    held_out = {digest for digest, part in zip(sha256, parts, strict=True) if part in ("val", "test")}
    leaks = [index for index, digest in enumerate(sha256) if parts[index] == "train" and digest in held_out]
    for index in leaks:
        parts[index] = None
    named = few(listing.entries[index].path for index in leaks)
    return [f"{len(leaks)} training images are copies of validation or test images and are not trained on: {named}"] if leaks else []


def _draw(listing: Listing, sha256: Sequence[str], parts: list[Part | None], fraction: float, seed: int) -> list[str]:
    """Move training images to validation in ``parts``, class by class."""
    members: dict[str, list[int]] = defaultdict(list)  # content -> training images with it
    for index, digest in enumerate(sha256):
        if parts[index] == "train":
            members[digest].append(index)
    sizes: list[Counter[str]] = [Counter() for _ in listing.classes]  # per class: content -> copies
    torn: set[str] = set()  # contents with several labels: they have no right answer to validate, so they stay in train
    for digest, indices in members.items():
        labels = {listing.entries[index].label for index in indices}
        for index in indices:
            sizes[listing.entries[index].label][digest] += 1
        if len(labels) > 1:
            torn.add(digest)
    unvalidated = []
    for name, copies in zip(listing.classes, sizes, strict=True):
        chosen = _choose(copies, torn, fraction, seed)
        for digest in chosen:
            for index in members[digest]:
                parts[index] = "val"
        if not chosen:
            unvalidated.append(f"{name} ({copies.total()})")
    return [f"classes without two different images train only, nothing validates them: {few(unvalidated)}"] if unvalidated else []


def _choose(copies: Counter[str], torn: set[str], fraction: float, seed: int) -> list[str]:
    """The contents of one class that go to validation."""
    total = copies.total()
    wanted = min(max(round(total * fraction), 1), total - 1)
    ranked = sorted(copies.keys() - torn, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest())
    chosen, taken = [], 0
    for digest in ranked:
        if taken + copies[digest] <= wanted:
            chosen.append(digest)
            taken += copies[digest]
    if not chosen and len(copies) > 1 and ranked:  # every group of copies is larger than the share: use the smallest
        chosen = [min(ranked, key=lambda digest: copies[digest])]
    return chosen
