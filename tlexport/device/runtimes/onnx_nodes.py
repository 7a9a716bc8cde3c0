"""Reads names and operators of the nodes of an ONNX file without the onnx package, which few boards have.

TensorRT before 10 reports only the number of the node that it refuses. Field numbers: onnx.proto. Python 3.6 syntax: this file is
copied into bundles unchanged.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_GRAPH, _NODE = 7, 1  # in ModelProto, in GraphProto
_NAME, _OPERATOR = 3, 4  # in NodeProto
_LENGTHS = {1: 8, 5: 4}  # bytes of the wire types with a fixed length


class Node(NamedTuple):
    """One node of a graph."""

    name: str
    operator: str


def read_nodes(path: "str | Path") -> "list[Node]":
    """The nodes of the main graph, in the file's order; empty if the file is not an ONNX file."""
    try:
        model = memoryview(Path(path).read_bytes())
        return [_node(part) for graph in _parts(model, _GRAPH) for part in _parts(graph, _NODE)]
    except (OSError, ValueError, IndexError):
        return []


def _node(message: memoryview) -> Node:
    texts = [b"".join(bytes(part) for part in _parts(message, field)) for field in (_NAME, _OPERATOR)]
    return Node(*(text.decode("utf-8", "replace") for text in texts))


def _parts(message: memoryview, wanted: int) -> "Iterator[memoryview]":
    """The contents of every length-delimited field with a number, in a protobuf message."""
    return (content for number, _, content in fields(message) if number == wanted and isinstance(content, memoryview))


def fields(message: memoryview) -> "Iterator[tuple[int, memoryview, Any]]":
    """Each field of a protobuf message: its number, its bytes, and its content (a number for a varint).

    Raises:
        ValueError, IndexError: the message is incomplete.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        content = message[at:at]  # type: Any
        if kind == 0:
            content, at = _varint(message, at)
        elif kind == 2 or kind in _LENGTHS:
            length, at = _varint(message, at) if kind == 2 else (_LENGTHS[kind], at)
            if at + length > len(message):
                raise ValueError("a field that is longer than its message")
            content = message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> 3, message[start:at], content


def _varint(message: memoryview, at: int) -> "tuple[int, int]":
    """A number of variable length, and the index of its end."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
