"""Resolves ``--target`` to a profile, and detects whether this machine is that device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tlexport.errors import InvalidFile, UsageError
from tlexport.hardware.machine import Machine, software_note, this_machine
from tlexport.hardware.profile import Profile
from tlexport.hardware.profile_file import ProfileFile, read_profile_file
from tlexport.record import nearest

JETSON = "jetson"  # as a target: the Jetson that runs tlx
DEFAULT_JETSON = "jetson-orin-nano"  # its meaning on other machines
VARIABLE = "TLX_PROFILES"  # folders with profiles, separated as in PATH


@dataclass(frozen=True)
class Target:
    """A resolved target name."""

    profile: Profile
    file: ProfileFile  # the profile's file
    here: bool  # this machine is that device
    note: str  # a note on the choice for the user; may be empty

    @property
    def path(self) -> Path:
        """Path of the profile's file."""
        return self.file.path


def profile_names() -> tuple[str, ...]:
    """Names of all profiles, sorted. Raises UsageError if $TLX_PROFILES names a folder that does not exist."""
    return tuple(sorted(_found()))


def profile_path(name: str) -> Path:
    """The file of a profile.

    Args:
        name: a profile's name, or a path that ends in ``.toml``. Names are looked up in ``./profiles``, then in the folders of
            $TLX_PROFILES, then among those that tlexport ships.

    Raises:
        UsageError: no such profile (with the nearest name), or a folder in $TLX_PROFILES does not exist.
    """
    return _paths(name)[0]


def load_file(name: str) -> ProfileFile:
    """Read a profile's file and what it extends.

    Args:
        name: as for :func:`profile_path`, without a mode.

    Raises:
        UsageError: no such profile.
        InvalidFile: a file cannot be read, its ``name`` is not that of the file, or the profile that it extends does not exist.
    """
    path = profile_path(name)
    file = read_profile_file(path, _extended)
    own = file.written.get("name", path.stem)
    if isinstance(own, str) and own != path.stem:
        raise InvalidFile(f"{path} has the name {own!r}; a profile is found by the name of its file", f'write: name = "{path.stem}"')
    return file


def load_profile(name: str) -> Profile:
    """Read a profile.

    Args:
        name: ``NAME`` or ``NAME:MODE``, where NAME is as for :func:`profile_path`.

    Raises:
        UsageError: no such profile, or no such mode of it.
        InvalidFile: the file is not a valid profile, or its ``name`` is not that of the file.
    """
    name, mode = split_mode(name)
    return load_file(name).profile(mode)


def split_mode(name: str) -> tuple[str, str | None]:
    """``"jetson-nano:5w"`` -> ``("jetson-nano", "5w")``; None for a name or a path alone."""
    before, colon, mode = name.rpartition(":")
    return (before, mode) if colon and not name.endswith(".toml") else (name, None)


def resolve(name: str, root: Path = Path("/"), machine: str = "") -> Target:
    """Find the profile of a target, and whether this machine is that device.

    Args:
        name: a profile's name, the path of a ``.toml`` file, or ``jetson``. ``jetson`` means this Jetson; on another machine, or a
            Jetson without a profile, it means ``jetson-orin-nano``, with a note. Each may be followed by ``:MODE``, one of the
            profile's power modes. If this machine is that device but has another TensorRT or L4T version than the profile, the
            profile is used, with a note.
        root: root of the file system that describes this machine.
        machine: this machine's architecture; default: that of ``platform.machine()``.

    Raises:
        UsageError: no such profile or mode, or several profiles fit this Jetson equally well.
        InvalidFile: a profile's file is invalid.
    """
    here = this_machine(root, machine)
    name, mode = split_mode(name)
    note = ""
    if name == JETSON and JETSON not in _found():  # a user's own profile of that name takes precedence
        name, note = _this_jetson(here)
    file = load_file(name)
    profile, hidden = file.profile(mode), _paths(name)[1:]
    notes = [note, f"{file.path} is used; it overrides {', '.join(map(str, hidden))}" if hidden else ""]
    if fits := here.fits(profile.match):
        notes.append(software_note(profile, root))
    return Target(profile, file, fits, "; ".join(text for text in notes if text))


def is_here(profile: Profile) -> bool:
    """Whether this machine is the profile's device. The power mode is ignored: it is set on the device."""
    return this_machine().fits(profile.match)


def is_shipped(path: Path) -> bool:
    """Whether tlexport ships a profile's file."""
    return path.resolve().parent == _shipped().resolve()


def shipped_here(root: Path = Path("/"), machine: str = "") -> str:
    """Name of the most specific shipped profile of this machine, among those that run models on the CPU.

    Args:
        root: root of the file system that describes this machine.
        machine: this machine's architecture; default: that of ``platform.machine()``.

    Raises:
        UsageError: no profile fits, or several fit equally well.
    """
    here = this_machine(root, machine)
    profiles = [load_profile(str(path)) for path in sorted(_shipped().glob("[!.]*.toml"))]
    fitting = [p for p in profiles if p.runtime == "onnxruntime" and p.device is None and here.fits(p.match)]
    much = {p.name: (bool(p.match.device_tree), here.fit(p.match), len(p.match.cpu or "")) for p in fitting}
    best = [name for name, fit in much.items() if fit == max(much.values())]
    if len(best) != 1:
        found = f"{' and '.join(best)} fit this machine equally well" if best else f"no profile describes this {here.architecture} machine"
        raise UsageError(found, "name the nearest one: --base PROFILE")
    return best[0]


def _paths(name: str) -> list[Path]:
    """The files of a name, the effective one first; see :func:`profile_path`."""
    if name.endswith(".toml"):
        return [Path(name)]
    found = _found()
    if name not in found:
        guess = nearest(name, [*found, JETSON])
        raise UsageError(f"there is no profile {name!r}{guess}", f"known: {', '.join(sorted(found))}; or give the path of a .toml file")
    return found[name]


def _extended(text: str, by: Path) -> tuple[Path, str | None]:
    """The file, and the mode, that ``extends`` names in a file.

    A path is relative to that file's folder. A file that extends its own name extends the profile that it replaces.
    """
    name, mode = split_mode(text)
    if name.endswith(".toml"):
        return by.parent / name, mode
    paths = _paths(name)
    if name == by.stem:
        taken = [path.resolve() for path in paths]
        after = paths[taken.index(by.resolve()) + 1 :] if by.resolve() in taken else paths
        return (after or [by])[0], mode
    return paths[0], mode


def _shipped() -> Path:
    package = Path(__file__).parents[1]
    inside = package / "profiles"  # in a wheel; in a checkout they are beside the package
    return inside if inside.is_dir() else package.parent / "profiles"


def _found() -> dict[str, list[Path]]:
    """The files of each name, the effective one first."""
    named = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for folder in named:
        if not folder.is_dir():
            raise UsageError(f"${VARIABLE} names {folder}, which is not a folder", f"create it, or remove it from ${VARIABLE}")
    found: dict[str, list[Path]] = {}
    seen = set()  # the current directory may be the checkout, so that its profiles/ is the shipped one
    for folder in (Path("profiles"), *named, _shipped()):
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            for path in folder.glob("[!.]*.toml"):
                found.setdefault(path.stem, []).append(path)
    return found


def _this_jetson(here: Machine) -> tuple[str, str]:
    """Name of the profile for ``jetson`` on this machine, and the note about it."""
    if "Jetson" not in (here.board or "") and "nvidia,tegra" not in here.compatible:  # the TX2's board name is quill
        return DEFAULT_JETSON, f"'{JETSON}' means {DEFAULT_JETSON}, because this machine is not a Jetson"
    matches = {name: load_profile(name).match for name in profile_names()}
    fit = {name: here.fit(match) for name, match in matches.items() if match.device_tree and here.fits(match)}
    best = [name for name, much in fit.items() if much == max(fit.values())]
    if len(best) > 1:
        raise UsageError(f"'{JETSON}' could be {' or '.join(best)}: all of them describe {here.board!r}", f"name one: --target {best[0]}")
    if best:
        return best[0], f"'{JETSON}' means {best[0]}: this is a {here.board!r}"
    return DEFAULT_JETSON, (
        f"'{JETSON}' means {DEFAULT_JETSON}, because no profile describes this board, {here.board!r}; "
        f"engines built for one board do not run on another: write a profile for it (docs/profiles.md)"
    )
