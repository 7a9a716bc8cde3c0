"""Checks an untrusted ONNX file before a runtime opens it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.errors import InvalidFile
from tlexport.onnx_model.names import is_external, printable
from tlexport.storage.untrusted import regular_file

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
LARGEST = 2**31 - 1  # bytes of a protobuf message, and so of an ONNX file


def is_onnx_name(path: Path) -> bool:
    """Whether a file has the suffix of an ONNX model, in any case."""
    return path.suffix.lower() == SUFFIX


def check_onnx_file(path: Path) -> None:
    """Refuse a path that is not a regular file, and a model that reads its weights from other files.

    A runtime would open those files at any path, and the file's hash would not cover the weights.

    Raises:
        InvalidFile: missing, empty, unreadable, not ONNX, or with external data.
    """
    if not may_refer_to_files(path):
        return
    # a late import: onnx takes 0.1 s, and memory that a measurement would count
    from tlexport.onnx_model.tensors import tensors_in

    if any(is_external(tensor) for tensor in tensors_in(read_onnx(path))):
        raise InvalidFile(
            f"{path} keeps its weights in other files (ONNX external data); a single file was expected",
            "join them in Python: onnx.save(onnx.load('model.onnx'), 'joined.onnx')",
        )


def may_refer_to_files(path: Path) -> bool:
    """Whether the file's bytes contain the key that every reference to external data has. Loads no library.

    Raises:
        InvalidFile: missing, not a regular file, empty, too large for ONNX, or unreadable.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError:
        name = str(path).encode(errors="backslashreplace").decode()
        raise InvalidFile(f"the name {name} is not UTF-8", "rename the file") from None
    try:
        if not path.is_file():
            raise InvalidFile(f"{path} {'is not a file' if path.exists() else 'does not exist'}; an ONNX file was expected")
        size = path.stat().st_size
        if size > LARGEST:
            raise InvalidFile(
                f"{path} holds {size} bytes; an ONNX file holds at most {LARGEST}",
                "keep the weights in a second file: onnx.save(model, 'model.onnx', save_as_external_data=True)",
            )
        with regular_file(path, "ONNX") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"location") >= 0
    except ValueError:
        raise InvalidFile(f"{path} is empty; an ONNX file was expected") from None
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in a file, without external data.

    Raises:
        InvalidFile: unreadable, or not a protobuf message of a model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    with regular_file(path, "ONNX") as stream:
        try:
            model: onnx.ModelProto = onnx.ModelProto.FromString(stream.read(min(LARGEST, os.fstat(stream.fileno()).st_size)))
        except OSError as error:
            raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None
        except (DecodeError, ValueError, TypeError, RuntimeError, RecursionError) as error:
            raise InvalidFile(f"{path} cannot be read as ONNX: {printable(str(error))}") from None
    return model
