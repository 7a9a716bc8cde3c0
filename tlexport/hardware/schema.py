"""The schema of a profile's file: the keys of a Profile, optional if ``extends`` provides them, and three more.

Derived from :class:`~tlexport.hardware.profile.Profile`, so that there is one schema: for reading files, and as JSON Schema for editors.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import Field, create_model

from tlexport.hardware.profile import NAME, Budget, Fact, Hardware, Profile
from tlexport.record import Record

R = TypeVar("R", bound=Record)
FILE = "profile.schema.json"  # beside the profiles, for `#:schema ./profile.schema.json`


@cache
def _partial(record: type[R]) -> type[R]:
    """The record with every key optional, including nested tables. A fact stays complete: a figure requires its source."""
    fields: dict[str, Any] = {}
    for name, field in record.model_fields.items():
        inside = _loosened(field.annotation)
        constrained = Annotated[(inside, *field.metadata)] if field.metadata else inside
        fields[name] = (constrained | None, Field(None, description=field.description))
    partial = create_model(record.__name__, __base__=Record, __module__=__name__, **fields)
    partial.__doc__ = record.__doc__  # description of the table in the JSON Schema
    return partial  # type: ignore[return-value]


def _loosened(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Record) and not issubclass(annotation, Fact):
        return _partial(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_loosened(argument) for argument in get_args(annotation))]  # noqa: UP007 - the members are computed
    return annotation


@cache
def as_written() -> type[Record]:
    """The record of one profile's file, before the keys of the extended profile are added."""
    differing: dict[str, Any] = {
        "title": (str | None, Field(None, description="title of the mode, such as '15 W'; default: its name")),
        "hardware": (_partial(Hardware) | None, Field(None, description="figures that differ in this mode")),
        "budget": (_partial(Budget) | None, Field(None, description="limits that differ in this mode")),
    }
    mode: Any = create_model("Mode", __base__=Record, **differing)
    inherited = {name: (field.annotation, field) for name, field in _partial(Profile).model_fields.items() if name != "mode"}
    own: dict[str, Any] = {
        "name": (str, Field(pattern=NAME, description=Profile.model_fields["name"].description)),
        "extends": (str | None, Field(None, description="profile, NAME or NAME:MODE, that provides the keys missing in this file")),
        "omit": (tuple[str, ...] | None, Field(None, description="key paths of the extended profile to leave out, such as 'modes'")),
        "modes": (dict[Annotated[str, Field(pattern=NAME)], mode] | None, Field(None, description="power modes: NAME:MODE")),
    }
    return create_model("Profile", __base__=Record, **(inherited | own))


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 7) of a profile's file. Editors with Taplo (Even Better TOML) use it for completion and checks."""
    schema = as_written().model_json_schema()
    facts = {f"#/$defs/{name}": kind for name, kind in schema["$defs"].items() if name.startswith("Fact")}
    schema["$defs"] = {name: kind for name, kind in schema["$defs"].items() if not name.startswith("Fact")}
    found: dict[str, Any] = _for_toml(schema, facts)
    needed = {"properties": {name: {"required": keys} for name, keys in _needed_tables()}, "required": _needed(Profile)}
    heading = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "tlexport profile",
        "description": "A device, profiles/NAME.toml. docs/profiles.md explains the keys.",
    }
    return heading | found | {"anyOf": [{"required": ["extends"]}, needed]}


def _needed(record: type[Record]) -> list[str]:
    return [name for name, field in record.model_fields.items() if field.is_required()]


def _needed_tables() -> list[tuple[str, list[str]]]:
    """The tables of a profile that have required keys, and which."""
    tables = []
    for name, field in Profile.model_fields.items():
        if get_origin(field.annotation) is tuple:
            continue  # a list of tables; each has its own required keys
        for record in (field.annotation, *get_args(field.annotation)):
            if isinstance(record, type) and issubclass(record, Record) and not issubclass(record, Fact) and _needed(record):
                tables.append((name, _needed(record)))
    return tables


def _for_toml(node: Any, facts: Mapping[str, Any]) -> Any:
    """A part of pydantic's schema, adapted for editors.

    Drops null, which TOML lacks, and titles that repeat the key. Expands facts, whose names in pydantic's schema are a page long.
    Follows draft 7, which allows no keys beside ``$ref``.
    """
    if isinstance(node, list):
        return [_for_toml(inner, facts) for inner in node]
    if not isinstance(node, dict):
        return node
    if "properties" in node:  # its keys are names, and "title" is one of them
        node = node | {"properties": {name: _for_toml(inner, facts) for name, inner in node["properties"].items()}}
    if "patternProperties" in node:
        node = node | {"additionalProperties": False}
    names = {key: value for key, value in node.items() if key in ("properties", "required", "enum")}
    dropped = ("title", *(["default"] if node.get("default", "") is None else []))
    node = {key: _for_toml(value, facts) for key, value in node.items() if key not in (*names, *dropped)} | names
    if "anyOf" in node:
        kinds = [kind for kind in node.pop("anyOf") if kind != {"type": "null"}]
        node = (kinds[0] if len(kinds) == 1 else {"anyOf": kinds}) | node
    if node.get("$ref") in facts:
        node = _for_toml(facts[node.pop("$ref")], facts) | node
    if "$ref" in node and len(node) > 1:
        node = {"allOf": [{"$ref": node.pop("$ref")}], **node}
    return node
