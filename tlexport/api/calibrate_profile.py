"""The verb of ``tlx profiles calibrate``: this machine describes itself, in a profile of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tlexport.api.calibrate import calibrate
from tlexport.artifact import Precision
from tlexport.bench.environment import default_threads
from tlexport.errors import StepFailed, Unsupported, UsageError
from tlexport.hardware.calibration import CalibratedModel, Sharpened
from tlexport.hardware.calibration_tables import write_tables
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import is_here, is_shipped, load_file, load_profile, profile_names, shipped_here
from tlexport.hardware.template import expect_name, load_parent, profile_text
from tlexport.ports import Progress, Silent

FOLDER = Path("profiles")  # the first one where profiles are looked for
MOST_SECONDS = 300.0
Tables = tuple[CalibratedModel | Sharpened, ...]


@dataclass(frozen=True)
class Settings:
    """What to time, and for how long."""

    base: str | None = None  # what a new profile extends; None: the one of that name, or the shipped one that fits this machine
    precisions: tuple[Precision, ...] = ()  # none: FP32 and INT8, where the profile has them
    threads: tuple[int, ...] = ()  # none: one, and one for each core
    seconds: float = MOST_SECONDS  # for each precision
    folder: Path | None = None  # where the profile is, or will be; None: where it is, else ./profiles


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
        """Write the profile: its own tables, with the new ones in place of those for the same. See ``profile_calibration.py``."""
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


def calibrate_profile(name: str | None, settings: Settings, progress: Progress | None = None) -> tuple[Path, tuple[CalibratedModel, ...]]:
    """Time the layers of probe networks on this machine, and write what was found into a profile of it.

    Args:
        name: of the profile; None: of the shipped one that fits this machine, whose place the user's own takes.
        settings: what to time.
        progress: where to tell what happens.

    The profile is made, as ``tlx profiles new`` does, where it is not there; of one that is there only the tables of the same runtime,
    precision and threads are replaced. Nothing is written before everything is timed.

    Returns:
        The profile's file, and the tables that are new in it.

    Raises:
        Unsupported: the profile is not of this machine, or does not run models on its CPU, or has no such precision.
        UsageError: see :func:`find_place`.
        StepFailed: too little time for anything, or nothing can be written there.
    """
    name = name or shipped_here()
    place = find_place(name, settings.base, settings.folder)
    precisions = _precisions(place.profile, settings)
    _expect_writable(place.path.parent)
    tables, files = [], {}
    for precision in precisions:
        threads = settings.threads or (1, default_threads())
        for model in calibrate(place.profile, precision, sorted(set(threads)), settings.seconds, progress or Silent()):
            file = f"{name}.{precision}-{model.threads}.layers.json"
            files[file] = (model.model_dump_json() + "\n").encode()
            tables.append(_table(model, precision, file, hashlib.sha256(files[file]).hexdigest()))
    place.write(tables, files)
    return place.path, tuple(tables)


def _precisions(profile: Profile, settings: Settings) -> tuple[Precision, ...]:
    if not is_here(profile):
        raise Unsupported(
            f"this machine is not what {profile.name} describes, and its times would say nothing about that",
            "run it there; or describe this machine under a name of its own: tlx profiles calibrate my-pc",
        )
    if profile.runtime != "onnxruntime" or profile.device is not None:
        raise Unsupported(
            f"{profile.name} runs its models on the GPU, and what can be calibrated is ONNX Runtime on a CPU",
            "measure models there: tlx bench, or in a bundle: python3 run.py build, python3 run.py bench",
        )
    both: tuple[Precision, ...] = ("fp32", "int8")
    return settings.precisions or tuple(precision for precision in both if precision in profile.precisions.value)


def _expect_writable(folder: Path) -> None:
    """Ask before the minutes of timing, not after them."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise StepFailed(f"cannot write into {folder}", "choose another --out")


def _table(model: DeviceModel, precision: Precision, file: str, sha256: str) -> CalibratedModel:
    return CalibratedModel(
        runtime="onnxruntime",
        precision=precision,
        threads=model.threads,
        file=file,
        sha256=sha256,
        date=date.today().isoformat(),
        cpu=model.environment.cpu,
        cores=model.environment.cores,
        version=model.environment.onnxruntime,
        probes=model.probes,
        error=round(model.error, 4),
        within_10=round(model.within_10, 4),
    )
