"""The device models beside a profile's file and their tables in it: read with their hashes checked, written atomically."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tlexport.errors import InvalidFile
from tlexport.hardware.calibration import CalibratedModel, Sharpened
from tlexport.hardware.device_model import DeviceModel
from tlexport.hardware.profile_file import OF_ONE_FILE
from tlexport.hardware.toml_lines import statements
from tlexport.storage.files import new_file, sha256_of

MARK = "# Written by tlx profiles calibrate, which replaces it; docs/profiles.md says what it is."


def read_device_model(profile: Path, entry: CalibratedModel) -> DeviceModel:
    """Read a device model that a profile names.

    Args:
        profile: the profile's file; the model is in the same folder.
        entry: its ``[[calibration]]``.

    Raises:
        InvalidFile: it is missing, its hash differs from the profile's, or it is for another runtime, precision or number of threads.
    """
    path = profile.with_name(entry.file)
    again = f"restore that file, or calibrate again on the device: tlx profiles calibrate {profile.stem} --precision {entry.precision}"
    if not path.is_file():
        raise InvalidFile(f"{path}, the calibration that {profile} names, does not exist", again)
    if sha256_of(path) != entry.sha256:
        raise InvalidFile(f"{path} is not the calibration that {profile} was written with: its hash differs", again)
    model = DeviceModel.read(path)
    if (model.runtime, model.precision, model.threads) != entry.key:
        found = f"{model.runtime} in {model.precision} with {model.threads} threads"
        raise InvalidFile(f"{path} is a calibration of {found}, and {profile} names it for {entry.precision}, {entry.threads}", again)
    return model


def write_tables(path: Path, text: str, tables: Sequence[CalibratedModel | Sharpened], files: Mapping[str, bytes]) -> None:
    """Write a profile with these tables, and the device models beside it.

    All files are written under temporary names first; then the models are renamed, and the profile last.

    Args:
        path: the profile's file.
        text: the rest of the profile. Tables in it are replaced.
        tables: all tables of the profile.
        files: contents of new device models by name.

    Raises:
        StepFailed: the file system refused.
    """
    with ExitStack() as stack:  # exits, and so renames, in reverse order
        profile = stack.enter_context(new_file(path))
        with profile.open("w", encoding="utf-8", newline="") as stream:
            stream.write(with_tables(text, tables))
        for name, content in files.items():
            stack.enter_context(new_file(path.with_name(name))).write_bytes(content)


def with_tables(text: str, tables: Sequence[CalibratedModel | Sharpened]) -> str:
    """A profile's text with its tables replaced by these. The rest is unchanged.

    Raises:
        InvalidFile: the tables cannot be separated from the rest.
    """
    kept = _without_tables(text)
    left = {key: value for key, value in tomllib.loads(text).items() if key not in OF_ONE_FILE}
    if tomllib.loads(kept) != left:
        raise InvalidFile("the tables that tlx wrote cannot be separated from the rest of the profile", "remove them by hand first")
    return kept.rstrip("\n") + "\n" + "".join(_table(table) for table in tables)


def _without_tables(text: str) -> str:
    """The text without its calibration tables. Comments and line ends are preserved."""
    kept = []
    table: str | None = None  # first key of the last header
    for statement in statements(text):
        first = next(iter(statement.defines), "")
        if statement.header:
            table = first
        ours = (first if table is None else table) in OF_ONE_FILE
        comment = statement.text.lstrip().startswith("#")
        if statement.text.strip() != MARK and (comment or not ours):
            kept.append(statement.text)
    return "".join(kept)


def _table(record: CalibratedModel | Sharpened) -> str:
    name = "calibration" if isinstance(record, CalibratedModel) else "sharpened"
    # texts, numbers and lists of texts: for these JSON's notation is TOML's, save for one character
    keys = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in record.model_dump(mode="json").items())
    return f"\n{MARK}\n[[{name}]]\n{keys}".replace("\x7f", "\\u007f")
