"""Profile files: from TOML, the files that it extends and the requested power mode to one Profile.

All errors are reported together, with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tlexport.errors import InvalidFile, UsageError
from tlexport.hardware.profile import NAME, Profile
from tlexport.hardware.schema import as_written
from tlexport.hardware.toml_lines import KeyLines
from tlexport.record import Mistake, nearest
from tlexport.storage.untrusted import LARGEST_TOML, read_text, read_toml

Table = dict[str, Any]
Where = tuple[int | str, ...]
Find = Callable[[str, Path], tuple[Path, str | None]]  # (value of `extends`, the file that contains it) -> the extended file, and its mode
LONGEST_CHAIN = 16  # files that extend one another
FACT = ("value", "source", "status")
OF_ONE_FILE = ("calibration", "sharpened")  # measured on one machine in one power mode, so never inherited


class _Wrong(NamedTuple):
    path: Path  # the file that holds it
    mistake: Mistake


@dataclass(frozen=True)
class ProfileFile:
    """A profile's file, and what it extends."""

    path: Path
    written: Table  # content of the file
    parent: ProfileFile | None  # the file that it extends
    parent_mode: str | None  # mode of that file

    def chain(self) -> tuple[ProfileFile, ...]:
        """This file, the one that it extends, and so on."""
        return (self, *(self.parent.chain() if self.parent else ()))

    def modes(self) -> dict[str, str]:
        """Its power modes with their titles."""
        modes = self._whole().get("modes")
        tables = modes if isinstance(modes, dict) else {}
        return {name: str(table.get("title", name)) if isinstance(table, dict) else name for name, table in tables.items()}

    def expect_mode(self, mode: str) -> None:
        """Raise UsageError, with the known modes, for an unknown mode."""
        name, modes = self.path.stem, list(self.modes())
        if not modes:
            raise UsageError(f"the profile {name} has no power modes, and so no {mode!r}", f"name it alone: {name}")
        if mode not in modes:
            raise UsageError(f"the profile {name} has no mode {mode!r}{nearest(mode.lower(), modes)}", f"its modes: {', '.join(modes)}")

    def profile(self, mode: str | None = None) -> Profile:
        """The profile, with the figures of one of its modes.

        Raises:
            UsageError: unknown mode.
            InvalidFile: the profile is invalid; the message lists every error with file and line.
        """
        if mode is not None:
            self.expect_mode(mode)
        return self._checked([mode])[0]

    def check(self) -> tuple[Profile, ...]:
        """Check the profile without a mode and in each mode. Raises InvalidFile with all errors."""
        return self._checked([None, *(name for name in self.modes() if re.fullmatch(NAME, name))])

    def _whole(self) -> Table:
        """All keys, including power modes: those of the file, then those of the extended file."""
        inherited: Table = {}
        if self.parent is not None:
            inherited = self.parent._whole()
            if self.parent_mode is not None:
                inherited = _in_mode(inherited, self.parent_mode)
            inherited = {key: value for key, value in inherited.items() if key not in OF_ONE_FILE}
            for _, path in self._omitted():
                inherited = _without(inherited, path)
        return merged(inherited, {key: value for key, value in self.written.items() if key not in ("extends", "omit")})

    def _omitted(self) -> list[tuple[int, list[str]]]:
        """Each entry of `omit`: its index in the list, and its key path."""
        paths = self.written.get("omit")
        return [(place, path.split(".")) for place, path in enumerate(paths if isinstance(paths, list) else []) if isinstance(path, str)]

    def _checked(self, modes: Sequence[str | None]) -> tuple[Profile, ...]:
        """Check each file and the combined keys against the schema."""
        whole, profiles = self._whole(), []
        wrong = [_Wrong(file.path, mistake) for file in self.chain() for mistake in file._mistakes()]
        for mode in modes:
            checked = Profile.check(_in_mode(whole, mode) | {"mode": mode} if mode else _without(whole, ["modes"]))
            if isinstance(checked, Profile):
                profiles.append(checked)
                continue
            for mistake in checked:
                if mode and not mistake.where and _Wrong(self.path, mistake) in wrong:
                    continue  # also wrong without the mode
                inside = ("modes", mode, *mistake.where) if mode else mistake.where
                file = self._holding(inside)
                if mode and file is None and mistake.where:  # not a key of the mode: reported for the profile itself
                    inside, file = mistake.where, self._holding(mistake.where)
                wrong.append(_Wrong(file or self.path, Mistake(inside, mistake.text)))
        if wrong:
            raise self._invalid(wrong)
        return tuple(profiles)

    def _mistakes(self) -> Iterator[Mistake]:
        """The errors in this file alone."""
        checked = as_written().check(self.written)
        if isinstance(checked, tuple):
            yield from checked
        inherited: Table = self.parent._whole() if self.parent else {}
        for place, path in self._omitted():
            missing = _missing(inherited, path)
            if missing is not None:
                yield Mistake(("omit", place), f"there is no {'.'.join(path)!r} to leave out{missing}")

    def _holding(self, where: Where) -> Path | None:
        """The first file of the chain that has this very key."""
        keys = [part for part in where if isinstance(part, str)]
        return next((file.path for file in self.chain() if keys and _missing(file.written, keys) is None), None)

    def _invalid(self, wrong: list[_Wrong]) -> InvalidFile:
        lines = {file.path: KeyLines(read_text(file.path, "TOML", LARGEST_TOML)) for file in self.chain()}
        shown: dict[Mistake, tuple[bool, int, str]] = {}
        for path, mistake in wrong:
            line = lines[path].of(mistake.where)
            place = ", ".join([*([str(path)] if path != self.path else []), *([f"line {line}"] if line else [])])
            shown.setdefault(mistake, (path != self.path, line or 0, f"  {place}{': ' if place else ''}{mistake}"))
        return InvalidFile(f"{self.path} is not a valid profile:\n" + "\n".join(text for *_, text in sorted(shown.values())))


def read_profile_file(path: Path, find: Find, below: tuple[Path, ...] = ()) -> ProfileFile:
    """Read a profile's file and the files that it extends.

    Args:
        path: the file.
        find: resolves ``extends`` of a file to a file and a mode. Raises UsageError for an unknown name.
        below: the files that lead to this one; each extends the next.

    Raises:
        InvalidFile: a file cannot be read, or ``extends`` has no target or is circular (with the chain).
    """
    written = read_toml(path)
    extends = written.get("extends")
    if not isinstance(extends, str):
        return ProfileFile(path, written, None, None)
    names = " -> ".join([*(file.stem for file in (*below, path)), extends])
    line = KeyLines(read_text(path, "TOML", LARGEST_TOML)).of(("extends",))
    try:
        parent_path, mode = find(extends, path)
        if parent_path.resolve() in [file.resolve() for file in (*below, path)]:
            raise UsageError(f"goes in a circle: {names}", "remove one of them")
        if len(below) >= LONGEST_CHAIN:
            raise UsageError(f"more than {LONGEST_CHAIN} files extend one another")
        if not parent_path.is_file():
            raise UsageError(f"there is no file {parent_path}")
        parent = read_profile_file(parent_path, find, (*below, path))
        if mode is not None:
            parent.expect_mode(mode)
    except UsageError as error:
        chain = "" if names in error.message else f" ({names})"
        raise InvalidFile(f"{path}, line {line}: extends: {error.message}{chain}", error.hint) from None
    return ProfileFile(path, written, parent, mode)


def merged(inherited: Table, own: Table) -> Table:
    """Keys of both; ``own`` takes precedence. Tables are merged; a fact is replaced as a whole, with its source."""
    whole = dict(inherited)
    for key, value in own.items():
        above = whole.get(key)
        fact = isinstance(value, dict) and any(name in value and not isinstance(value[name], dict) for name in FACT)
        whole[key] = merged(above, value) if isinstance(above, dict) and isinstance(value, dict) and not fact else value
    return whole


def _in_mode(whole: Table, mode: str) -> Table:
    """The keys with those of a mode applied, and without the modes."""
    modes = whole.get("modes")
    overlay = modes.get(mode) if isinstance(modes, dict) else None
    keys = dict(overlay) if isinstance(overlay, dict) else {}
    whole = {key: value for key, value in whole.items() if key not in OF_ONE_FILE}
    title = f"{whole.get('title', '')}, {keys.pop('title', mode)}"
    return merged(_without(whole, ["modes"]), keys) | {"title": title}


def _without(table: Table, path: Sequence[str]) -> Table:
    """A copy without the key at a path, if it is there."""
    key, *inner = path
    below = table.get(key)
    if inner:
        return table | {key: _without(below, inner)} if isinstance(below, dict) else table
    return {name: value for name, value in table.items() if name != key}


def _missing(table: Table, path: Sequence[str]) -> str | None:
    """None if a path exists; otherwise the nearest path as a clause of a message, or an empty text."""
    key, *inner = path
    if key not in table:
        return nearest(key, list(table))
    below = table[key]
    return _missing(below, inner) if inner and isinstance(below, dict) else ("" if inner else None)
