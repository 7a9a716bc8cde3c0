"""A cache of arrays that can be recomputed: memory-mapped, bounded, safe to share between processes, validated when read.

An entry is two files named after the hash of its key: the array (``.npy``) and, written last, a record with the array's SHA-256.
Both are written atomically, so other processes see complete entries only. An entry whose bytes do not match its record
(truncated, stale, tampered with) is treated as missing and removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tlexport.errors import InvalidFile, StepFailed, UsageError
from tlexport.storage.files import TOKEN, held_name, new_file, remove, sha256_of, sweep, sweep_partials
from tlexport.storage.lock import is_running
from tlexport.storage.untrusted import read_npy, read_object

PART = ".part"  # suffix of an array that is being filled
LIMIT_BYTES = 10 * 10**9  # default bound; $TLX_CACHE_GB replaces it
MOST_GB = 10**6


def cache_folder() -> Path:
    """The folder for data that can be recomputed: ``$TLX_CACHE``, else ``tlexport`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("TLX_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "tlexport"


def limit_from_environment() -> int:
    """The bound in bytes: ``$TLX_CACHE_GB`` (10^9 bytes) or the default.

    Raises:
        UsageError: the value is not a finite number from 0 on.
    """
    text = os.environ.get("TLX_CACHE_GB")
    if not text:
        return LIMIT_BYTES
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes <= MOST_GB:
        raise UsageError(
            f"TLX_CACHE_GB is {text[:40]!r}; expected a number of GB from 0 (no cache) to {MOST_GB:,}",
            f"set it, such as TLX_CACHE_GB=20, or unset it for {LIMIT_BYTES // 10**9}",
        )
    return int(gigabytes * 1e9)


def release(array: npt.NDArray[Any]) -> None:
    """Release the memory of a mapped array's pages. Their content stays in the file and is read again on access.

    Does nothing for an array that is not mapped, or on a system without ``madvise`` (Windows).
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)  # the mapping is shared (np.memmap's "r" and "w+"): written pages stay in the file


class Draft:
    """An array to fill; see :meth:`ArrayCache.draft`."""

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self.array = array
        self.wanted = False

    def keep(self) -> None:
        """Mark the array as complete, so that it is stored."""
        self.wanted = True


class ArrayCache:
    """Arrays by key, in one folder.

    Args:
        folder: created with the first array. None: store nothing.
        limit_bytes: total size of the arrays; the least recently used are removed first.
    """

    def __init__(self, folder: Path | None, limit_bytes: int | None = None) -> None:
        self.folder = folder
        self.limit_bytes = limit_from_environment() if limit_bytes is None and folder is not None else limit_bytes or 0
        if folder is not None:
            _sweep(folder)

    def get(self, key: Mapping[str, object]) -> npt.NDArray[Any] | None:
        """The array of a key, memory-mapped read-only; None if it is missing or damaged."""
        if self.folder is None:
            return None
        array, record = self._paths(key)
        try:
            expected = read_object(record)["sha256"]
            found = sha256_of(array)
        except (InvalidFile, OSError, KeyError):
            return None
        if found != expected:
            self._remove(record)
            return None
        with contextlib.suppress(OSError):
            os.utime(array)  # the time of last use determines the order of removal
        try:
            return read_npy(array)
        except InvalidFile:
            return None

    def keep(self, key: Mapping[str, object], value: npt.NDArray[Any]) -> None:
        """Store an array, removing others if needed. If it exceeds the bound or the disk is full, it is not stored; no error."""
        if self.folder is None or value.nbytes > self.limit_bytes:
            return
        array, record = self._paths(key)
        try:
            self._make_room(value.nbytes)
            with new_file(array) as temporary, temporary.open("wb") as stream:
                np.save(stream, value, allow_pickle=False)
            self._record(key)
        except (OSError, StepFailed):
            self._remove(record)

    @contextmanager
    def draft(self, key: Mapping[str, object] | None, shape: tuple[int, ...]) -> Iterator[Draft]:
        """A zeroed uint8 array to fill, mapped onto its file, so that it may exceed the memory; :meth:`Draft.keep` stores it.

        The array is in memory if it cannot be stored: no key, no folder, larger than the bound, full disk. It stays usable afterwards.

        Raises:
            MemoryError: the array is in memory and does not fit.
        """
        size = math.prod(shape)
        if self.folder is None or key is None or size > self.limit_bytes or not hasattr(os, "posix_fallocate"):
            draft = Draft(np.zeros(shape, np.uint8))
            yield draft
            if key is not None and draft.wanted:
                self.keep(key, draft.array)
            return
        array, record = self._paths(key)
        with ExitStack() as stack:  # removes the name; the mapping stays valid
            try:
                array.parent.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(held_name(array.parent, f"{array.stem}.", PART))
            except OSError:
                mapped = None
            else:
                mapped = self._mapped(temporary, shape)
            draft = Draft(np.zeros(shape, np.uint8) if mapped is None else mapped)
            yield draft
            if draft.wanted and mapped is not None:
                try:
                    temporary.replace(array)
                    self._record(key)
                except (OSError, StepFailed):
                    self._remove(record)

    def _mapped(self, path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
        """A new file, mapped for writing; None if there is no space for it."""
        size = math.prod(shape)
        try:
            self._make_room(size)
            mapped: npt.NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            with path.open("r+b") as stream:  # unallocated blocks would raise SIGBUS on a full disk
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except (OSError, ValueError):  # ValueError: an empty array cannot be mapped
            return None
        return mapped

    def _record(self, key: Mapping[str, object]) -> None:
        """Write the record. It comes last and makes the entry complete."""
        array, record = self._paths(key)
        with new_file(record) as temporary:
            temporary.write_text(json.dumps({"sha256": sha256_of(array), "key": dict(key)}) + "\n", encoding="utf-8")

    def _paths(self, key: Mapping[str, object]) -> tuple[Path, Path]:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        folder = self.folder or Path()
        return folder / f"{name}.npy", folder / f"{name}.json"

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used entries until ``needed`` bytes fit under the bound. Maps in use stay valid (POSIX)."""
        if self.folder is None or not self.folder.is_dir():
            return
        entries = []
        for array in self.folder.glob("*.npy"):
            with contextlib.suppress(OSError):
                entries.append((array.stat().st_mtime, array.stat().st_size, array))
        total = sum(size for _, size, _ in entries) + _being_written(self.folder)
        for _, size, array in sorted(entries):
            if total + needed <= self.limit_bytes:
                break
            self._remove(array.with_suffix(".json"))
            total -= size

    @staticmethod
    def _remove(record: Path) -> None:
        """Remove an entry, its record first, so that it is never incomplete with a record."""
        for path in (record, record.with_suffix(".npy")):
            with contextlib.suppress(OSError):
                path.unlink()


def _sweep(folder: Path) -> None:
    """Remove incomplete files of dead processes. Earlier versions put the process id in the name instead of using a lock."""
    sweep_partials(folder)
    sweep(folder, rf".+\.{TOKEN}{re.escape(PART)}")
    for path in folder.glob(f"*{PART}"):
        if (number := re.fullmatch(r".+\.(\d{1,7})", path.stem)) and not is_running(int(number[1])):
            remove(path)


def _being_written(folder: Path) -> int:
    """Total size of incomplete files of all processes, bytes."""
    total = 0
    for path in (*folder.glob(".*.partial-*"), *folder.glob(f"*{PART}")):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
