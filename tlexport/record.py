"""What all records have in common: immutable, checked on reading, strict about keys, written as one JSON file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from tlexport.errors import InvalidFile
from tlexport.files import new_file


class Record(BaseModel):
    """Base of every noun: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Self:
        """Validate plain data.

        Args:
            data: keys and values as read from a file.
            where: what to call the source in an error, usually its path.

        Raises:
            InvalidFile: names each wrong key, what was found, what was expected and the nearest known key.
        """
        try:
            # through JSON, because only there does pydantic's strict mode (no "17" for 17, no 1 for true) take a list for a tuple
            return cls.model_validate_json(json.dumps(data), strict=True)
        except TypeError as error:
            raise InvalidFile(f"{where} holds a value that no key takes, such as a date without quotes: {error}") from None
        except ValidationError as error:
            raise InvalidFile(f"{where} is not a valid {cls.__name__.lower()}:\n" + "\n".join(_explain(cls, error))) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read from a JSON file. Raises InvalidFile when it is missing, not JSON, or not this record."""
        return cls.parse(read_json(path), str(path))

    def write(self, path: Path) -> None:
        """Write as JSON beside ``path``, then rename."""
        with new_file(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InvalidFile: no such file, not UTF-8, not JSON, or not an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidFile(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidFile(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidFile(f"{path} holds a JSON {type(data).__name__}, an object was expected")
    return data


def nearest(word: str, known: list[str]) -> str:
    """A clause such as ``"; did you mean 'budget'?"``, or nothing when no known word is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _records_in(annotation: Any) -> list[type[BaseModel]]:
    """The record types inside an annotation such as ``Fact[int] | None`` or ``tuple[Sample, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for argument in get_args(annotation) for record in _records_in(argument)]


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys of the record that lies at ``path`` in ``model``; none when there is no record there."""
    records: list[type[BaseModel]] = [model]
    for part in path:
        fields = [record.model_fields[part] for record in records if isinstance(part, str) and part in record.model_fields]
        if fields:  # otherwise the part is a place in a list or a key of a dict: its records are those already found
            records = [record for field in fields for record in _records_in(field.annotation)]
    return [key for record in records for key in record.model_fields]


def _explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line for each thing that is wrong: key path, what was expected, what was found."""
    lines = []
    for item in error.errors(include_url=False):
        path, found = item["loc"], item["input"]
        if item["type"] == "extra_forbidden":
            text = f"unknown key{nearest(str(path[-1]), _known_keys(model, path[:-1]))}"
        elif item["type"] == "missing":
            text = "missing"
        else:
            text = item["msg"].removeprefix("Value error, ")
            if item["type"] == "model_type":
                text = f"a table with the keys {', '.join(_known_keys(model, path))} was expected"
            if not isinstance(found, dict | list):
                text += f" (found {found!r:.60})"
        lines.append(f"  {'.'.join(map(str, path)) or '(the whole)'}: {text}")
    return lines
