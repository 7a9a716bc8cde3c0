"""The text of a new profile: a short file that extends another, with everything that can be overridden in comments."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tlexport.profile import Fact, Profile
from tlexport.profile_schema import FILE
from tlexport.record import Record

SOURCE = "where you read it: a document, or the command on the board"


def profile_text(name: str, parent: Profile) -> str:
    """A valid file for a device that is as another but for its name.

    Its budget is written out, because that is what differs first; its other figures stand in comments with the values that they
    have now, each ready to be used once its source is written.

    Args:
        name: of the new profile.
        parent: what it extends; in one of its power modes, where that is how the device is used.
    """
    lines = [
        f"# What is not written here is as in {parent.target}: tlx profiles show {parent.target}",
        "# How a profile is written: docs/profiles.md of tlexport.",
        "#",
        "# For an editor that completes and checks (Taplo, Even Better TOML), take one # from the next line and type:",
        f"#   tlx profiles schema -o profiles/{FILE}",
        f"##:schema ./{FILE}",
        "",
        f"extends = {_toml(parent.target)}",
        f"name = {_toml(name)}",
        f"title = {_toml(name)} # what people call it",
        "",
        "# What a model must reach on it. A key that is left out keeps the limit it inherits.",
        "[budget]",
        *(f"{key} = {_toml(value)}" for key, value in parent.budget.model_dump(exclude_none=True).items()),
        "",
        "# How to tell that a machine is this device; decides whether tlx measures where it exports.",
        "# [match]",
        *(f"# {key} = {_toml(value)}" for key, value in parent.match.model_dump(exclude_none=True).items()),
        "",
        "# Figures that are others on your device: take the # away, write the value and where you found it.",
        "# status is read, derived (say how) or assumed (say why).",
    ]
    for key, fact in _facts(parent, ""):
        lines += ["#", f"# [{key}]", f"# value = {_toml(fact.model_dump()['value'])}", f"# source = {_toml(SOURCE)}", '# status = "read"']
    return "\n".join(lines) + "\n"


def _facts(record: Record, prefix: str) -> Iterator[tuple[str, Fact[object]]]:
    """Every figure of a profile under its key path."""
    for key in type(record).model_fields:
        value = getattr(record, key)
        if isinstance(value, Fact):
            yield prefix + key, value
        elif isinstance(value, Record):
            yield from _facts(value, f"{prefix}{key}.")


def _toml(value: object) -> str:
    """A text, number or list of them: for these JSON's notation is TOML's, save for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
