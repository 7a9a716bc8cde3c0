"""The errors that a user can meet. Each has an exit code (shared by every command) and a hint: what to type next.

TlxError                   1
├── StepFailed             1   a step of the work failed (with the tool's last lines)
├── UsageError             2   an option or argument that cannot be
├── InvalidFile            2   a file that is not what it should be (key path, found, expected)
├── MissingDependency      3   a library, or weights, that are not here (and how to get them)
├── Unsupported            4   this target cannot do this
├── VerificationFailed     5   hashes, golden vectors or numerical parity do not hold (with the table)
└── OverBudget             6   no candidate fits (names the binding limit)

Anything else that leaves a command is a bug and keeps its traceback.
"""

from __future__ import annotations

INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT, as shells have it


class TlxError(Exception):
    """Root of the errors a user can cause or meet.

    Args:
        message: what happened: the object, what was found, what was expected.
        hint: what to do next, ideally a command to type. May be empty.

    A function of ``import tlexport`` whose command prints its result and then fails puts that result into ``result``; else it is None.
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
    """An option or argument that cannot be."""

    exit_code = 2


class InvalidFile(TlxError):
    """A file that is not what it should be."""

    exit_code = 2


class MissingDependency(TlxError):
    """Something that has to be installed or fetched first."""

    exit_code = 3


class Unsupported(TlxError):
    """The target cannot do what was asked."""

    exit_code = 4


class VerificationFailed(TlxError):
    """Hashes, golden vectors or numerical parity do not hold."""

    exit_code = 5


class OverBudget(TlxError):
    """No candidate fits the budget."""

    exit_code = 6
