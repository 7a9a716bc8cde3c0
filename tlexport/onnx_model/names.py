"""Names in an ONNX file, made printable for messages, and a test for external data. Loads no library."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

LONGEST_NAME = 100  # characters of a name in a message


def printable(name: str) -> str:
    """A name from a file for messages: without control characters, at most one line long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name[: LONGEST_NAME + 1])
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data is in another file."""
    return bool(tensor.external_data) or tensor.data_location == 1  # TensorProto.EXTERNAL
