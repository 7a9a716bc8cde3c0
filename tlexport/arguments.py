"""Parsers of option values for the command line and the Python API. Each error names the value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path

from tlexport.errors import UsageError
from tlexport.units import parse_bytes, parse_ms


def rate(value: str | float) -> float | str:
    """A learning rate between 0 and 10, or ``auto``."""
    if value == "auto":
        return "auto"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{value!r} is neither a number nor auto") from None
    if not 0 < number < 10:
        raise UsageError(f"{value} is not between 0 and 10")
    return number


def size(value: str | float) -> int:
    """``"2MB"`` or a number of bytes -> bytes."""
    return round(_more_than_nothing(value, parse_bytes, 1))


def duration(value: str | float) -> float:
    """``"10ms"`` or a number of seconds -> milliseconds."""
    return _more_than_nothing(value, parse_ms, 1e3)


def _more_than_nothing(value: str | float, parse: Callable[[str], float], scale: float) -> float:
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise UsageError(f"{value!r} is neither a number nor text with a unit")
    amount = parse(value) if isinstance(value, str) else scale * float(value)
    if not 0 < amount < math.inf:
        raise UsageError(f"{value!r} is not a limit; a limit must be greater than 0")
    return amount


def fraction(value: str) -> float:
    """``"5%"`` -> 0.05."""
    number = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", value)
    if not number:
        raise UsageError(f"{value!r} is not a percentage; write it such as 5%")
    return float(number[1]) / 100


def shape(value: str) -> tuple[str, tuple[int, ...]]:
    """``image=1,224,224,3``, or ``image=1x224x224x3`` -> the input's name and its sizes."""
    name, equals, sizes = value.rpartition("=")
    parts = re.split("[,x]", sizes)
    if not (equals and name) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{value!r} is not a shape; write the input's name and its sizes, such as image=1,224,224,3")
    return name, tuple(int(part) for part in parts)


def counts(value: str, most: int) -> tuple[int, ...]:
    """Integers from 1 to ``most``, separated by commas, such as ``1,4,16``. Duplicates are removed."""
    words = [word.strip() for word in value.split(",")]
    if wrong := [word for word in words if not word.isdecimal() or not 1 <= int(word) <= most]:
        raise UsageError(f"{wrong[0]!r} is not an integer from 1 to {most}; write one, or several such as 1,4,16")
    return tuple(dict.fromkeys(map(int, words)))


def colour(value: str | Sequence[int]) -> tuple[int, ...]:
    """``"255,255,255"``, or three numbers -> RGB, 0 to 255."""
    try:
        parts = tuple(int(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        parts = ()
    if len(parts) != 3 or not all(0 <= part <= 255 for part in parts):
        raise UsageError(f"{value!r} is not a colour; write three numbers from 0 to 255, such as 255,255,255")
    return parts


def device(value: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``cuda`` becomes ``cuda:0``."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise UsageError(f"{value!r} is not a device; use auto, cpu, cuda or cuda:N")
    return "cuda:0" if value == "cuda" else value


def runtime_with(runtime: str, provider: str | None) -> str:
    """The name of the runtime plug-in for a runtime and an execution provider."""
    if provider is None:
        return runtime
    if runtime not in ("auto", "onnxruntime"):
        raise UsageError(f"--provider needs --runtime onnxruntime, not {runtime}; leave one of them out")
    return f"onnxruntime_{provider}"


def expect_host(host: str | None, ssh_option: Sequence[str], host_python: str | None) -> None:
    """Refuse the options of a board if no board is named."""
    if host is None and (ssh_option or host_python):
        raise UsageError("--ssh-option and --host-python need a board, and --host is missing", "name it: --host user@board")


def place(value: str) -> Path:
    """A path to write to. Refuses the current directory and the folders above it."""
    if not value:
        raise UsageError("the path is empty; name a new file or directory")
    path = Path(value)
    if (here := Path.cwd()).is_relative_to(whole := Path(os.path.abspath(path))):  # noqa: PTH100  # resolve() would follow links
        where = "the current directory" if whole == here else "a folder above the current directory"
        raise UsageError(f"{value!r} is {where}; name a new path, such as {Path(value, 'new')}")
    return path
