"""Names of classes: which names are valid in a record, a label file and on a terminal, and which are equal."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 255  # characters; the limit of file systems for names, in bytes


def normal(name: str) -> str:
    """The name in Unicode form NFC: macOS stores the letter e with an accent as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def name_fault(name: str) -> str:
    """The fault of a class name, as the rest of a sentence; empty if it is valid."""
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "starts or ends with a space"
    if len(name) > LONGEST:
        return f"has {len(name)} characters; at most {LONGEST} are allowed"
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        return "is not valid text"
    if kinds & {"Zl", "Zp"} or len(name.splitlines()) > 1:
        return "has several lines"
    return "holds control characters" if "Cc" in kinds else ""


def list_fault(classes: Sequence[str]) -> str:
    """The fault of a list of class names: an invalid name, or a duplicate. Empty if it is valid."""
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
