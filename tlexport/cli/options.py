"""Options that mean the same everywhere, parameter types with errors that help, and groups that know the nearest command."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tlexport.errors import UsageError
from tlexport.units import parse_bytes, parse_ms

if TYPE_CHECKING:
    from tlexport.remote.ssh import Host

F = TypeVar("F", bound=Callable[..., Any])


class Group(click.Group):
    """A group that names the nearest command when there is none of the name that was typed."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name in the error."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from tlexport.record import nearest

            raise click.UsageError(f"there is no command {args[0]!r}{nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


class Number(click.FloatRange):
    """Numbers within limits. Click's own lets NaN through, which is within none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does, without NaN."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return float(number)


def rate(text: str) -> float | str:
    """A click type: a learning rate between 0 and 10, or ``auto``."""
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor auto") from None
    if not 0 < value < 10:
        raise click.BadParameter(f"{text} is not between 0 and 10")
    return value


def size(text: str) -> int:
    """A click type: ``2MB`` -> bytes."""
    return round(_more_than_nothing(text, parse_bytes))


def duration(text: str) -> float:
    """A click type: ``10ms`` -> milliseconds."""
    return _more_than_nothing(text, parse_ms)


def fraction(text: str) -> float:
    """A click type: ``5%`` -> 0.05."""
    number = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", text)
    if not number:
        raise click.BadParameter(f"{text!r} is not a percentage; write it such as 5%")
    return float(number[1]) / 100


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """A click type: ``image=1,224,224,3``, or ``image=1x224x224x3``."""
    name, equals, sizes = text.rpartition("=")
    parts = re.split("[,x]", sizes)
    if not (equals and name) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a shape; write the input's name and its sizes, such as image=1,224,224,3")
    return name, tuple(int(part) for part in parts)


def shapes(function: F) -> F:
    """``--shape``, as often as a model has inputs that need one."""
    text = "Shape of an input with free axes besides the first (ONNX files of others). May be repeated."
    return click.option("--shape", "shapes", multiple=True, type=shape, metavar="NAME=N,N,...", help=text)(function)


def counts(most: int) -> Callable[[str], tuple[int, ...]]:
    """A click type: whole numbers from 1 to ``most`` with commas between them, such as ``1,4,16``; each once."""

    def convert(text: str) -> tuple[int, ...]:
        words = [word.strip() for word in text.split(",")]
        if wrong := [word for word in words if not word.isdecimal() or not 1 <= int(word) <= most]:
            raise click.BadParameter(f"{wrong[0]!r} is not in the range 1<=x<={most}; write one number, or several such as 1,4,16")
        return tuple(dict.fromkeys(map(int, words)))

    return convert


def _more_than_nothing(text: str, parse: Callable[[str], float]) -> float:
    try:
        amount = parse(text)
    except UsageError as error:
        raise click.BadParameter(f"{error.message}: {error.hint}") from None
    if amount <= 0:
        raise click.BadParameter(f"{text!r} leaves no room for any model; a limit must be greater than 0")
    return amount


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


def _with_provider(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """A runtime with another provider is a runtime of its own."""
    if value is None:
        return
    if ctx.params["runtime"] not in ("auto", "onnxruntime"):
        raise click.BadParameter(f"{ctx.params['runtime']} has no providers; leave it out, or --runtime onnxruntime", ctx, param)
    ctx.params["runtime"] = f"onnxruntime_{value}"


def runtime(function: F) -> F:
    """``--runtime``, and ``--provider``, which is settled when the function is called."""
    text = "Of ONNX Runtime, besides the CPU's and CUDA's own, which --device chooses."
    choice = click.Choice(["tensorrt"])
    function = click.option("--provider", type=choice, callback=_with_provider, expose_value=False, help=text)(function)
    help_text = "auto, torch, onnxruntime or tensorrt."
    return click.option("--runtime", default="auto", show_default=True, is_eager=True, help=help_text)(function)


def precision(function: F) -> F:
    """``--precision`` of one model of a bundle."""
    text = "Which of a bundle's models; default: the chosen one."
    return click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help=text)(function)


def host(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--host`` and the options that go with it, which a command gets as one ``host``: a Host, or None."""

    @functools.wraps(function)
    def command(*args: Any, host: str | None, ssh_option: tuple[str, ...], host_python: str | None, **others: Any) -> Any:
        return function(*args, host=_host(host, ssh_option, host_python), **others)

    there = "Run on this board, which ssh reaches: user@board or a name from ssh's configuration. WHAT is a bundle then."
    command = click.option("--host-python", metavar="PATH", help="Python on the board; default: python3.")(command)
    repeated = "For ssh's -o, such as Port=2222; may be repeated."
    command = click.option("--ssh-option", metavar="KEY=VALUE", multiple=True, help=repeated)(command)
    return click.option("--host", metavar="HOST", help=there)(command)


def _host(name: str | None, ssh_options: tuple[str, ...], python: str | None) -> Host | None:
    if name is None:
        if ssh_options or python:
            raise UsageError("--ssh-option and --host-python say how to reach a board, and none is named", "name it: --host user@board")
        return None
    from tlexport.remote.ssh import Host

    return Host(name, ssh_options, "python3" if python is None else python)


def on_error(function: F) -> F:
    """``--on-error``."""
    text = "Images that cannot be read: leave them out, or stop. Default: leave out up to 5 %, else stop."
    return click.option("--on-error", type=click.Choice(["skip", "fail"]), help=text)(function)


def place(text: str) -> Path:
    """A click type: where something new is written; neither the current directory nor a folder that it lies in."""
    if not text:
        raise click.BadParameter("the path is empty; name a new file or directory")
    path = Path(text)
    if (here := Path.cwd()).is_relative_to(whole := Path(os.path.abspath(path))):  # noqa: PTH100  # links are followed later
        where = "the current directory" if whole == here else "a folder above the current directory"
        raise click.BadParameter(f"{text!r} is {where}; name a new one, such as {Path(text, 'new')}")
    return path


def out(function: F) -> F:
    """``-o/--out``."""
    return click.option("-o", "--out", type=place, metavar="PATH", help="Where to write.")(function)


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
