"""Names of classes: which names a record, a label file and a terminal can hold, and when two names are the same."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 255  # characters; file systems take names no longer than so many bytes


def normal(name: str) -> str:
    """The name in Unicode form NFC: macOS stores the letter e with an accent as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def name_fault(name: str) -> str:
    """What is wrong with a class name, as the rest of a sentence; empty for a good one."""
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "starts or ends with a space"
    if len(name) > LONGEST:
        return f"has {len(name)} characters, at most {LONGEST} are taken"
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        return "is not valid text"
    if kinds & {"Zl", "Zp"} or len(name.splitlines()) > 1:
        return "has several lines"
    return "holds control characters" if "Cc" in kinds else ""


def list_fault(classes: Sequence[str]) -> str:
    """What is wrong with a model's list of class names: a bad name, or one that is listed twice. Empty for a good list."""
    for name in classes:
        if fault := name_fault(name):
            return f"the class name {name[:80]!r} {fault}"
    if len(set(classes)) < len(classes):
        twice = next(name for name, count in Counter(classes).items() if count > 1)
        return f"the class {twice!r} is listed twice"
    return ""


def _checked(classes: tuple[str, ...]) -> tuple[str, ...]:
    if fault := list_fault(classes):
        raise ValueError(fault)
    return classes


ClassNames = Annotated[tuple[str, ...], AfterValidator(_checked)]  # of a model or a dataset, in the order of labels
