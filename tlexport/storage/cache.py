"""A cache of arrays that can be computed again: memory-mapped, bounded, safe to share, never trusted when damaged.

An entry is two files named after the hash of its key: the array (``.npy``) and, written last, a record with the array's SHA-256.
Both are written beside and renamed, so another run sees a whole entry or none. An entry whose bytes do not match its record
(truncated, stale, tampered with) counts as absent and is removed.
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

PART = ".part"  # ends the name of an array that is being filled in
LIMIT_BYTES = 10 * 10**9  # default bound; $TLX_CACHE_GB replaces it
MOST_GB = 10**6


def cache_folder() -> Path:
    """Where data that can be made again is kept: ``$TLX_CACHE``, else ``tlexport`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("TLX_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "tlexport"


def limit_from_environment() -> int:
    """The bound in bytes: ``$TLX_CACHE_GB`` (10^9 bytes) or the default.

    Raises:
        UsageError: the value is no number, or not one from 0 on that is finite.
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
            f"TLX_CACHE_GB is {text[:40]!r}; it is a number of GB from 0 (keep nothing) to {MOST_GB:,}",
            f"set it, such as TLX_CACHE_GB=20, or unset it for {LIMIT_BYTES // 10**9}",
        )
    return int(gigabytes * 1e9)


def release(array: npt.NDArray[Any]) -> None:
    """Let go of the memory that holds a mapped array's pages; what they hold stays in the file and is read again when asked for.

    Nothing happens to an array that is not mapped, or where the system has no such call (Windows).
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)  # the mapping is shared (np.memmap's "r" and "w+"): written pages stay in the file


class Draft:
    """An array to be filled in; see :meth:`ArrayCache.draft`."""

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self.array = array
        self.wanted = False

    def keep(self) -> None:
        """The array is whole: it shall be kept."""
        self.wanted = True


class ArrayCache:
    """Arrays by key, in one folder.

    Args:
        folder: where; made when the first array is kept. None: keep nothing.
        limit_bytes: total size of the arrays kept; the least recently used go first.
    """

    def __init__(self, folder: Path | None, limit_bytes: int | None = None) -> None:
        self.folder = folder
        self.limit_bytes = limit_from_environment() if limit_bytes is None and folder is not None else limit_bytes or 0
        if folder is not None:
            _sweep(folder)

    def get(self, key: Mapping[str, object]) -> npt.NDArray[Any] | None:
        """The array of a key, memory-mapped read-only; None when it is not here or not what was kept."""
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
            os.utime(array)  # the time of last use decides what goes first
        try:
            return read_npy(array)
        except InvalidFile:
            return None

    def keep(self, key: Mapping[str, object], value: npt.NDArray[Any]) -> None:
        """Keep an array, making room first. One larger than the bound, or a disk that is full, is not an error: it is not kept."""
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
        """A zeroed uint8 array to fill in, mapped onto its file, so that it need not fit into memory; :meth:`Draft.keep` keeps it.

        It lies in memory where it cannot be kept: no key, no folder, larger than the bound, a full disk. It stays usable afterwards.

        Raises:
            MemoryError: it lies in memory and does not fit there.
        """
        size = math.prod(shape)
        if self.folder is None or key is None or size > self.limit_bytes or not hasattr(os, "posix_fallocate"):
            draft = Draft(np.zeros(shape, np.uint8))
            yield draft
            if key is not None and draft.wanted:
                self.keep(key, draft.array)
            return
        array, record = self._paths(key)
        with ExitStack() as stack:  # which removes the name; the mapping stays valid
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
        """A new file, mapped for writing; None where there is no room for it."""
        size = math.prod(shape)
        try:
            self._make_room(size)
            mapped: npt.NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            with path.open("r+b") as stream:  # blocks that are missing later would end the process with SIGBUS
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except (OSError, ValueError):  # ValueError: an empty array cannot be mapped
            return None
        return mapped

    def _record(self, key: Mapping[str, object]) -> None:
        """Written last: from here on the entry is whole."""
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
        """Remove an entry, its record first, so that no half of it can be taken for a whole."""
        for path in (record, record.with_suffix(".npy")):
            with contextlib.suppress(OSError):
                path.unlink()


def _sweep(folder: Path) -> None:
    """Remove what dead processes left half-written. Instead of a lock, earlier versions had the number of the process in the name."""
    sweep_partials(folder)
    sweep(folder, rf".+\.{TOKEN}{re.escape(PART)}")
    for path in folder.glob(f"*{PART}"):
        if (number := re.fullmatch(r".+\.(\d{1,7})", path.stem)) and not is_running(int(number[1])):
            remove(path)


def _being_written(folder: Path) -> int:
    """Bytes of what this process and others have not completed yet."""
    total = 0
    for path in (*folder.glob(".*.partial-*"), *folder.glob(f"*{PART}")):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
