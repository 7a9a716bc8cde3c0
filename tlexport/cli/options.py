"""Options that mean the same everywhere, parameter types with errors that help, and groups that know the nearest command."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tlexport import arguments
from tlexport.errors import UsageError

if TYPE_CHECKING:
    from tlexport.remote.ssh import Host

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


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


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A click type of the same name from a function of :mod:`tlexport.arguments`."""

    @functools.wraps(parse)
    def convert(text: str) -> T:
        try:
            return parse(text)
        except UsageError as error:
            raise click.BadParameter(f"{error.message}: {error.hint}" if error.hint else error.message) from None

    return convert


def checked(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """The same as a callback, for options whose help names another type."""
    convert = typed(parse)
    return lambda ctx, param, value: None if value is None else convert(value)


rate = typed(arguments.rate)
size = typed(arguments.size)
duration = typed(arguments.duration)
fraction = typed(arguments.fraction)
shape = typed(arguments.shape)
place = typed(arguments.place)


def shapes(function: F) -> F:
    """``--shape``, as often as a model has inputs that need one."""
    text = "Shape of an input with free axes besides the first (ONNX files of others). May be repeated."
    return click.option("--shape", "shapes", multiple=True, type=shape, metavar="NAME=N,N,...", help=text)(function)


def counts(most: int) -> Callable[[str], tuple[int, ...]]:
    """A click type: whole numbers from 1 to ``most`` with commas between them."""
    return typed(functools.partial(arguments.counts, most=most))


def device(function: F) -> F:
    """``--device``."""
    text = "auto (a CUDA GPU where torch finds one, else the CPU; for ONNX Runtime the CPU), cpu or cuda[:N]."
    return click.option("--device", default="auto", show_default=True, callback=checked(arguments.device), help=text)(function)


def threads(function: F) -> F:
    """``--threads``."""
    return click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads; default: one for each usable core.")(function)


def _with_provider(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """A runtime with another provider is a runtime of its own."""
    try:
        ctx.params["runtime"] = arguments.runtime_with(ctx.params["runtime"], value)
    except UsageError as error:
        raise click.BadParameter(error.message, ctx, param) from None


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
    arguments.expect_host(name, ssh_options, python)
    if name is None:
        return None
    from tlexport.remote.ssh import Host

    return Host(name, ssh_options, "python3" if python is None else python)


def on_error(function: F) -> F:
    """``--on-error``."""
    text = "Images that cannot be read: leave them out, or stop. Default: leave out up to 5 %, else stop."
    return click.option("--on-error", type=click.Choice(["skip", "fail"]), help=text)(function)


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
