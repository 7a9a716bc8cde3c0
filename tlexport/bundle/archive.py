"""A bundle as one file, ``.zip`` or ``.tar.gz``: written reproducibly, read as untrusted input.

A zip is not compressed, so its bytes depend only on the bundle. A ``.tar.gz`` is smaller, and its bytes also depend on zlib.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tlexport.bundle.manifest import MANIFEST, inner_path
from tlexport.errors import InvalidFile, StepFailed

ZIP, TAR = (".zip",), (".tar.gz", ".tgz")
MOST_FILES = 4096  # a bundle has about forty
MOST_BYTES = 2 * 10**9  # all files together; what zip holds without its extension for more, and more than any backbone's models take
FREE_BYTES = 16 * 2**20  # up to here any ratio is fine: real images may be of one colour
MOST_RATIO = 100  # bytes out of one byte in; weights give less than 2, and a bomb of deflate up to 1032
CHUNK = 2**20
_HEADERS = MOST_FILES * 4096  # bytes of a tar's headers: a block for each file, and more for long names
_LIST = MOST_FILES * 512  # bytes of a zip's list of its files

# what zipfile, tarfile, gzip and what they are made of raise for content that is not as it should be
_FORMATS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, struct.error)
_BROKEN = (
    *_FORMATS,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    RuntimeError,
)  # NotImplementedError and RecursionError are of the last


class _Entry(NamedTuple):
    name: str
    size: int
    stream: IO[bytes]


def is_archive(path: Path) -> bool:
    """Whether a path names an archive of a bundle, by its ending."""
    return path.name.lower().endswith(ZIP + TAR)


def pack(folder: Path, path: Path, name: str = "") -> None:
    """Write a bundle's files into one archive: sorted, without times, owners or modes of this machine.

    Args:
        folder: the bundle.
        path: the archive to write.
        name: its suffix selects the format; default: ``path``.

    Raises:
        StepFailed: the bundle is larger than an archive of a bundle may be.
    """
    names = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for _, file in names)
    if total > MOST_BYTES:
        raise StepFailed(f"the bundle has {total:,} bytes; an archive may hold {MOST_BYTES:,}", "export into a directory: --out DIRECTORY")
    if (name or path.name).lower().endswith(ZIP):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for inner, file in names:
                entry = zipfile.ZipInfo(inner, (1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # of Unix, whoever writes
                with archive.open(entry, "w") as out, file.open("rb") as stream:
                    shutil.copyfileobj(stream, out)
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for inner, file in names:
            member = tarfile.TarInfo(inner)  # of nobody, from 1970
            member.size, member.mode = file.stat().st_size, 0o644
            with file.open("rb") as stream:
                tar.addfile(member, stream)


def unpack(path: Path, folder: Path) -> tuple[str, ...]:
    """Unpack an archive into an empty folder. Writes nothing outside it, and at most the limits at the top of this file.

    Returns:
        The paths of the files in it.

    Raises:
        InvalidFile: damaged, not an archive, without a manifest; or a path that leaves the folder, two files of one name, a link or a
            device, a password, a size that is not true, more than the limits.
        OSError: the folder cannot be written to.
    """
    try:
        with path.open("rb") as stream:
            limit = min(max(FREE_BYTES, MOST_RATIO * stream.seek(0, os.SEEK_END)), MOST_BYTES)
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None
    left, seen = limit, dict[str, str]()
    try:
        for entry in _of_zip(path) if path.name.lower().endswith(ZIP) else _of_tar(path, limit):
            _expect_new(path, entry.name, seen)
            if not 0 <= entry.size <= left:
                raise _refused(path, f"holds {entry.name!r} of {entry.size:,} bytes, which with the rest is more than {limit:,}")
            left -= entry.size
            _write(path, entry, folder / entry.name)
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a place before the file's start is the file's fault
            raise
        raise _refused(path, f"cannot be read: {error or type(error).__name__}") from None
    if seen.get(MANIFEST) != MANIFEST:
        raise _refused(path, f"is not a bundle: it holds no {MANIFEST} at its top")
    return tuple(way for way in seen.values() if not way.endswith("/"))


def _of_zip(path: Path) -> Iterator[_Entry]:
    """The files of a zip; anything but files and folders is refused."""
    _expect_short_list(path)
    with zipfile.ZipFile(path) as archive:
        _expect_few(path, len(archive.infolist()))
        for info in archive.infolist():
            name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)  # filename is cut off at NUL
            _expect_name(path, name.removesuffix("/"))
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > name.endswith("/"):
                raise _refused(path, f"holds {name!r}, which is not a regular file but a link or a device")
            if info.flag_bits & 0x41:  # bits 0 and 6 of APPNOTE.TXT 4.4.4
                raise _refused(path, f"holds {name!r}, which is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refused(path, f"holds {name!r}, compressed by method {info.compress_type}, which bundles do not use")
            if not name.endswith("/"):
                with archive.open(info) as stream:
                    yield _Entry(name, info.file_size, stream)


def _expect_short_list(path: Path) -> None:
    """Refuse a zip whose list of contents would fill the memory when it is read, and those of the extension for large files."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 2**16 - 64))
        tail = stream.read()
    if b"PK\x06\x07" in tail:
        raise _refused(path, "is a ZIP64 archive, for more than 2 GB or 65,535 files; no bundle is that large")
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _refused(path, "is not a zip, or is cut off: it has no end")
    listed = int.from_bytes(tail[end + 12 : end + 16], "little")
    if listed > _LIST:
        raise _refused(path, f"lists its files in {listed:,} bytes, at most {_LIST:,} were expected")


def _of_tar(path: Path, limit: int) -> Iterator[_Entry]:
    """The files of a .tar.gz; anything but files and folders is refused."""
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed:
        stream = _Bounded(packed, path, limit + _HEADERS)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for number, member in enumerate(iter(tar.next, None), 1):
                _expect_few(path, number)
                _expect_name(path, member.name)
                if member.isdir() and member.size == 0:
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    raise _refused(path, f"holds {member.name!r}, which is not a regular file but a link or a device")
                content = tar.extractfile(member)
                if content is not None:
                    yield _Entry(member.name, member.size, content)


class _Bounded(io.RawIOBase):
    """The output of gzip, bounded in total and per read: tarfile reads headers whole, whatever length they declare."""

    def __init__(self, stream: gzip.GzipFile, path: Path, limit: int) -> None:
        self.stream, self.path, self.limit = stream, path, limit

    def read(self, size: int | None = -1, /) -> bytes:
        """As files do."""
        if size is None or not 0 <= size <= CHUNK:
            raise _refused(self.path, "holds a header that is too long")
        self._expect_within(self.tell() + size)
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """From the start alone, as tarfile does."""
        self._expect_within(offset)
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        """As files do."""
        return self.stream.tell()

    def _expect_within(self, position: int) -> None:
        if position > self.limit:
            raise _refused(self.path, f"unpacks to more than {self.limit:,} bytes")


def _expect_name(path: Path, name: str) -> None:
    try:
        inner_path(name)
    except ValueError as error:
        raise _refused(path, f"holds the path {name!r:.200}, which {error}") from None


def _expect_few(path: Path, files: int) -> None:
    if files > MOST_FILES:
        raise _refused(path, f"holds more than {MOST_FILES:,} files")


def _expect_new(path: Path, name: str, seen: dict[str, str]) -> None:
    """Refuse a second file of one name, also where only some systems take it for one: those to which a and A are the same.

    Args:
        path: of the archive.
        name: of a file in it.
        seen: the files and folders before it: as such systems see them -> as they are written. A folder ends in a slash.
    """
    parts = name.split("/")
    ways = [*("/".join(parts[:depth]) + "/" for depth in range(1, len(parts))), name]
    for way in ways:
        same = unicodedata.normalize("NFC", way).casefold()
        other = same.removesuffix("/") if way != name else f"{same}/"
        if other in seen or (same in seen and (way == name or seen[same] != way)):
            raise _refused(path, f"holds {name!r} and {seen.get(same) or seen[other]!r}, which are the same name on some systems")
        seen[same] = way


def _write(path: Path, entry: _Entry, file: Path) -> None:
    """Copy a file's content, which must have the declared length."""
    file.parent.mkdir(parents=True, exist_ok=True)
    left = entry.size
    with file.open("xb") as out:
        while block := entry.stream.read(CHUNK):
            left -= len(block)
            if left < 0:
                break
            out.write(block)
    if left:
        raise _refused(path, f"declares {entry.size:,} bytes for {entry.name!r}, but its content has another length")


def _refused(path: Path, why: str) -> InvalidFile:
    return InvalidFile(f"{path} {why}", "get it again from its author; nothing in it was used")
