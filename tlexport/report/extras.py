"""Tables for the optional parts of a measurement (stages, layers, placement, machine state), built from its JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlexport.report.text import number, percent
from tlexport.units import format_bytes

LONGEST_LIST = 20  # longest list whose values are written out in a cell


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and the length of its bar if it is a share."""

    text: str
    share: float | None = None  # 0..1


@dataclass(frozen=True)
class Table:
    """A table with its title and headings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def stages(name: str, found: Mapping[str, Sequence[int]] | None) -> Table | None:
    """The median of each stage of one image, from its file to probabilities; computed from raw durations ``STAGE_ns``."""
    raw = {key.removesuffix("_ns"): value for key, value in (found or {}).items() if key.endswith("_ns")}
    if not raw:
        return None
    medians = {stage: statistics.median(values) / 1e6 for stage, values in raw.items()}
    whole = sum(medians.values()) or 1.0
    rows = [(Cell(stage), Cell(number(ms, 4)), _share(ms / whole)) for stage, ms in medians.items()]
    total = statistics.median(sum(parts) for parts in zip(*raw.values(), strict=True)) / 1e6
    return Table(f"{name}, single images", ("stage", "median, ms", "share"), (*rows, (Cell("all"), Cell(number(total, 4)), Cell("–"))))


def layers(name: str, found: Mapping[str, Any] | None) -> Table | None:
    """The slowest layers, as fused by the runtime."""
    if not found or not found.get("slowest"):
        return None
    rows = [
        (Cell(layer["name"]), Cell(layer["kind"] or "–"), Cell(layer["provider"]), Cell(number(layer["us"])), _share(layer["share"]))
        for layer in found["slowest"]
    ]
    title = f"{name}: the slowest of {found['count']} layers, mean of {found['runs']} runs"
    return Table(title, ("layer", "kind", "ran on", "time, µs", "share of all layers"), tuple(rows))


def facts(title: str, record: Mapping[str, Any] | None) -> Table | None:
    """The values of a record and of its nested records, with the units of their keys. Unknown values are left out."""
    rows = tuple((Cell(_words(key)), Cell(_value(key, value))) for key, value in _flat(record or {}))
    return Table(title, ("property", "value"), rows) if rows else None


def placement(name: str, found: Mapping[str, int] | None) -> Table | None:
    """The number of nodes that ran on each provider."""
    whole = sum((found or {}).values())
    rows = tuple((Cell(provider), Cell(str(nodes)), _share(nodes / whole)) for provider, nodes in (found or {}).items())
    return Table(name, ("provider", "nodes", "share"), rows) if rows else None


def _share(value: float) -> Cell:
    return Cell(percent(value), min(1.0, max(0.0, value)))


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list | tuple):
            found += [(f"{prefix}{key}", ", ".join(str(item) for item in value))] if 0 < len(value) <= LONGEST_LIST else []
        elif value is not None and value != "":
            found.append((f"{prefix}{key}", value))
    return found


_UNITS = {"_ns": "ns", "_ms": "ms", "_bytes": "", "_mj": "mJ", "_mhz": "MHz", "_seconds": "s"}


def _ending(key: str) -> str:
    return next((ending for ending in _UNITS if key.endswith(ending)), "")


def _words(key: str) -> str:
    """``memory_bytes`` -> ``"memory"``: the unit is printed with the value."""
    return key.removesuffix(_ending(key)).replace("_", " ")


def _value(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if key.endswith("_bytes"):
            return format_bytes(value)
        unit = _UNITS.get(_ending(key), "")
        return f"{number(value, 4)} {unit}".rstrip()
    return str(value)
