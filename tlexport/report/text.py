"""Untrusted text, figures and files in a form that is safe in a page."""

from __future__ import annotations

import base64
import functools
import json
import re
import unicodedata
from collections.abc import Sequence

from markupsafe import Markup, escape

from tlexport.units import format_percent

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # explicit formatting characters of Unicode's UAX #9


def plain(text: str) -> str:
    """Replace control characters, lone surrogates (from odd file names) and characters that change the direction of the text."""
    return "".join(REPLACEMENT if _unfit(c) else c for c in text)


def _unfit(character: str) -> bool:
    return (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n") or character in TURNING


def short_names(paths: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that differ from each other: ``["a/x.onnx", "b/x.onnx"]`` for two files ``x.onnx``."""
    parts = {path: [part for part in re.split(r"[/\\]", path) if part] or [path] for path in paths}

    def short(path: str) -> str:
        own = parts[path]
        for count in range(1, len(own)):
            if all(other == path or parts[other][-count:] != own[-count:] for other in parts):
                return "/".join(own[-count:])
        return path

    return [short(path) for path in paths]


def breakable(text: str) -> Markup:
    """A name or a path with line break opportunities after its separators."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/\\_.-])", plain(text)))


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant digits and without an exponent: 0.0831, 12.3, 1530; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in text and abs(value) >= 1 else text


percent = functools.partial(format_percent, digits=1, missing="–")


def data_link(data: bytes, kind: str) -> str:
    """A file as a data URL. Base64 keeps its content from ending the link or the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def json_link(value: object) -> str:
    """Plain data as a JSON file in a data URL."""
    return data_link(json.dumps(value, indent=1).encode("ascii"), "application/json")
