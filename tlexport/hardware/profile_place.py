"""The file that holds a profile's own calibration tables: where it is, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlexport.errors import UsageError
from tlexport.hardware.calibration import CalibratedModel, Sharpened
from tlexport.hardware.calibration_tables import write_tables
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import is_shipped, load_file, load_profile, profile_names, shipped_here
from tlexport.hardware.template import expect_name, load_parent, profile_text

FOLDER = Path("profiles")  # the first one where profiles are looked for
Tables = tuple[CalibratedModel | Sharpened, ...]


@dataclass(frozen=True)
class Place:
    """Where a profile's tables go."""

    path: Path
    profile: Profile  # as it is, or as what the new one extends
    base: str | None  # what a new one extends; None: the file is there

    def text(self) -> str:
        """What the file holds, now, or what a new one will hold."""
        if self.base is None:
            return self.path.read_bytes().decode("utf-8-sig")
        return profile_text(self.path.stem, load_profile(self.base), self.path.parent)

    def write(self, new: Sequence[CalibratedModel | Sharpened], files: dict[str, bytes]) -> None:
        """Write the profile: its own tables, with the new ones in place of those for the same. See ``calibration_tables.py``."""
        tables: Tables = (*self.profile.calibration, *self.profile.sharpened) if self.base is None else ()
        # real runs are held against what a calibration foretold: once there is another, they say nothing
        timed = {table.key for table in new if isinstance(table, CalibratedModel)}
        same = {(type(table), table.key) for table in new}
        kept = [t for t in tables if (type(t), t.key) not in same and not (isinstance(t, Sharpened) and t.key in timed)]
        write_tables(self.path, self.text(), [*kept, *new], files)


def expect_own_name(name: str) -> None:
    """Raises UsageError for what cannot be the name of a profile with tables of its own."""
    if name.endswith((".json", ".toml")):
        raise UsageError(
            f"{name} is a file, and what comes here is the name of a profile",
            "give its name, without folder and ending; measurements come after --from",
        )
    expect_name(name, "; power modes have no tables")


def find_place(name: str, base: str | None, folder: Path | None) -> Place:
    """The file that a profile's tables go into, and what it will extend if it is not there.

    Raises:
        UsageError: not a name; it has tables elsewhere; it is there and extends something other than ``base``; no such base.
        InvalidFile: what is there is not a valid profile.
    """
    expect_own_name(name)
    known = load_file(name) if name in profile_names() else None
    own = known if known and not is_shipped(known.path) else None
    path = (folder or (own.path.parent if own else FOLDER)) / f"{name}.toml"
    if path.exists():
        file = load_file(str(path))
        if base is not None and file.written.get("extends") != base:
            raise UsageError(f"{path} exists, and does not extend {base}", "leave out --base, or choose another name")
        return Place(path, file.profile(), None)
    if own and (own.profile().calibration or own.profile().sharpened):
        raise UsageError(
            f"{name} is {own.path}, whose calibration would not hold in {path}", f"leave out --out, or: --out {own.path.parent}"
        )
    base = base or (name if known else shipped_here())
    return Place(path, load_parent(base, "--base"), base)
