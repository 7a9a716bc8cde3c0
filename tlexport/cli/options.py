"""Options that several commands share, parameter types, and the collection of a command's options in one record."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tlexport import arguments
from tlexport.errors import UsageError

if TYPE_CHECKING:
    from tlexport.remote.host import Host

F = TypeVar("F", bound=Callable[..., Any])
O = TypeVar("O")  # noqa: E741 - the record of a command's options
R = TypeVar("R")
T = TypeVar("T")


class Group(click.Group):
    """A group that suggests the nearest command for an unknown name."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command as click does; the error for an unknown one suggests the nearest name."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from tlexport.record import nearest

            raise click.UsageError(f"there is no command {args[0]!r}{nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


class Number(click.FloatRange):
    """A number in a range. Unlike click's own type, it rejects NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert as click does, and reject NaN."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return float(number)


def collected(record: Callable[..., O], rest: str | None = None) -> Callable[[Callable[[O], R]], Callable[..., R]]:
    """Pass the options of a command to its function as one record. For commands with more than seven options.

    This decorator comes last in the list, directly above the function.

    Args:
        record: a frozen dataclass with one field for each option.
        rest: the field that takes all options without a field of their own, as a dict. None: every option has a field.
    """

    def decorate(function: Callable[[O], R]) -> Callable[..., R]:
        names = {field.name for field in dataclasses.fields(record)}  # type: ignore[arg-type]

        @functools.wraps(function)
        def command(**values: Any) -> R:
            if rest is not None:
                values[rest] = {name: values.pop(name) for name in sorted(set(values) - names)}
            return function(record(**values))

        return command

    return decorate


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A click type, with the function's name, from a function of :mod:`tlexport.arguments`."""

    @functools.wraps(parse)
    def convert(text: str) -> T:
        try:
            return parse(text)
        except UsageError as error:
            raise click.BadParameter(f"{error.message}: {error.hint}" if error.hint else error.message) from None

    return convert


def checked(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """A click callback from such a function, for options whose help shows another type."""
    convert = typed(parse)
    return lambda ctx, param, value: None if value is None else convert(value)


rate = typed(arguments.rate)
size = typed(arguments.size)
duration = typed(arguments.duration)
fraction = typed(arguments.fraction)
shape = typed(arguments.shape)
place = typed(arguments.place)


def shapes(function: F) -> F:
    """``--shape``, once for each input that needs one."""
    text = "Shape of an input with free axes besides the batch (external ONNX models). May be repeated."
    return click.option("--shape", "shapes", multiple=True, type=shape, metavar="NAME=N,N,...", help=text)(function)


def counts(most: int) -> Callable[[str], tuple[int, ...]]:
    """A click type: integers from 1 to ``most``, separated by commas."""
    return typed(functools.partial(arguments.counts, most=most))


def device(function: F) -> F:
    """``--device``."""
    text = "auto, cpu or cuda[:N]. auto: a CUDA GPU if torch finds one, else the CPU; always the CPU with ONNX Runtime."
    return click.option("--device", default="auto", show_default=True, callback=checked(arguments.device), help=text)(function)


def threads(function: F) -> F:
    """``--threads``."""
    return click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads. Default: one for each usable core.")(function)


def _with_provider(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Replace the runtime by the runtime plug-in of its execution provider."""
    try:
        ctx.params["runtime"] = arguments.runtime_with(ctx.params["runtime"], value)
    except UsageError as error:
        raise click.BadParameter(error.message, ctx, param) from None


def runtime(function: F) -> F:
    """``--runtime`` and ``--provider``. The function gets both as one ``runtime``."""
    text = "Another execution provider of ONNX Runtime. --device selects the CPU and CUDA providers."
    choice = click.Choice(["tensorrt"])
    function = click.option("--provider", type=choice, callback=_with_provider, expose_value=False, help=text)(function)
    help_text = "auto, torch, onnxruntime or tensorrt."
    return click.option("--runtime", default="auto", show_default=True, is_eager=True, help=help_text)(function)


def precision(function: F) -> F:
    """``--precision``: which model of a bundle."""
    text = "Model of the bundle to use. Default: the chosen one."
    return click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help=text)(function)


def host(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--host`` and its options. The function gets all of them as one ``host``: a Host, or None."""

    @functools.wraps(function)
    def command(*args: Any, host: str | None, ssh_option: tuple[str, ...], host_python: str | None, **others: Any) -> Any:
        return function(*args, host=_host(host, ssh_option, host_python), **others)

    there = "Run on this board over ssh: user@board, or a name from the ssh configuration. WHAT must be a bundle."
    command = click.option("--host-python", metavar="PATH", help="Python on the board. Default: python3.")(command)
    repeated = "Option for ssh -o, such as Port=2222. May be repeated."
    command = click.option("--ssh-option", metavar="KEY=VALUE", multiple=True, help=repeated)(command)
    return click.option("--host", metavar="HOST", help=there)(command)


def _host(name: str | None, ssh_options: tuple[str, ...], python: str | None) -> Host | None:
    arguments.expect_host(name, ssh_options, python)
    if name is None:
        return None
    from tlexport.remote.host import Host

    return Host(name, ssh_options, "python3" if python is None else python)


def on_error(function: F) -> F:
    """``--on-error``."""
    text = "Unreadable images: skip them, or fail. Default: skip up to 5 % of the images, fail beyond that."
    return click.option("--on-error", type=click.Choice(["skip", "fail"]), help=text)(function)


def out(function: F) -> F:
    """``-o/--out``."""
    return click.option("-o", "--out", type=place, metavar="PATH", help="Where to write.")(function)


def as_json(function: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON value, and nothing else, to stdout.")(function)


def verbosity(function: F) -> F:
    """``-v`` and ``-q``."""
    function = click.option("-q", "--quiet", is_flag=True, help="Print no progress and no notes to stderr.")(function)
    return click.option("-v", "--verbose", is_flag=True, help="Print the time of each step.")(function)


def examples(*lines: str) -> str:
    """An epilog of runnable examples."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
