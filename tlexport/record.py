"""The base class of all records: immutable, validated when read, strict about keys, stored as one JSON file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tlexport.errors import InvalidFile
from tlexport.storage.files import new_file
from tlexport.storage.untrusted import LARGEST_JSON, read_object

Positive = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # lower-case hexadecimal


class Mistake(NamedTuple):
    """An error in plain data."""

    where: tuple[int | str, ...]  # key path; empty: the whole value
    text: str  # expected and found

    def __str__(self) -> str:
        """The key path and the text."""
        return f"{'.'.join(map(str, self.where)) or '(the whole)'}: {self.text}"


class Record(BaseModel):
    """Base class of every noun: frozen, no unknown keys, no implicit type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    LARGEST: ClassVar[int] = LARGEST_JSON  # largest file, bytes

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Self:
        """Validate plain data.

        Args:
            data: keys and values as read from a file.
            where: name of the source for errors, usually its path.

        Raises:
            InvalidFile: names each wrong key, what was found, what was expected and the nearest known key.
        """
        checked = cls.check(data)
        if isinstance(checked, cls):
            return checked
        raise InvalidFile(f"{where} is not a valid {cls.__name__.lower()}:\n" + "\n".join(f"  {mistake}" for mistake in checked))

    @classmethod
    def check(cls, data: Mapping[str, Any]) -> Self | tuple[Mistake, ...]:
        """Validate plain data. Returns the record, or all errors."""
        if odd := tuple(_not_json(data)):
            return odd
        try:
            # through JSON: only there does pydantic's strict mode (no "17" for 17, no 1 for true) accept a list for a tuple
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            return tuple(_explain(cls, error))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read from a JSON file. Raises InvalidFile if it is missing, not JSON, or not this record."""
        return cls.parse(read_object(path, largest=cls.LARGEST), str(path))

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        with new_file(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def nearest(word: str, known: list[str]) -> str:
    """A clause such as ``"; did you mean 'budget'?"``, or an empty text if no known word is similar."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _not_json(value: object, where: tuple[int | str, ...] = ()) -> Iterator[Mistake]:
    """The values without a JSON type, such as the dates and times of TOML."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_json(inner, (*where, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _not_json(inner, (*where, index))
    elif not isinstance(value, str | int | float | None):
        yield Mistake(where, f"no key has values of this type; a date may lack its quotes (found {value!s:.60})")


def _records_in(annotation: Any) -> list[type[BaseModel]]:
    """The record types inside an annotation such as ``Fact[int] | None`` or ``tuple[Sample, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for argument in get_args(annotation) for record in _records_in(argument)]


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys of the record at ``path`` in ``model``; empty if there is none."""
    records: list[type[BaseModel]] = [model]
    for part in path:
        fields = [record.model_fields[part] for record in records if isinstance(part, str) and part in record.model_fields]
        if fields:  # otherwise the part is an index of a list or a key of a dict, and the records stay the same
            records = [record for field in fields for record in _records_in(field.annotation)]
    return [key for record in records for key in record.model_fields]


def _explain(model: type[BaseModel], error: ValidationError) -> Iterator[Mistake]:
    """All errors: key path, expected, found."""
    for item in error.errors(include_url=False):
        path, found = tuple(part for part in item["loc"] if part != "[key]"), item["input"]
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
        yield Mistake(path, text)
