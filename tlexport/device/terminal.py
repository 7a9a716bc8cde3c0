"""Texts of strangers, such as class names, on a terminal. Python 3.6 syntax: it is copied into bundles as it is."""

import sys


def printable(text: str, keep: str = "") -> str:
    """A text in which what a terminal would obey is written out: control characters, escapes, and what turns the direction of text.

    Args:
        text: any text.
        keep: characters that stay although they are not printable: line breaks.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str) -> None:
    """Progress, warnings and errors: to standard error."""
    sys.stderr.write(printable(text, "\n") + "\n")
