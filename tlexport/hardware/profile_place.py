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
    """The file of a profile's tables."""

    path: Path
    profile: Profile  # the existing one, or the one that the new one extends
    base: str | None  # the profile that a new one extends; None: the file exists

    def text(self) -> str:
        """The text of the existing file, or of the new one."""
        if self.base is None:
            return self.path.read_bytes().decode("utf-8-sig")
        return profile_text(self.path.stem, load_profile(self.base), self.path.parent)

    def write(self, new: Sequence[CalibratedModel | Sharpened], files: dict[str, bytes]) -> None:
        """Write the profile with its own tables; new tables replace those with the same key. See ``calibration_tables.py``."""
        tables: Tables = (*self.profile.calibration, *self.profile.sharpened) if self.base is None else ()
        # corrections from real runs hold for the calibration that they were computed with
        timed = {table.key for table in new if isinstance(table, CalibratedModel)}
        same = {(type(table), table.key) for table in new}
        kept = [t for t in tables if (type(t), t.key) not in same and not (isinstance(t, Sharpened) and t.key in timed)]
        write_tables(self.path, self.text(), [*kept, *new], files)


def expect_own_name(name: str) -> None:
    """Raises UsageError if a profile with its own tables cannot have this name."""
    if name.endswith((".json", ".toml")):
        raise UsageError(
            f"{name} is a file; the name of a profile was expected",
            "give its name, without folder and ending; measurements come after --from",
        )
    expect_name(name, "; power modes have no tables")


def find_place(name: str, base: str | None, folder: Path | None) -> Place:
    """The file for a profile's tables, and the profile that it extends if it is new.

    Raises:
        UsageError: not a name; the profile has tables in another folder; the file extends another profile than ``base``; no such base.
        InvalidFile: the existing file is not a valid profile.
    """
    expect_own_name(name)
    known = load_file(name) if name in profile_names() else None
    own = known if known and not is_shipped(known.path) else None
    path = (folder or (own.path.parent if own else FOLDER)) / f"{name}.toml"
    if path.exists():
        file = load_file(str(path))
        if base is not None and file.written.get("extends") != base:
            raise UsageError(f"{path} exists and does not extend {base}", "leave out --base, or choose another name")
        return Place(path, file.profile(), None)
    if own and (own.profile().calibration or own.profile().sharpened):
        raise UsageError(
            f"{name} is {own.path}, whose calibration does not apply to {path}", f"leave out --out, or: --out {own.path.parent}"
        )
    base = base or (name if known else shipped_here())
    return Place(path, load_parent(base, "--base"), base)
