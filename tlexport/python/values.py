"""Checks of what a caller passes, with the option's name in each error. The limits are those of the command line; a test compares them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tlexport import arguments
from tlexport.errors import UsageError

if TYPE_CHECKING:
    from tlexport.remote.host import Host

PathLike = str | os.PathLike[str]
Precision = Literal["fp32", "fp16", "int8"]
OnError = Literal["skip", "fail"]
Shapes = Mapping[str, Sequence[int]] | Sequence[str] | str
T = TypeVar("T")

MOST_THREADS = 1024


def text(name: str, value: object) -> str:
    """A text or a path as text; DATA and targets are either."""
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(found, str):
        raise UsageError(f"{name}={value!r:.200} is a {type(value).__name__}; a str or a pathlib.Path was expected")
    return str(found)  # of numpy's text, which is a str, too


def path(name: str, value: object) -> Path:
    """A path; ``~`` is not expanded, as in :func:`open`."""
    return Path(text(name, value))


def path_or_none(name: str, value: object) -> Path | None:
    """A path, or None as it is."""
    return None if value is None else path(name, value)


def place(name: str, value: object) -> Path | None:
    """Where something new is written; see :func:`tlexport.arguments.place`."""
    return None if value is None else parsed(name, text(name, value), arguments.place)


def texts(name: str, value: object) -> tuple[str, ...]:
    """One text or path, or several."""
    if isinstance(value, str | os.PathLike):
        return (text(name, value),)
    if not isinstance(value, Iterable):
        raise UsageError(f"{name}={value!r:.200} is a {type(value).__name__}; a path or a list of paths was expected")
    return tuple(text(f"{name}[{index}]", item) for index, item in enumerate(value))


def parsed(name: str, value: Any, parse: Callable[[Any], T]) -> T:
    """What a function of :mod:`tlexport.arguments` makes of a value."""
    try:
        return parse(value)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", error.hint) from None


def parsed_or_none(name: str, value: Any, parse: Callable[[Any], T]) -> T | None:
    """The same; None stays as it is."""
    return None if value is None else parsed(name, value, parse)


def choice(name: str, value: Any, *known: str) -> Any:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"{name}={value!r:.200} is not one of {', '.join(map(repr, known))}")
    return str(value)


def choice_or_none(name: str, value: Any, *known: str) -> Any:
    """One of some words, or None."""
    return None if value is None else choice(name, value, *known)


def precision(value: Any) -> Any:
    """Which of a bundle's models; None: the chosen one."""
    return choice_or_none("precision", value, "fp32", "fp16", "int8")


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number within limits; numpy's, too."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise UsageError(f"{name}={value!r:.200} is not a whole number from {least} to {most}")
    return int(value)


def threads(value: Any) -> int | None:
    """A number of CPU threads; None: the usual one."""
    return None if value is None else whole("threads", value, 1, MOST_THREADS)


def real(name: str, value: Any, least: float, most: float) -> float:
    """A number within limits; numpy's, too. NaN is within none."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most:
        raise UsageError(f"{name}={value!r:.200} is not a number from {least:g} to {most:g}")
    return float(value)


def flags(**given: object) -> None:
    """Refuse anything but True and False: a text such as ``"off"`` would count as true."""
    for name, value in given.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r:.200} is not True or False")


def counts(name: str, value: Any, most: int) -> tuple[int, ...]:
    """A whole number, several of them, or a text such as ``"1,4,16"``; each once."""
    if isinstance(value, str):
        return parsed(name, str(value), lambda words: arguments.counts(words, most))
    numbers = value if isinstance(value, Iterable) else (value,)
    found = tuple(dict.fromkeys(whole(name, number, 1, most) for number in numbers))
    if not found:
        raise UsageError(f"{name} is empty; a number or a list of numbers was expected")
    return found


def shapes(value: Any) -> dict[str, tuple[int, ...]]:
    """``{"image": (1, 224, 224, 3)}``, or texts such as ``"image=1,224,224,3"``."""
    if isinstance(value, Mapping):
        return {text("shape", name): tuple(whole("shape", size, 1, 2**31 - 1) for size in sizes) for name, sizes in value.items()}
    return dict(parsed("shape", words, arguments.shape) for words in texts("shape", value))


def host(name: str | None, ssh_option: Any, host_python: str | None) -> Host | None:
    """The board that ssh reaches; None: this machine."""
    ssh_options = texts("ssh_option", ssh_option)
    arguments.expect_host(name, ssh_options, host_python)
    if name is None:
        return None
    from tlexport.remote.host import Host

    return Host(text("host", name), ssh_options, "python3" if host_python is None else text("host_python", host_python))


def runtime(name: Any, provider: Any) -> str:
    """A runtime's name, with another provider a runtime of its own. Unknown names are refused when it is opened."""
    choice_or_none("provider", provider, "tensorrt")
    return parsed("provider", text("runtime", name), lambda found: arguments.runtime_with(found, provider))
