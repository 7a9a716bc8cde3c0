"""Atomic writes of files and directories, and hashing.

Everything is written under a temporary name beside its destination, then renamed. A lock file guards the temporary name while
the process lives; the next write removes what dead processes left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tlexport.errors import StepFailed, UsageError
from tlexport.storage.lock import is_open_at, open_lock, try_lock

TOKEN = "[0-9a-f]{8}"
PARTIAL = rf"\.partial-{TOKEN}"  # suffix of a temporary name; its lock file ends in .lock- and the same token
DEMO_MARKER = "tlx-demo.json"  # marks a folder of the demo as written by tlx
REPLACEABLE = ("checkpoint.json", "manifest.json", DEMO_MARKER)  # files that only tlx writes


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; renamed onto it at the end, removed on any error.

    Raises:
        StepFailed: the file system refused (permissions, no space).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as temporary:
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; renamed to it at the end, removed on any error.

    An existing directory at ``path`` is replaced only when the new one is complete, and only if tlx wrote it
    (:func:`check_replaceable`). If the system can exchange two names atomically, ``path`` is never missing.

    Raises:
        StepFailed: the file system refused (permissions, no space).
        UsageError: something else is at ``path``.
    """
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as temporary:
            temporary.mkdir()
            yield temporary
            _put(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a new folder in the system's temporary folder, removed at the end. Also removes folders of dead processes.

    Args:
        prefix: ends in ``-``; reserved for this function.

    Raises:
        StepFailed: no temporary folder is writable.
    """
    with ExitStack() as stack:
        try:
            within = Path(tempfile.gettempdir())
            sweep(within, re.escape(prefix) + TOKEN)
            folder = stack.enter_context(held_name(within, prefix))
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise StepFailed(
                f"cannot write temporary files: {error.strerror or error}", "set $TMPDIR to a writable folder with enough space"
            ) from error
        yield folder


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, reserved for this process; a file of that name is removed at the end.

    Raises:
        OSError: the folder is not there, or cannot be written.
    """
    sweep(path.parent, re.escape(f".{path.name}") + PARTIAL)
    with held_name(path.parent, f".{path.name}.partial-") as temporary:
        yield temporary


@contextmanager
def held_name(folder: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """Yield a name in a folder, locked against :func:`sweep`; a file of that name is removed at the end.

    Raises:
        OSError: the folder is not there, or cannot be written.
    """
    while True:
        path = folder / f"{prefix}{secrets.token_hex(4)}{suffix}"
        lock = _guard(path)
        descriptor = open_lock(lock)
        if try_lock(descriptor) is not False and is_open_at(descriptor, lock):
            break
        os.close(descriptor)  # another process swept it between these lines
    try:
        yield path
    finally:
        remove(path)
        remove(lock)
        os.close(descriptor)


def check_replaceable(path: Path) -> None:
    """Refuse to replace a path that tlx did not write.

    Raises:
        UsageError: ``path`` exists and is neither empty nor a checkpoint, bundle or demo.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"{path} is a file, but a directory is to be written there", "choose another --out")
    if any(path.iterdir()) and not any((path / name).is_file() for name in REPLACEABLE):
        raise UsageError(f"{path} exists and was not written by tlx; it is left as it is", "choose another --out, or remove it first")


def sweep(folder: Path, pattern: str) -> None:
    """Remove the temporary files of dead processes in a folder.

    Args:
        folder: where.
        pattern: regular expression of whole names; their lock files go with them.
    """
    try:
        names = {_guarded(entry.name) for entry in os.scandir(folder)}
    except OSError:
        return
    for left in sorted(name for name in names if re.fullmatch(pattern, name)):
        with contextlib.suppress(OSError):
            _remove_unless_held(folder / left)


def sweep_partials(folder: Path) -> None:
    """Remove all incomplete files of dead processes in a folder."""
    sweep(folder, rf"\..+{PARTIAL}")


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with its content. Ignores a missing path and errors."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _guard(path: Path) -> Path:
    """The lock file of a temporary path."""
    if re.search(PARTIAL + "$", path.name):
        return path.with_name(".lock-".join(path.name.rsplit(".partial-", 1)))
    return path.with_name(f".{path.name}.lock")


def _guarded(name: str) -> str:
    """The name that a lock file guards; any other name unchanged."""
    if found := re.fullmatch(rf"(\..+)\.lock-({TOKEN})", name):
        return f"{found[1]}.partial-{found[2]}"
    if found := re.fullmatch(rf"\.(tlx-[a-z]+-{TOKEN}|.+\.{TOKEN}\.part)\.lock", name):
        return found[1]
    return name


def _remove_unless_held(path: Path) -> None:
    """Remove a path unless a process holds its lock. The lock file exists for the whole life of its path: without one, none writes it."""
    lock = _guard(path)
    try:
        descriptor = open_lock(lock, create=False)
    except FileNotFoundError:
        remove(path)
        return
    try:
        if try_lock(descriptor):
            remove(path)
            remove(lock)
    finally:
        os.close(descriptor)


def _put(temporary: Path, path: Path) -> None:
    """Rename a directory to ``path``. An existing directory gets the temporary name."""
    if not path.exists():
        try:
            temporary.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # otherwise another process was quicker
    if exchange(temporary, path):
        return
    with beside(path) as old:
        path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            old.rename(path)
            raise


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the system or the file system cannot.

    ``renameat2`` with ``RENAME_EXCHANGE`` of Linux, ``renamex_np`` with ``RENAME_SWAP`` of macOS.

    Raises:
        OSError: another error, such as a name that does not exist.
    """
    if sys.platform == "win32":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(first, second, 2)
    elif sys.platform == "linux" and hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        failed = library.renameat2(here, first, here, second, 2)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):  # EPERM: a sandbox's filter that does not know the call
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _cannot_write(path: Path, error: OSError) -> StepFailed:
    return StepFailed(f"cannot write {path}: {error.strerror or error}", "check the path, its permissions and the free disk space")
