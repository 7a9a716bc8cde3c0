"""Texts of anyone, figures and files, as a page can hold them."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Sequence

from markupsafe import Markup, escape

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # explicit formatting characters of Unicode's UAX #9


def plain(text: str) -> str:
    """Without what neither HTML nor UTF-8 can hold, control characters and the halves of characters that odd file names bring; and
    without what turns the direction of the text around it."""
    return "".join(REPLACEMENT if _unfit(c) else c for c in text)


def _unfit(character: str) -> bool:
    return (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n") or character in TURNING


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of each path, as many as tell it from the others: ``["a/x.onnx", "b/x.onnx"]`` for two files ``x.onnx``."""
    parts = {path: [part for part in re.split(r"[/\\]", path) if part] or [path] for path in paths}

    def short(path: str) -> str:
        own = parts[path]
        for count in range(1, len(own)):
            if all(other == path or parts[other][-count:] != own[-count:] for other in parts):
                return "/".join(own[-count:])
        return path

    return [short(path) for path in paths]


def breakable(text: str) -> Markup:
    """A name or a path that may be broken after the signs between its words."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/\\_.-])", plain(text)))


def number(value: float | None, digits: int = 3) -> str:
    """So many significant digits, never with an exponent where people read it: 0.0831, 12.3, 1530; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in text and abs(value) >= 1 else text


def percent(fraction: float | None) -> str:
    """0.9512 -> ``"95.1 %"``; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def data_link(data: bytes, kind: str) -> str:
    """A file inside a link. In base64, so that nothing in it can end the link or the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def json_link(value: object) -> str:
    """Plain data as a file inside a link."""
    return data_link(json.dumps(value, indent=1).encode("ascii"), "application/json")
