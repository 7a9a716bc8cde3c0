"""TensorRT's own words: a logger that keeps the last lines, and what becomes of its exceptions and of its None.

Python 3.6 syntax: this file is copied into bundles unchanged. Imports TensorRT at the top; :mod:`engine` imports it when it is needed.
"""

import collections
import contextlib
from typing import TYPE_CHECKING, TypeVar

import tensorrt as trt

from ..errors import DeviceError
from .build_options import parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_Made = TypeVar("_Made")
KEPT = 12  # lines; one failure seldom logs more
_SHOWN = ("INTERNAL_ERROR", "ERROR", "WARNING")


class TensorrtLog(trt.ILogger):
    """Keeps the last warnings and errors, for the text of an error; prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # pybind11 refuses an object whose own constructor was not called
        self._lines: "collections.deque[str]" = collections.deque(maxlen=KEPT)

    def log(self, severity: "Any", msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity.name in _SHOWN:
            self._lines.append(f"{severity.name.lower().replace('_', ' ')}: {msg.strip()}")

    def tail(self) -> str:
        """The last lines, ready to stand behind a message; empty when nothing was logged."""
        return "".join(f"\n  {line}" for line in self._lines)


def tensorrt_version() -> "tuple[int, ...]":
    """TensorRT's version: (10, 3, 0), or with a fourth number where the bindings know it."""
    return parse_version(trt.__version__)


@contextlib.contextmanager
def explained(action: str, log: TensorrtLog) -> "Iterator[None]":
    """Turn what TensorRT's bindings raise into a DeviceError with the log's last lines."""
    try:
        yield
    except DeviceError:
        raise
    except (RuntimeError, TypeError, ValueError, MemoryError, BufferError) as error:  # pybind11's: a null pointer is a TypeError
        raise failed(action, log, str(error)) from None


def failed(action: str, log: TensorrtLog, why: str = "it gave nothing") -> DeviceError:
    """The error of something that TensorRT could not do."""
    return DeviceError(f"TensorRT {trt.__version__} cannot {action}: {why}{log.tail()}")


def made(result: "_Made | None", action: str, log: TensorrtLog) -> _Made:
    """What TensorRT made. It answers None where it failed, and has logged why."""
    if result is None:
        raise failed(action, log)
    return result
