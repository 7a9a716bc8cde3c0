"""Names of stages, which most families share."""

from __future__ import annotations


def numbered(count: int, *above: str) -> tuple[str, ...]:
    """``stem``, ``stage1`` to ``stage<count>``, then ``above``, then ``head``."""
    return ("stem", *(f"stage{number}" for number in range(1, count + 1)), *above, "head")
