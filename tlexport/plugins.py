"""Plug-ins are files: ``names(kind)`` lists a folder without importing it, ``load(kind, name)`` imports one file of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

from tlexport.errors import MissingDependency, UsageError
from tlexport.ports import Backbone, Traits
from tlexport.record import nearest

Kind = Literal["backbones", "quantizers", "runtimes"]


def names(kind: Kind) -> tuple[str, ...]:
    """Names of the plug-ins of a kind, sorted: the files in ``tlexport/<kind>/`` that do not start with an underscore."""
    folder = Path(__file__).parent / kind
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def load(kind: Kind, name: str) -> ModuleType:
    """Import one plug-in.

    Raises:
        UsageError: there is no such file; names the nearest.
        MissingDependency: a library that it needs cannot be imported.
    """
    known = names(kind)
    if name not in known:
        raise UsageError(f"there is no {kind[:-1]} {name!r}{nearest(name, list(known))}", f"known: {', '.join(known)}")
    try:
        return importlib.import_module(f"tlexport.{kind}.{name}")
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "tlexport"):  # not a library's absence, but a bug of ours
            raise
        raise MissingDependency(
            f"the {kind[:-1]} {name!r} needs the library {library!r}, which cannot be imported: {error}",
            "install tlexport again with what it needs: pip install tlexport (for TensorRT: pip install 'tlexport[tensorrt]')",
        ) from error


def backbone_names() -> tuple[str, ...]:
    """Every variant of every family, sorted."""
    return tuple(sorted(variant for family in names("backbones") for variant in load("backbones", family).VARIANTS))


def family_of(backbone: str) -> Backbone:
    """The family module a variant belongs to. Raises UsageError, with the nearest name, for an unknown one."""
    for family in names("backbones"):
        module = cast(Backbone, load("backbones", family))
        if backbone in module.VARIANTS:
            return module
    raise UsageError(f"there is no backbone {backbone!r}{nearest(backbone, list(backbone_names()))}", "list them with: tlx backbones")


def traits_of(backbone: str) -> Traits:
    """Builder options and limits of a variant's family. Raises UsageError for an unknown variant."""
    return cast(Traits, getattr(family_of(backbone), "TRAITS", Traits()))
