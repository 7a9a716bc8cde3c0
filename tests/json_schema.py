"""Validation against the JSON Schemas of the project, without a library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
    "boolean": (bool,),
    "null": (type(None),),
}


def fits(value: Any, schema: Any, whole: Mapping[str, Any]) -> bool:
    """Whether a value fits a JSON Schema. Supports the keywords of the project's schemas, and fails on any other."""
    checks = {
        "$ref": lambda ref: fits(value, whole["$defs"][ref.removeprefix("#/$defs/")], whole),
        "allOf": lambda all_: all(fits(value, one, whole) for one in all_),
        "anyOf": lambda any_: any(fits(value, one, whole) for one in any_),
        "type": lambda name: type(value) in TYPES[name],
        "enum": lambda known: value in known,
        "const": lambda known: value == known,
        "minimum": lambda least: value >= least,
        "maximum": lambda most: value <= most,
        "exclusiveMinimum": lambda least: value > least,
        "minLength": lambda least: len(value) >= least,
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "items": lambda inner: all(fits(one, inner, whole) for one in value),
        "prefixItems": lambda inner: all(fits(one, part, whole) for one, part in zip(value, inner, strict=False)),
        "required": lambda keys: set(keys) <= set(value),
        "properties": lambda inner: all(fits(one, inner[key], whole) for key, one in value.items() if key in inner),
        "patternProperties": lambda inner: all(
            fits(one, part, whole) for pattern, part in inner.items() for key, one in value.items() if re.search(pattern, key)
        ),
        "propertyNames": lambda inner: all(fits(key, inner, whole) for key in value),
        "additionalProperties": lambda allowed: (
            all(fits(one, allowed, whole) for key, one in value.items() if key not in schema.get("properties", {}))
            if isinstance(allowed, dict)
            else allowed
            or all(
                key in schema.get("properties", {}) or any(re.search(p, key) for p in schema.get("patternProperties", {})) for key in value
            )
        ),
        **dict.fromkeys(("$schema", "$defs", "title", "description", "default"), lambda _: True),
    }
    return all(checks[keyword](argument) for keyword, argument in sorted(schema.items(), key=lambda item: item[0] != "type"))
