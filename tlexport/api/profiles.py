"""The verbs of ``tlx profiles`` that write files: a new profile, and the JSON Schema of profiles."""

from __future__ import annotations

import json
from pathlib import Path

from tlexport.errors import InvalidFile, UsageError
from tlexport.hardware.schema import json_schema
from tlexport.hardware.template import expect_name, load_parent, profile_text
from tlexport.storage.files import new_file
from tlexport.storage.untrusted import read_object


def new_profile(name: str, parent: str, folder: Path) -> Path:
    """Write a profile that extends another one, for the user to edit.

    Args:
        name: of the new profile.
        parent: ``NAME`` or ``NAME:MODE`` of the profile that it extends.
        folder: the folder of ``NAME.toml``; created if missing.

    Returns:
        The file.

    Raises:
        UsageError: not a name; there is no such parent; the file exists.
    """
    expect_name(name)
    extended = load_parent(parent, "--from")
    path = folder / f"{name}.toml"
    text = profile_text(name, extended, folder)
    if path.exists():
        raise UsageError(f"{path} exists and was not changed", "choose another name, or remove it first")
    with new_file(path) as file:
        file.write_text(text, encoding="utf-8")
    return path


def write_schema(path: Path) -> None:
    """Write the JSON Schema of profiles, or replace an earlier one. Raises UsageError if the path holds anything else."""
    schema = json_schema()
    if path.exists():
        try:
            known = read_object(path).get("title") == schema["title"]
        except InvalidFile:
            known = False
        if not known:
            raise UsageError(f"{path} exists and is not a schema of profiles; it was not changed", "choose another --out")
    with new_file(path) as file:
        file.write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
