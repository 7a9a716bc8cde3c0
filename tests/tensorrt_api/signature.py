"""pybind11's signatures in parts: `name(self: X, a: int, b: Y = <Y.Z: 0>) -> R`."""

from __future__ import annotations

import re
from typing import NamedTuple


class Parameter(NamedTuple):
    name: str
    type: str
    optional: bool


class Signature(NamedTuple):
    parameters: tuple[Parameter, ...]  # without self
    returns: str
    static: bool


def _split(text: str) -> list[str]:
    """At commas that lie in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def parse(text: str) -> Signature:
    """One line of the dump."""
    match = re.fullmatch(r"\w+\((.*)\)(?: -> (.+))?", text)
    assert match, text
    parameters = []
    for part in _split(match[1]):
        name, _, rest = part.partition(":")
        kind, equals, _ = rest.partition("=")
        parameters.append(Parameter(name.strip(), kind.strip(), bool(equals)))
    own = bool(parameters) and parameters[0].name == "self"
    return Signature(tuple(parameters[own:]), (match[2] or "None").strip(), static=not own)
