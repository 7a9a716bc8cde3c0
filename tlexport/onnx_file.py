"""An ONNX file as a stranger may have made it: looked at before any runtime opens it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlexport.errors import InvalidFile
from tlexport.untrusted import regular_file

if TYPE_CHECKING:
    import onnx


def check_onnx_file(path: Path) -> None:
    """Refuse what is no file, and models that read their weights from other files.

    Those names would be followed wherever they lead, and the file's hash would say nothing of the weights.

    Raises:
        InvalidFile: missing, empty, not to be read, not ONNX, or with external data.
    """
    if not path.is_file():
        raise InvalidFile(f"{path} {'is not a file' if path.exists() else 'does not exist'}; an ONNX file was expected")
    try:
        with regular_file(path, "ONNX") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            suspect = content.find(b"location") >= 0  # the key that every reference to another file has
    except ValueError:
        raise InvalidFile(f"{path} is empty; an ONNX file was expected") from None
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None
    if not suspect:
        return
    if _external(read_onnx(path)):
        raise InvalidFile(
            f"{path} keeps its weights in other files (ONNX external data); one file that holds everything was expected",
            "join them in Python: onnx.save(onnx.load('model.onnx'), 'joined.onnx')",
        )


def read_onnx(path: Path) -> onnx.ModelProto:
    """The graph of an ONNX file, with the weights that are inside it; other files would be followed wherever their names lead.

    Raises:
        InvalidFile: not a regular file, not to be read, or not ONNX.
    """
    import onnx  # only where it is needed: it costs 0.1 s and memory that a measurement would count
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    with regular_file(path, "ONNX") as stream:
        try:
            return onnx.load_model(stream, format="protobuf", load_external_data=False)
        except (DecodeError, OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
            raise InvalidFile(f"{path} is not an ONNX file: {error}") from None


def _external(message: Any) -> bool:
    """Whether a tensor anywhere in a protobuf message has its data in another file."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        return bool(message.external_data) or message.data_location == onnx.TensorProto.EXTERNAL
    for field, value in message.ListFields():
        if field.message_type is not None and any(_external(child) for child in ([value] if hasattr(value, "ListFields") else value)):
            return True
    return False
