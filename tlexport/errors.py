"""The errors for users. Each has an exit code, the same in every command, and a hint: what to type next.

TlxError                   1
├── StepFailed             1   a step of the work failed (with the tool's last lines)
├── UsageError             2   an invalid option or argument
├── InvalidFile            2   an invalid file (key path, found, expected)
├── MissingDependency      3   a missing library or missing weights (and how to get them)
├── Unsupported            4   the target does not support the operation
├── VerificationFailed     5   hashes, golden vectors or numerical parity do not match (with the table)
└── OverBudget             6   no candidate fits (names the binding limit)

Any other exception of a command is a bug and keeps its traceback.
"""

from __future__ import annotations

INTERRUPTED = 130  # exit code after Ctrl-C, as in shells: 128 + SIGINT


class TlxError(Exception):
    """Base class of the errors for users.

    Args:
        message: what happened: the object, what was found, what was expected.
        hint: what to do next, preferably a command to type. May be empty.

    If a function of ``import tlexport`` fails after its command would print a result, ``result`` holds that result; else it is None.
    """

    exit_code = 1
    result: object = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StepFailed(TlxError):
    """A step of the work failed."""


class UsageError(TlxError):
    """An invalid option or argument."""

    exit_code = 2


class InvalidFile(TlxError):
    """An invalid file."""

    exit_code = 2


class MissingDependency(TlxError):
    """A missing library or missing weights."""

    exit_code = 3


class Unsupported(TlxError):
    """The target does not support the operation."""

    exit_code = 4


class VerificationFailed(TlxError):
    """Hashes, golden vectors or numerical parity do not match."""

    exit_code = 5


class OverBudget(TlxError):
    """No candidate fits the budget."""

    exit_code = 6
