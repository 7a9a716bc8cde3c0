"""Prints, as JSON, the names, enum members and signatures of the `tensorrt_bindings` that can be imported here.

Runs in a process of its own, whose linker finds stand-ins of the libraries. pybind11 writes the signatures into doc strings.
"""

import json
import re
import sys

import tensorrt_bindings as trt

SPECIAL = ("__init__", "__len__", "__getitem__")


def plain(text: str) -> str:
    """Without the names of modules and of C++ namespaces."""
    return re.sub(r"\b(tensorrt_bindings\.tensorrt|tensorrt\.tensorrt|nvinfer1|nvonnxparser)(\.|::)", "", text).replace("::", ".").strip()


def signatures(member: object, name: str) -> list[str]:
    """Each overload once, as `name(self: X, a: int = 0) -> Y`."""
    lines = (getattr(member, "__doc__", None) or "").splitlines()
    found = [re.match(rf"\s*(?:\d+\. )?({re.escape(name)}\(.*\)(?: -> .+)?)$", line) for line in lines]
    return list(dict.fromkeys(plain(match[1]) for match in found if match and "*args" not in match[1]))


def describe(kind: type) -> dict[str, object]:
    """One class: an enum with its numbers, or what it has."""
    if hasattr(kind, "__members__"):
        return {"enum": {name: int(value) for name, value in kind.__members__.items()}}
    methods: dict[str, object] = {}
    properties: dict[str, object] = {}
    nested: dict[str, object] = {}
    constants = []
    for name, value in vars(kind).items():
        if name.startswith("_") and name not in SPECIAL:
            continue
        if isinstance(value, property):
            answer = re.search(r"-> (.+)", (value.fget.__doc__ or "").splitlines()[0] if value.fget and value.fget.__doc__ else "")
            properties[name] = {"type": plain(answer[1]) if answer else "object", "writable": value.fset is not None}
        elif isinstance(value, type):
            nested[name] = describe(value)
        elif callable(value) or isinstance(value, staticmethod):
            methods[name] = signatures(getattr(kind, name), name)
        else:
            constants.append(name)
    bases = [base.__name__ for base in kind.__mro__[1:] if base.__module__.startswith("tensorrt")]
    return {"bases": bases, "methods": methods, "properties": properties, "nested": nested, "constants": constants}


classes = {name: describe(value) for name, value in vars(trt).items() if isinstance(value, type) and not name.startswith("_")}
json.dump({"version": trt.__version__, "classes": classes}, sys.stdout)
