"""TensorRT's messages: a logger that keeps the last lines, and the conversion of its exceptions and None results to errors.

Python 3.6 syntax: this file is copied into bundles unchanged. Imports TensorRT at the top; :mod:`engine` imports it on demand.
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
KEPT = 12  # lines; a failure rarely logs more
_SHOWN = ("INTERNAL_ERROR", "ERROR", "WARNING")


class TensorrtLog(trt.ILogger):
    """Keeps the last warnings and errors, for the text of an error; prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # pybind11 refuses an object whose base constructor was not called
        self._lines: "collections.deque[str]" = collections.deque(maxlen=KEPT)

    def log(self, severity: "Any", msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity.name in _SHOWN:
            self._lines.append(f"{severity.name.lower().replace('_', ' ')}: {msg.strip()}")

    def tail(self) -> str:
        """The last lines, to append to a message; empty if nothing was logged."""
        return "".join(f"\n  {line}" for line in self._lines)


def tensorrt_version() -> "tuple[int, ...]":
    """TensorRT's version: (10, 3, 0), or with a fourth number if the bindings report it."""
    return parse_version(trt.__version__)


@contextlib.contextmanager
def explained(action: str, log: TensorrtLog) -> "Iterator[None]":
    """Convert exceptions of TensorRT's bindings to a DeviceError with the log's last lines."""
    try:
        yield
    except DeviceError:
        raise
    except (RuntimeError, TypeError, ValueError, MemoryError, BufferError) as error:  # pybind11 converts a null pointer to a TypeError
        raise failed(action, log, str(error)) from None


def failed(action: str, log: TensorrtLog, why: str = "it returned nothing") -> DeviceError:
    """The error for a failed action of TensorRT."""
    return DeviceError(f"TensorRT {trt.__version__} cannot {action}: {why}{log.tail()}")


def made(result: "_Made | None", action: str, log: TensorrtLog) -> _Made:
    """The result of a TensorRT call. None means that it failed; the reason is in its log."""
    if result is None:
        raise failed(action, log)
    return result
