"""Writing so that nothing is ever left half-written, and hashing."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlexport.errors import StepFailed, UsageError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; renamed onto it at the end, removed on any error."""
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StepFailed(
            f"cannot write {path}: {error.strerror or error}", "check the path, its permissions and the free disk space"
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; renamed to it at the end, removed on any error.

    A directory that is already at ``path`` is replaced only after the new one is complete, and only if
    :func:`check_replaceable` finds that we wrote it.

    Raises:
        StepFailed: the file system refused (permissions, no space).
        UsageError: something else is at ``path``.
    """
    check_replaceable(path)
    temporary = _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            old = _beside(path)
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except OSError as error:
        raise StepFailed(
            f"cannot write {path}: {error.strerror or error}", "check the path, its permissions and the free disk space"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


OURS = ("checkpoint.json", "manifest.json", "tlx-demo.json")


def check_replaceable(path: Path) -> None:
    """Refuse to replace what we did not write.

    Raises:
        UsageError: ``path`` exists and is neither empty nor a checkpoint, bundle or demo of ours.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"{path} is a file; a directory is to be written there", "choose another --out")
    if any(path.iterdir()) and not any((path / name).is_file() for name in OURS):
        raise UsageError(f"{path} exists and was not written by tlx; it is left as it is", "choose another --out, or remove it first")
