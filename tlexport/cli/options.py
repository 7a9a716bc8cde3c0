"""Options that mean the same everywhere, and parameter types with errors that help."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tlexport.errors import UsageError
from tlexport.units import parse_bytes, parse_ms

F = TypeVar("F", bound=Callable[..., Any])


class Quantity(click.ParamType):
    """A number with a unit, such as 2MB or 10ms."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse, and refuse nothing and less."""
        try:
            amount = self.parse(value)
        except UsageError as error:
            self.fail(f"{error.message}: {error.hint}", param, ctx)
        if amount <= 0:
            self.fail(f"{value!r} leaves no room for any model; a limit must be greater than 0", param, ctx)
        return amount


SIZE = Quantity("SIZE", parse_bytes)
DURATION = Quantity("DURATION", parse_ms)


def _check_device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"{value!r} is not a device; use auto, cpu, cuda or cuda:N", ctx, param)
    return "cuda:0" if value == "cuda" else value


def device(function: F) -> F:
    """``--device``."""
    text = "auto (a CUDA GPU where torch finds one, else the CPU; for ONNX Runtime the CPU), cpu or cuda[:N]."
    return click.option("--device", default="auto", show_default=True, callback=_check_device, help=text)(function)


def threads(function: F) -> F:
    """``--threads``."""
    return click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads; default: one for each usable core.")(function)


def runtime(function: F) -> F:
    """``--runtime``."""
    return click.option("--runtime", default="auto", show_default=True, help="auto, torch or onnxruntime.")(function)


def precision(function: F) -> F:
    """``--precision`` of one model of a bundle."""
    text = "Which of a bundle's models; default: the chosen one."
    return click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help=text)(function)


def on_error(function: F) -> F:
    """``--on-error``."""
    text = "Images that cannot be read: leave them out, or stop. Default: leave out up to 5 %, else stop."
    return click.option("--on-error", type=click.Choice(["skip", "fail"]), help=text)(function)


def out(function: F) -> F:
    """``-o/--out``."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), help="Where to write.")(function)


def as_json(function: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout, nothing else there.")(function)


def verbosity(function: F) -> F:
    """``-v`` and ``-q``."""
    function = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes on stderr.")(function)
    return click.option("-v", "--verbose", is_flag=True, help="Tell the time that each step took.")(function)


def examples(*lines: str) -> str:
    """An epilog of runnable examples."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
