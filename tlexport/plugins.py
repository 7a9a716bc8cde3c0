"""Plug-ins are files.

``names(kind)`` lists the files of a folder; ``runtime``, ``quantizer``, ``backbone`` and ``model_source`` import one of them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from tlexport.errors import MissingDependency, StepFailed, UsageError
from tlexport.ports import Backbone, ModelSource, Quantizer, Runtime, Traits
from tlexport.record import nearest

Kind = Literal["backbones", "model_sources", "quantizers", "runtimes"]
PROTOCOLS: dict[Kind, Any] = {"backbones": Backbone, "model_sources": ModelSource, "quantizers": Quantizer, "runtimes": Runtime}


def names(kind: Kind) -> tuple[str, ...]:
    """Names of the plug-ins of a kind, sorted: the files in ``tlexport/<kind>/`` that do not start with an underscore."""
    folder = Path(__file__).parent / kind
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def runtime(name: str) -> Runtime:
    """Import ``tlexport/runtimes/<name>.py``. Raises as :func:`load`."""
    return cast(Runtime, load("runtimes", name))


def quantizer(name: str) -> Quantizer:
    """Import ``tlexport/quantizers/<name>.py``. Raises as :func:`load`."""
    return cast(Quantizer, load("quantizers", name))


def backbone(family: str) -> Backbone:
    """Import ``tlexport/backbones/<family>.py``. Raises as :func:`load`."""
    return cast(Backbone, load("backbones", family))


def model_source(name: str) -> ModelSource:
    """Import ``tlexport/model_sources/<name>.py``. Raises as :func:`load`."""
    return cast(ModelSource, load("model_sources", name))


def load(kind: Kind, name: str) -> ModuleType:
    """Import one plug-in, and give it the protocol's default for each optional member that it does not define.

    Raises:
        UsageError: there is no such file; the message names the nearest.
        MissingDependency: a library that it needs cannot be imported.
        StepFailed: a required member of the protocol is missing.
    """
    module, protocol = _import(kind, name), PROTOCOLS[kind]
    members = [*protocol.__annotations__, *(member for member in vars(protocol) if not member.startswith("_"))]
    for member in protocol.__annotations__:
        if not hasattr(module, member) and member in vars(protocol):
            setattr(module, member, vars(protocol)[member])
    if missing := [member for member in dict.fromkeys(members) if not hasattr(module, member)]:
        raise StepFailed(
            f"the {kind[:-1]} {name!r} does not define {', '.join(missing)}, which a {protocol.__name__} requires",
            f"see {protocol.__name__} in tlexport/ports.py, and docs/plugins.md",
        )
    return module


def _import(kind: Kind, name: str) -> ModuleType:
    known = names(kind)
    if name not in known:
        raise UsageError(f"there is no {kind[:-1]} {name!r}{nearest(name, list(known))}", f"known: {', '.join(known)}")
    try:
        return importlib.import_module(f"tlexport.{kind}.{name}")
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "tlexport"):  # a bug of this package, not a missing library
            raise
        raise MissingDependency(
            f"the {kind[:-1]} {name!r} needs the library {library!r}, which cannot be imported: {error}",
            "install tlexport with its dependencies: pip install tlexport (for TensorRT: pip install 'tlexport[tensorrt]')",
        ) from error


def backbone_names() -> tuple[str, ...]:
    """Every variant of every family, sorted."""
    return tuple(sorted(variant for family in names("backbones") for variant in backbone(family).VARIANTS))


def family_of(variant: str) -> Backbone:
    """The family module a variant belongs to. Raises UsageError, with the nearest name, for an unknown one."""
    for family in names("backbones"):
        module = backbone(family)
        if variant in module.VARIANTS:
            return module
    raise UsageError(f"there is no backbone {variant!r}{nearest(variant, list(backbone_names()))}", "list them with: tlx backbones")


def source_of(variant: str) -> ModelSource:
    """The source of a variant's network and weights. Raises UsageError for an unknown variant."""
    return model_source(family_of(variant).SOURCE)


def traits_of(variant: str) -> Traits:
    """Builder options and limits of a variant's family. Raises UsageError for an unknown variant."""
    return family_of(variant).TRAITS
