"""Readers of untrusted files, one for each format. Each bounds its input and maps all exceptions of its parser to InvalidFile.

JSON and TOML here are stricter than their parsers: UTF-8 (a byte order mark is skipped), no duplicate keys, no integer beyond
64 bits, no NUL character, no lone surrogate, at most :data:`DEEPEST` levels of nesting, and in JSON no NaN or Infinity. So all
values that are read can be written, printed and used as a path. ONNX files: ``onnx_file.py``.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import stat
import struct
import tokenize
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tlexport.errors import InvalidFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

LARGEST_JSON = 64 * 10**6  # bytes; parsed JSON takes up to 30 times as many
LARGEST_TOML = 10**6  # bytes; the largest profile that is shipped has 14 kB
DEEPEST = 64  # levels of nesting; the deepest record has 7
LONGEST_KEY = 16  # parts of a dotted TOML key, whose time in the parser is quadratic
DIGITS = 20  # of 2^64

# strings and comments (an unterminated one extends to the end, which keeps the time linear), then structural characters
_TOML = re.compile(
    r'(?P<quoted>"""(?:\\.?|[^\\])*?(?:"""+|\Z)|\'\'\'.*?(?:\'\'\'+|\Z)|"(?:\\[^\n]|[^"\\\n])*+"?|\'[^\'\n]*+\'?)'
    r"|(?P<comment>#[^\n]*+)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<line>\n)",
    re.DOTALL,
)
_DOTTED = re.compile(r"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){" + str(LONGEST_KEY) + "}")
_ODD = re.compile(r"\\[uU](?:0000)?(?:0000|[dD][89a-fA-F])")  # an escape that may be a NUL or half of a character
# exceptions of numpy, torch and safetensors observed for damaged files
DAMAGED = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError),
    *(ImportError, AssertionError, struct.error, tokenize.TokenError, zipfile.BadZipFile, pickle.UnpicklingError),
)


@contextmanager
def regular_file(path: Path, what: str, hint: str = "") -> Iterator[BinaryIO]:
    """Open a regular file for reading. Refuses a FIFO, which would block, and a device, which may never end.

    Args:
        path: the file; links are followed.
        what: the expected format, for the message: "JSON".
        hint: for the message.

    Raises:
        InvalidFile: it does not exist, is not a regular file, or the file system refuses.
    """
    try:
        stream = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except FileNotFoundError:
        raise InvalidFile(f"{path} does not exist", hint) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidFile(f"{path} cannot be read as {what}: {getattr(error, 'strerror', None) or error}", hint) from None
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise InvalidFile(f"{path} cannot be read as {what}: it is not a regular file", hint)
        yield stream


def read_text(path: Path, what: str, largest: int, hint: str = "") -> str:
    """A UTF-8 text without its byte order mark. Raises InvalidFile: not readable, larger than ``largest`` bytes, or not UTF-8."""
    with regular_file(path, what, hint) as stream:
        try:
            content = stream.read(largest + 1)
        except OSError as error:
            raise InvalidFile(f"{path} cannot be read as {what}: {error.strerror or error}", hint) from None
    if len(content) > largest:
        raise InvalidFile(f"{path} cannot be read as {what}: it is larger than {largest:,} bytes", hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path} cannot be read as {what}: it is not UTF-8 text ({error})", hint or "save it as UTF-8") from None


def read_json(path: Path, hint: str = "", largest: int = LARGEST_JSON) -> Any:
    """Any JSON value from a file. Raises InvalidFile: see :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, "JSON", largest, hint), f"{path} cannot be read as JSON", hint)


def read_object(path: Path, hint: str = "", largest: int = LARGEST_JSON) -> dict[str, Any]:
    """A JSON object from a file. Raises InvalidFile: see :func:`read_json`; or another JSON value."""
    data = read_json(path, hint, largest)
    if not isinstance(data, dict):
        raise InvalidFile(f"{path} holds a JSON {type(data).__name__}, an object was expected", hint)
    return data


def parse_json(text: str | bytes, failed: str, hint: str = "") -> Any:
    """A JSON value.

    Args:
        text: of a size that the caller has bounded; bytes are UTF-8.
        failed: how the message begins: "FILE cannot be read as JSON".
        hint: for the message.

    Raises:
        InvalidFile: not JSON, or beyond what this module's docstring allows.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
        _expect_plain(value, odd=_ODD.search(text) is not None)
    except RecursionError:
        raise InvalidFile(f"{failed}: it is nested too deeply", hint) from None
    except ValueError as error:  # also JSONDecodeError and UnicodeDecodeError
        raise InvalidFile(f"{failed}: {error}", hint) from None
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data. Raises InvalidFile: see :func:`read_text` and :func:`parse_toml`."""
    return parse_toml(read_text(path, "TOML", LARGEST_TOML), f"{path} cannot be read as TOML")


def parse_toml(text: str, failed: str) -> dict[str, Any]:
    """TOML as plain data.

    Args:
        text: of a size that the caller has bounded.
        failed: how the message begins: "FILE cannot be read as TOML".

    Raises:
        InvalidFile: not TOML (with line and column), or beyond what this module's docstring allows.
    """
    try:
        if _DOTTED.search(_TOML.sub(lambda found: "q" if found["quoted"] else found[0] if not found["comment"] else "", text)):
            raise ValueError(f"a key has more than {LONGEST_KEY} parts")
        value = tomllib.loads(text)
        _expect_plain(value, odd=_ODD.search(text) is not None)
    except RecursionError:
        raise InvalidFile(f"{failed}: it is nested too deeply") from None
    except ValueError as error:  # also TOMLDecodeError
        raise InvalidFile(f"{failed}: {error}") from None
    return value


def toml_statements(text: str) -> Iterator[str]:
    """A valid TOML text cut after each statement: a key with its value, a table's header, a comment or an empty line."""
    start = depth = 0
    for found in _TOML.finditer(text):
        depth += bool(found["open"]) - bool(found["close"])
        if found["line"] and depth == 0:
            yield text[start : found.end()]
            start = found.end()
    if start < len(text):
        yield text[start:]


def read_npy(path: Path, what: str = "a .npy array") -> npt.NDArray[np.generic]:
    """An array, memory-mapped read-only, so that its header cannot claim more than the file holds.

    Raises:
        InvalidFile: not a regular file, damaged, without elements, or with Python objects.
    """
    import numpy as np

    with regular_file(path, what) as stream:
        if stream.read(6) != b"\x93NUMPY":  # numpy would read an archive and a pickle, too
            raise InvalidFile(f"{path} cannot be read as {what}: it does not start with the header of one")
    try:
        loaded: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise InvalidFile(f"{path} cannot be read as {what}: {_reason(error)}") from None
    return loaded


def read_safetensors(path: Path, hint: str = "") -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises InvalidFile: not a regular file, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with regular_file(path, "safetensors", hint):
        pass
    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        raise InvalidFile(f"{path} cannot be read as safetensors: {_reason(error)}", hint) from None


def read_torch(path: Path, what: str, hint: str = "") -> Any:
    """Load a file of ``torch.save`` on the CPU, without executing code from it.

    Args:
        path: the file.
        what: for the message: "weights".
        hint: for the message.

    Raises:
        InvalidFile: not a regular file, damaged, or it holds more than tensors and plain values.
    """
    import torch

    with regular_file(path, what, hint):
        pass
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        refused = "it is damaged, or holds more than tensors and is not opened, because opening it could run code"
        raise InvalidFile(f"{path} cannot be read as {what}: {refused}", hint) from None
    except DAMAGED as error:
        raise InvalidFile(f"{path} cannot be read as {what}: {_reason(error)}", hint) from None


def _reason(error: BaseException) -> str:
    """The first line of an exception."""
    return next(iter(str(error).splitlines()), "") or f"it is empty or damaged ({type(error).__name__})"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} occurs twice in one object")
        found[key] = value
    return found


def _integer(text: str) -> int:
    if len(text) > DIGITS + 1:
        raise ValueError(f"a whole number has {len(text):,} digits, at most {DIGITS} were expected")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is not a finite number")
    return value


def _expect_plain(value: Any, odd: bool) -> None:
    """Raise ValueError for deep nesting, large integers and, if ``odd``, for characters that cannot be written or be in a path."""
    level = [value]
    for _ in range(DEEPEST):
        if odd:
            for text in _texts(level):
                if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                    raise ValueError(f"the text {text[:40]!r} holds a NUL or half a character (a lone surrogate)")
        for number in level:
            if isinstance(number, int) and abs(number) >= 10**DIGITS:
                raise ValueError(f"a whole number has more than {DIGITS} digits")
        level = [
            inner for outer in level if isinstance(outer, dict | list) for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _texts(level: list[Any]) -> Iterator[str]:
    """The texts and keys in one level."""
    for value in level:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
