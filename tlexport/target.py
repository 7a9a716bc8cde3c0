"""Target: from the name after ``--target`` to a profile, and whether this machine is the device that the profile describes."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from tlexport.errors import InvalidFile, UsageError
from tlexport.profile import Profile
from tlexport.record import nearest

JETSON = "jetson"  # as a target: the Jetson this runs on
DEFAULT_JETSON = "jetson-orin-nano"  # what that means on a machine that is none
VARIABLE = "TLX_PROFILES"  # folders with profiles, separated as in PATH


@dataclass(frozen=True)
class Target:
    """What a target name stands for."""

    profile: Profile
    path: Path  # the file it was read from
    here: bool  # this machine is that device
    note: str  # what the user should be told about the choice; empty where there is nothing


def profile_names() -> tuple[str, ...]:
    """Names of all profiles that can be found, sorted. Raises UsageError when $TLX_PROFILES names no folder."""
    return tuple(sorted(_found()))


def profile_path(name: str) -> Path:
    """The file of a profile.

    Args:
        name: a profile's name, or a path that ends in ``.toml``. Names are looked up in ``./profiles``, then in the folders of
            $TLX_PROFILES, then among those that tlexport ships.

    Raises:
        UsageError: no such profile (with the nearest name), or $TLX_PROFILES names no folder.
    """
    if name.endswith(".toml"):
        return Path(name)
    found = _found()
    if name not in found:
        guess = nearest(name, [*found, JETSON])
        raise UsageError(f"there is no profile {name!r}{guess}", f"known: {', '.join(sorted(found))}; or give the path of a .toml file")
    return found[name][0]


def load_profile(name: str) -> Profile:
    """Read a profile.

    Args:
        name: as for :func:`profile_path`.

    Raises:
        UsageError: no such profile.
        InvalidFile: the file is not a valid profile, or calls itself by another name than its file does.
    """
    path = profile_path(name)
    profile = Profile.read_toml(path)
    if profile.name != path.stem:
        raise InvalidFile(f"{path} calls itself {profile.name!r}; a profile is found by its file's name", f'write: name = "{path.stem}"')
    return profile


def resolve(name: str, root: Path = Path("/"), machine: str = "") -> Target:
    """Find the profile of a target, and tell whether this machine is that device.

    Args:
        name: a profile's name, the path of a ``.toml`` file, or ``jetson``: the Jetson this runs on, and where it runs on
            none, or on one without a profile, ``jetson-orin-nano``, which the note then says.
        root: root of the file system that describes this machine.
        machine: this machine's architecture; default what ``platform.machine()`` says.

    Raises:
        UsageError: no such profile, or several fit this Jetson equally well.
        InvalidFile: a profile's file is not valid.
    """
    board, machine = this_board(root), _architecture(machine or platform.machine())
    note = ""
    if name == JETSON and JETSON not in _found():  # a user's own profile of that name comes first
        name, note = _this_jetson(board, machine)
    profile, path = load_profile(name), profile_path(name)
    hidden = [] if name.endswith(".toml") else _found()[name][1:]
    if hidden:
        note = f"{note}{'; ' if note else ''}{path} is used; it takes the place of {', '.join(map(str, hidden))}"
    return Target(profile, path, _is_here(profile, board, machine), note)


def is_here(profile: Profile) -> bool:
    """Whether this machine is the device that a profile describes."""
    return _is_here(profile, this_board(), _architecture(platform.machine()))


def this_board(root: Path = Path("/")) -> str | None:
    """What the board calls itself, such as ``NVIDIA Jetson Nano Developer Kit``; None on a machine without a device tree."""
    try:
        text = (root / "proc/device-tree/model").read_bytes()
    except OSError:
        return None
    return text.rstrip(b"\0\n").decode("utf-8", errors="replace") or None


def _shipped() -> Path:
    package = Path(__file__).parent
    inside = package / "profiles"  # in a wheel; in a checkout they lie beside the package
    return inside if inside.is_dir() else package.parent / "profiles"


def _found() -> dict[str, list[Path]]:
    """The files of each name, the one that counts first."""
    named = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for folder in named:
        if not folder.is_dir():
            raise UsageError(f"${VARIABLE} names {folder}, which is not a folder", f"create it, or take it out of ${VARIABLE}")
    found: dict[str, list[Path]] = {}
    seen = set()  # the current directory may be the checkout, so that its profiles/ is the shipped one
    for folder in (Path("profiles"), *named, _shipped()):
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            for path in folder.glob("[!.]*.toml"):
                found.setdefault(path.stem, []).append(path)
    return found


def _architecture(machine: str) -> str:
    """One name where operating systems differ: Windows says AMD64 and macOS arm64 for what Linux calls x86_64 and aarch64."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())


def _is_here(profile: Profile, board: str | None, machine: str) -> bool:
    wanted = profile.match
    return machine == wanted.machine and (wanted.device_tree is None or wanted.device_tree in (board or ""))


def _this_jetson(board: str | None, machine: str) -> tuple[str, str]:
    """Name of the profile that ``jetson`` means on this machine, and the note that says so."""
    if board is None or "Jetson" not in board:
        return DEFAULT_JETSON, f"'{JETSON}' stands for {DEFAULT_JETSON}, because this machine is not a Jetson"
    fit: dict[str, int] = {}  # "Jetson Nano 2GB" says more about a board than "Jetson Nano": the longer text wins
    for name in profile_names():
        profile = load_profile(name)
        if profile.match.device_tree and _is_here(profile, board, machine):
            fit[name] = len(profile.match.device_tree)
    best = [name for name, length in fit.items() if length == max(fit.values())]
    if len(best) > 1:
        raise UsageError(f"'{JETSON}' could be {' or '.join(best)}: all of them describe {board!r}", f"name one: --target {best[0]}")
    if best:
        return best[0], f"'{JETSON}' stands for {best[0]}: this is a {board!r}"
    return DEFAULT_JETSON, (
        f"'{JETSON}' stands for {DEFAULT_JETSON}, because no profile describes this board, {board!r}; "
        f"engines built for one board do not run on another: write a profile for it (docs/profiles.md)"
    )
