"""Print untrusted text, such as class names, on a terminal. Python 3.6 syntax: this file is copied into bundles unchanged."""

import sys


def printable(text: str, keep: str = "") -> str:
    """Escape control characters, escape sequences and direction marks.

    Args:
        text: any text.
        keep: characters that stay although they are not printable: line breaks.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str) -> None:
    """Progress, warnings and errors: to standard error."""
    sys.stderr.write(printable(text, "\n") + "\n")
