"""A `tensorrt` module with one version's names and signatures in front of our behaviour.

It refuses members that the version lacks, wrong numbers of arguments, unknown keywords and wrong types, as pybind11 does, and None where
an object is wanted, which pybind11 would let through.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tensorrt_api.behaviour import BEHAVIOUR, World
from tensorrt_api.signature import Signature, parse

PLAIN = {
    "int": int,
    "typing.SupportsInt": int,
    "float": (int, float),
    "typing.SupportsFloat": (int, float),
    "bool": bool,
    "str": str,
    "None": type(None),
    "object": object,
    "buffer": (bytes, bytearray, memoryview),
    "typing_extensions.Buffer": (bytes, bytearray, memoryview),
    "tuple": tuple,
    "list": list,
    "slice": slice,
}
CONVERTED = {"Dims": (tuple, list)}  # what pybind11 makes one from
AS_THEY_ARE = ("Dims", "IHostMemory")  # immutable values: our own classes stand for them


class Wrong(TypeError):
    """A call or an assignment that the version's bindings would refuse."""


class Strict:
    """One version."""

    def __init__(self, api: dict[str, Any], world: World) -> None:
        self.version: str = api["version"]
        self.module = ModuleType("tensorrt")
        vars(self.module).update(__version__=self.version, world=world)
        waiting = dict(api["classes"])
        while waiting:  # what others derive from comes first
            for name in [name for name, found in waiting.items() if not set(found.get("bases", ())) & set(waiting)]:
                setattr(self.module, name, self._class(name, waiting.pop(name)))

    def type(self, name: str) -> Any:
        """The Python types that a type of a signature stands for."""
        if name in PLAIN:
            return PLAIN[name]
        if name.lower().startswith(("list[", "collections.abc.sequence[")):
            return (list, tuple)
        found: Any = self.module
        for part in name.split("."):
            # the bindings give two classes another name than C++ does, and the doc strings do not always know
            found = getattr(found, part, None) or getattr(found, part.removeprefix("I"), None)
            assert found is not None, f"TensorRT {self.version} has a type {name} in its signatures that is not known here"
        return (found, *CONVERTED.get(name, ()))

    def fits(self, value: Any, name: str) -> bool:
        """Whether a value may be given where a type is wanted. A truth value is no number here, though pybind11 takes it for one."""
        wanted = self.type(name)
        return isinstance(value, wanted) and not (isinstance(value, bool) and name.endswith(("int", "Int", "float", "Float")))

    def _class(self, name: str, found: dict[str, Any]) -> Any:
        if "enum" in found:
            return enum.IntEnum(name, found["enum"])
        if name in AS_THEY_ARE:
            return BEHAVIOUR[name]
        members: dict[str, Any] = {"__setattr__": lambda thing, attribute, value: self._assign(thing, attribute, value)}
        for method, texts in found["methods"].items():
            members[method] = self._method(name, method, [parse(text) for text in texts])
        for attribute, how in found["properties"].items():
            members[attribute] = self._property(name, attribute, how["type"], how["writable"])
        for inner, what in found["nested"].items():
            members[inner] = self._class(inner, what)
        bases = tuple(getattr(self.module, base) for base in found["bases"][:1])
        return type(name, bases or (object,), {**members, "__module__": "tensorrt"})

    def _assign(self, thing: Any, name: str, value: Any) -> None:
        if not name.startswith("_") and type(thing).__module__ == "tensorrt" and not hasattr(type(thing), name):
            raise AttributeError(f"{type(thing).__name__} has no {name} (TensorRT {self.version})")
        object.__setattr__(thing, name, value)

    def _method(self, kind: str, name: str, forms: list[Signature]) -> Callable[..., Any]:
        def call(this: Any, *arguments: Any, **named: Any) -> Any:
            refusals = [self._why_not(form, arguments, named) for form in forms]
            if "" not in refusals:
                raise Wrong(f"{kind}.{name}: {'; or '.join(refusals) or 'it cannot be called'} (TensorRT {self.version})")
            behaviour = getattr(BEHAVIOUR.get(kind), name, None)
            assert behaviour, f"the stand-in does not know what {kind}.{name} does"
            answer = behaviour(this, *arguments, **named)
            returns = forms[refusals.index("")].returns
            assert answer is None or self.fits(answer, returns), f"the stand-in's {kind}.{name} gives {answer!r}, not {returns}"
            return answer

        return call

    def _why_not(self, form: Signature, arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
        names = [parameter.name for parameter in form.parameters]
        if len(arguments) > len(names):
            return f"takes {len(names)} arguments, and was given {len(arguments)}"
        given = dict(zip(names, arguments, strict=False))
        if unknown := [name for name in named if name not in names or name in given]:
            return f"takes no {', '.join(unknown)}; its parameters are {', '.join(names)}"
        given |= named
        for parameter in form.parameters:
            if parameter.name not in given:
                if not parameter.optional:
                    return f"lacks {parameter.name}"
            elif not self.fits(given[parameter.name], parameter.type):
                return f"{parameter.name} is {given[parameter.name]!r}, and {parameter.type} is wanted"
        return ""

    def _property(self, kind: str, name: str, wanted: str, writable: bool) -> property:
        def behaviour() -> Any:
            found = getattr(BEHAVIOUR.get(kind), name, None)
            assert found, f"the stand-in does not know what {kind}.{name} is"
            return found

        def get(this: Any) -> Any:
            answer = behaviour().fget(this)
            assert answer is None or self.fits(answer, wanted), f"the stand-in's {kind}.{name} is {answer!r}, not {wanted}"
            return answer

        def put(this: Any, value: Any) -> None:
            if not self.fits(value, wanted):
                raise Wrong(f"{kind}.{name} takes {wanted}, and was given {value!r} (TensorRT {self.version})")
            behaviour().fset(this, value)

        return property(get, put if writable else None)


def strict_module(api: dict[str, Any], world: World) -> ModuleType:
    """The module of one version."""
    return Strict(api, world).module
