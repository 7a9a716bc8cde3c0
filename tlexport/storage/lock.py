"""Exclusive locks for writers, released when their process ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlexport.errors import InvalidFile, StepFailed, UsageError
from tlexport.storage.untrusted import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LARGEST = 4096  # bytes of a lock file
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
LOOKS, BETWEEN_S = 3, 0.05  # attempts before a path counts as locked: :func:`is_claimed` of another process holds the lock briefly


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file without waiting (``flock``; over NFS the server keeps it for all hosts).

    Returns:
        True: locked until the descriptor is closed, at the latest when the process ends. False: another process holds it. None: the
        file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def open_lock(path: Path, create: bool = True) -> int:
    """Open a lock file; child processes do not inherit its descriptor, so the lock ends with this process."""
    return os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (os.O_CREAT if create else 0), 0o666)


def is_open_at(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the open file: its holder removes a lock file before releasing the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except OSError:
        return False


def lock_of(path: Path) -> Path:
    """The lock file of a path that is to be written: hidden, beside it. A link is followed, so that both names have one lock."""
    where = path.resolve()
    return where.with_name(f".{where.name}.lock")


@contextmanager
def claim(path: Path, command: str) -> Iterator[None]:
    """Hold the exclusive lock on ``path``. A lock of a dead process is taken over.

    Args:
        path: the file or directory that is to be written.
        command: name of this process in errors of others, such as ``tlx export``.

    Raises:
        UsageError: another process is writing it; the message has its number, host and start.
        StepFailed: the file system refused.
    """
    lock = lock_of(path)
    made = [folder for folder in lock.parents if not folder.exists()]  # the deepest first
    try:
        descriptor = _take(lock, path, command)
    except OSError as error:
        raise StepFailed(
            f"cannot write {path}: {error.strerror or error}", "check the path, its permissions and the free disk space"
        ) from error
    try:
        yield
    finally:
        _release(lock, descriptor)
        for folder in made:  # those that are still empty: nothing was written there
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_claimed(path: Path) -> bool:
    """Whether another process is writing ``path`` now."""
    lock = lock_of(path)
    try:
        descriptor = open_lock(lock, create=False)
    except OSError:
        return False
    try:
        taken = try_lock(descriptor)
        return not taken if taken is not None else _lives(_read(lock))
    finally:
        os.close(descriptor)


def _take(lock: Path, path: Path, command: str) -> int:
    """The descriptor of the lock file, locked, with this process written into it."""
    refused = 0
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = open_lock(lock)
        except FileNotFoundError:  # another process has removed the folder again
            continue
        taken = try_lock(descriptor)
        if (taken and is_open_at(descriptor, lock)) or (taken is None and _takes_without_locks(lock, descriptor)):
            try:
                _describe(descriptor, command)
            except OSError:
                _release(lock, descriptor)
                raise
            return descriptor
        os.close(descriptor)
        holder = _read(lock)
        if not taken and holder is not None and (refused := refused + 1) > LOOKS:
            raise UsageError(f"{path} is being written by another process{_named(holder)}", _hint(lock, holder, taken))
        time.sleep(BETWEEN_S)


def _release(lock: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        lock.unlink()
    os.close(descriptor)


def _takes_without_locks(lock: Path, descriptor: int) -> bool:
    """Take the lock on a file system without locks, by the record in the file, unless its process may still run."""
    holder = _read(lock)
    if _lives(holder):
        return False
    if holder:
        os.ftruncate(descriptor, 0)
    return True


def _describe(descriptor: int, command: str) -> None:
    record = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(record).encode())


def _read(lock: Path) -> dict[str, Any] | None:
    """The record of the holder; empty if it is not written yet; None if the file is gone."""
    try:
        found = read_json(lock, largest=LARGEST)
    except InvalidFile:
        return {} if os.path.lexists(lock) else None
    return found if isinstance(found, dict) else {}


def _lives(holder: dict[str, Any] | None) -> bool:
    if not holder or not isinstance(holder.get("pid"), int):
        return False
    if holder.get("host") != socket.gethostname():
        return True  # cannot be checked from this host
    return is_running(holder["pid"])


def is_running(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is another user's
    return True


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return ""
    return f": {holder.get('command')}, process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"


def _hint(lock: Path, holder: dict[str, Any], taken: bool | None) -> str:
    advice = "wait until it has ended, or choose another --out"
    if taken is None and holder.get("host") != socket.gethostname():
        return f"{advice}; if that process has ended, remove {lock}"
    return advice
