"""Faults of the machine (full disk, missing memory, a limit) as errors with a hint. Bugs are not converted."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tlexport.errors import InvalidFile, MissingDependency, StepFailed, TlxError, UsageError

_SPACE = "free some space; temporary files are written to $TMPDIR, caches to $TLX_CACHE"
_MEMORY = "close other programs, raise the limit (ulimit -v), or use fewer --threads or a smaller batch"
_GONE = ("the current directory no longer exists", "change to another one: cd")
_FAULTS: dict[int, tuple[type[TlxError], str]] = {
    errno.ENOSPC: (StepFailed, _SPACE),
    errno.EDQUOT: (StepFailed, _SPACE),
    errno.EFBIG: (StepFailed, "the file system or a limit (ulimit -f) does not allow files of that size"),
    errno.EROFS: (StepFailed, "choose a writable folder"),
    errno.EACCES: (StepFailed, "check the permissions of the path and of the folders above it"),
    errno.EPERM: (StepFailed, "check the permissions of the path and of the folders above it"),
    errno.EMFILE: (StepFailed, "raise the limit of open files: ulimit -n 4096"),
    errno.ENFILE: (StepFailed, "close other programs: the system has no file handles left"),
    errno.EAGAIN: (StepFailed, "raise the limit of processes and threads (ulimit -u), or use fewer --threads"),
    errno.ENOMEM: (StepFailed, _MEMORY),
    errno.EIO: (StepFailed, "check the disk and its connection"),
    errno.ESTALE: (StepFailed, "check the connection to the file server"),
    errno.ENOENT: (StepFailed, "the file or folder was removed, or a folder above it is missing; check the path"),
    errno.EISDIR: (UsageError, "give the path of a file"),
    errno.ENOTDIR: (UsageError, "a part of the path is a file, not a folder; check the path"),
    errno.ENAMETOOLONG: (UsageError, "use a shorter path"),
    errno.ELOOP: (UsageError, "links in the path lead in a circle; check the path"),
}
# messages of libraries that do not raise OSError
_WORDS = (
    (r"no space left|storage ?full|disk full", errno.ENOSPC),
    (r"can't start new thread|pthread_create failed|resource temporarily unavailable", errno.EAGAIN),
    (r"not enough memory|out of memory|bad_alloc|can't allocate|cannot allocate|failed to allocate|unable to mmap", errno.ENOMEM),
    (r"failed to map segment", errno.ENOMEM),
    (r"too many open files", errno.EMFILE),
    (r"file too large", errno.EFBIG),
    (r"read-only file system", errno.EROFS),
    (r"permission denied", errno.EACCES),
)


_CUT_OFF = r"unexpected pos \d+ vs \d+|file write failed|iostream error|\d+ requested and \d+ written"  # torch.save; numpy.save


def expect_usable(arguments: Sequence[str]) -> None:
    """Check the arguments of a command line and the current directory.

    Raises:
        StepFailed: the current directory was removed; torch would end the process without a message.
        UsageError: an argument or the directory is not valid text, so it cannot be written to a record or printed.
    """
    here = _directory()
    if here is None and arguments and not {"--help", "-h", "--version"} & set(arguments):
        raise StepFailed(*_GONE)
    for word in (*arguments, here or ""):
        if any("\ud800" <= character <= "\udfff" for character in word):
            encoding = sys.getfilesystemencoding()
            hint = "rename the file or folder" if encoding == "utf-8" else "use a UTF-8 locale: LC_ALL=C.UTF-8 tlx ..."
            raise UsageError(f"{word!a} is not {encoding} text", hint)


@contextmanager
def machine_errors() -> Iterator[None]:
    """Convert faults of the machine inside the block to errors of this package. Bugs pass unchanged.

    A traceback shows the hint of each error below its message.
    """
    try:
        yield
    except TlxError as error:
        found = root_cause(error) if isinstance(error, MissingDependency) else error
        if found is error:
            _show_hint(error)
            raise
        raise _show_hint(found) from error
    except Exception as error:
        fault = as_error(error)
        if fault is not None:
            raise _show_hint(fault) from error
        raise


def _show_hint(error: TlxError) -> TlxError:
    if error.hint:
        error.add_note(f"hint: {error.hint}")
    return error


def root_cause(error: MissingDependency) -> TlxError:
    """The error, or the fault of the machine that prevented an installed library from loading, such as too little memory."""
    cause = as_error(error.__cause__) if error.__cause__ else None
    return error if cause is None or isinstance(cause, MissingDependency) else cause


def as_error(error: BaseException) -> TlxError | None:
    """The error to show for an unexpected exception; None for a bug.

    Args:
        error: the exception. Its causes are examined too.
    """
    return next((found for one in _chain(error) if (found := _of_system(one) or _of_library(one))), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, without suppressed ones."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _of_system(error: BaseException) -> TlxError | None:
    """The error for an exception of the operating system."""
    if isinstance(error, MemoryError):
        return StepFailed(f"out of memory{f': {error}' if str(error) else ''}", _MEMORY)
    if not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError) and _directory() is None:
        return StepFailed(*_GONE)
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return StepFailed(f"no temporary directory is writable: {error.strerror}", "free some space, or set TMPDIR to a folder of yours")
    if error.errno not in _FAULTS:
        return None
    kind, hint = _FAULTS[error.errno]
    where = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return kind(f"{where}: {error.strerror}" if where else f"{error.strerror}", hint)


def _of_library(error: BaseException) -> TlxError | None:
    """The error for an exception of a library with the same causes, or for something missing on the machine."""
    text = next(iter(str(error).splitlines()), "")[:500]
    if isinstance(error, OSError | RuntimeError | SystemError | ImportError | ValueError) or "safetensor" in type(error).__name__.lower():
        for words, number in _WORDS:
            if re.search(words, str(error), re.IGNORECASE):
                kind, hint = _FAULTS[number]
                return kind(f"{os.strerror(number)}: {text}", hint)
    if isinstance(error, RuntimeError | OSError) and re.search(_CUT_OFF, text):
        return StepFailed(f"a file could not be written completely: {text}", f"{_SPACE}; or raise the limit of file sizes: ulimit -f")
    if (isinstance(error, UnicodeError) and "surrogates not allowed" in text) or "string_unicode" in str(error):
        return InvalidFile(
            f"a file name is not {sys.getfilesystemencoding()} text: {text!a}", "rename it, or use a UTF-8 locale: LC_ALL=C.UTF-8"
        )
    if (isinstance(error, KeyError) and "getpwuid" in text) or (isinstance(error, RuntimeError) and "home directory" in text):
        return StepFailed("this user has no name and no home directory", "set HOME and USER, or TLX_CACHE to a folder of yours")
    if isinstance(error, ImportError) and not (error.name or "").startswith("tlexport") and not _of_ours(error):
        return MissingDependency(f"{error.name or 'a library'} cannot be imported: {text}", "see what is missing: tlx doctor")
    if isinstance(error, OSError) and "shared object" in text:
        return MissingDependency(f"a library cannot be loaded: {text}", "see what is missing: tlx doctor")
    return None


def _of_ours(error: ImportError) -> bool:
    """Whether an import failed because a module of this package lacks a name, which is a bug."""
    return "from 'tlexport" in str(error)


def _directory() -> str | None:
    """The current directory; None if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return None
