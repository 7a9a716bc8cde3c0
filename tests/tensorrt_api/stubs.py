"""Type stubs of one version for mypy, written from what `read_api.py` found. They are made in a test's folder, and never kept."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Any

from tensorrt_api.signature import Signature, parse

PLAIN = {
    "int": "builtins.int",
    "typing.SupportsInt": "typing.SupportsInt",
    "float": "builtins.float",
    "typing.SupportsFloat": "typing.SupportsFloat",
    "bool": "builtins.bool",
    "str": "builtins.str",
    "None": "None",
    "object": "builtins.object",
    "buffer": "builtins.bytes",
    "typing_extensions.Buffer": "builtins.bytes",
    "tuple": "tuple[int, ...]",
    "list": "list[int]",
}


class Stubs:
    """One version's module."""

    def __init__(self, api: dict[str, Any]) -> None:
        self.classes: dict[str, Any] = api["classes"]
        lines = ["import builtins", "import typing", "__version__: str"]
        for name, found in self.classes.items():
            lines += self._class(name, found)
        self.text = "\n".join(lines) + "\n"

    def _type(self, name: str, given: bool = False) -> str:
        if name in PLAIN:
            return PLAIN[name]
        if match := re.fullmatch(r"(?:[Ll]ist|collections\.abc\.Sequence)\[(.+)\]", name):
            return f"list[{self._type(match[1])}]"
        first, _, rest = name.partition(".")
        known = next((word for word in (first, first.removeprefix("I")) if word in self.classes), None)
        if known is None:
            return "typing.Any"
        whole = f"{known}.{rest}" if rest else known
        return f"{whole} | tuple[int, ...] | list[int]" if given and whole == "Dims" else whole

    def _class(self, name: str, found: dict[str, Any]) -> list[str]:
        if "enum" in found:
            members = [f"    {member}: typing.ClassVar[{name}]" for member in found["enum"]]
            return [f"class {name}:", "    name: str", "    value: int", "    def __int__(self) -> int: ...", *members]
        lines = [f"class {name}({', '.join(found['bases'][:1])}):", "    __slots__ = ()"]
        for inner, what in found["nested"].items():
            lines += [f"    {line}" for line in self._class(inner, what)]
        lines += [f"    {constant}: typing.ClassVar[typing.Any]" for constant in found["constants"]]
        for attribute, how in found["properties"].items():
            kind = self._type(how["type"])
            lines += ["    @builtins.property", f"    def {attribute}(self) -> {kind}: ..."]
            if how["writable"]:
                lines += [f"    @{attribute}.setter", f"    def {attribute}(self, value: {kind}) -> None: ..."]
        for method, texts in found["methods"].items():
            forms = [parse(text) for text in texts]
            for form in forms or [None]:
                lines += ["    @typing.overload"] if len(forms) > 1 else []
                lines.append(f"    def {method}{self._parameters(form)}")
        if name == "Dims":
            lines.append("    def __iter__(self) -> typing.Iterator[int]: ...")
        return lines

    def _parameters(self, form: Signature | None) -> str:
        if form is None:
            return "(self, *arguments: typing.Any, **named: typing.Any) -> typing.Any: ..."
        parts, optional = ["self"], False
        for name, kind, may_lack in form.parameters:
            optional |= may_lack  # what stands behind an optional one cannot be demanded in Python's grammar
            parts.append(f"{name}_" if keyword.iskeyword(name) else name)
            parts[-1] += f": {self._type(kind, given=True)}" + (" = ..." if optional else "")
        return f"({', '.join(parts)}) -> {self._type(form.returns)}: ..."


def write_stubs(api: dict[str, Any], folder: Path) -> Path:
    """A folder for MYPYPATH."""
    (folder / "tensorrt").mkdir(parents=True)
    (folder / "tensorrt" / "__init__.pyi").write_text(Stubs(api).text, encoding="utf-8")
    return folder
