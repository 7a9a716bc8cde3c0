"""The text of a new profile: a short file that extends another, with all keys that it can override as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tlexport.errors import UsageError
from tlexport.hardware.profile import NAME, Fact, Profile
from tlexport.hardware.schema import FILE
from tlexport.hardware.target import load_profile
from tlexport.record import Record


def expect_name(name: str, more: str = "") -> None:
    """Raise UsageError for an invalid profile name; ``more`` is appended to the hint."""
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"{name!r} is not a valid name for a profile", f"use lower-case letters, digits, '-' and '.', such as line-3{more}"
        )


def load_parent(name: str, option: str) -> Profile:
    """The profile that a new one extends. Must be a name, which is found from any folder. Raises UsageError for a path."""
    if name.endswith(".toml") or "/" in name:
        raise UsageError(f"{option} takes the name of a profile, and {name!r} is a path", "copy that file instead")
    return load_profile(name)


def profile_text(name: str, parent: Profile, folder: Path) -> str:
    """A valid profile that extends another and changes only its name.

    It contains the budget, which differs most often. Other figures are comments with their present values; each can be used once its
    source is filled in.

    Args:
        name: name of the new profile.
        parent: the profile that it extends, in the power mode that the device is used in.
        folder: the folder of the new file.
    """
    lines = [
        f"##:schema ./{FILE}",
        "# Remove one # from the line above to let an editor with Taplo (Even Better TOML) complete and check this file. First run:",
        f"#   tlx profiles schema -o {folder / FILE}",
        "#",
        f"# Missing keys are those of {parent.target}: tlx profiles show {parent.target}",
        "# The keys are described in docs/profiles.md of tlexport. Next: run tlx profiles check on this file.",
        "",
        f"extends = {_toml(parent.target)}",
        f"name = {_toml(name)}",
        f"title = {_toml(name)} # the usual name of the device",
        "",
        "# If a figure differs on your device, remove the #, and write the value and its source: a document, or the",
        "# command on the board; a figure without a source is refused. The status is read, derived (state how) or assumed (state why).",
        *_commented(parent),
        "",
        "# Limits for a model on this device. A missing key inherits its limit.",
        "[budget]",
        *(f"{key} = {_toml(value)}" for key, value in parent.budget.model_dump(exclude_none=True).items()),
        "",
        "# Identifies this device; tlx measures during an export only on the device itself.",
        "# [match]",
        *(f"# {key} = {_toml(value)}" for key, value in parent.match.model_dump(exclude_none=True).items()),
    ]
    for table in (parent.software, parent.hardware):
        if facts := list(_commented(table)):
            lines += ["", f"# [{type(table).__name__.lower()}]", *facts]
    return "\n".join(lines) + "\n"


def _commented(record: Record) -> Iterator[str]:
    """A comment for each figure of a record. Without the #, it is valid once its source is filled in."""
    for key in type(record).model_fields:
        fact = getattr(record, key)
        if isinstance(fact, Fact):
            yield f'# {key} = {{ value = {_toml(fact.model_dump()["value"])}, source = "", status = "read" }}'


def _toml(value: object) -> str:
    """A text, number or list in TOML. JSON's notation is the same for these, except for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
