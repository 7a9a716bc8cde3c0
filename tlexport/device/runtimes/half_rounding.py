"""Quantizes FP16 tensors in FP32 for versions of ONNX Runtime whose CPU kernel truncates instead of rounding.

These are the versions before 1.30 (microsoft/onnxruntime#32452). Graphs for TensorRT have FP16 scales from opset 19 on. The model is
rewritten in memory, without the onnx package. Field numbers: onnx.proto. Python 3.6 syntax: this file is copied into bundles unchanged.
"""

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from .onnx_nodes import fields

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXED = (1, 30)  # first version that rounds
_GRAPH = 7  # in ModelProto
_NODE, _INITIALIZER = 1, 5  # in GraphProto
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # in NodeProto
_TYPE, _INT32S, _TENSOR_NAME, _RAW = 2, 5, 8, 9  # in TensorProto
_FP32 = b"\x10\x01"  # data_type FLOAT of a TensorProto
_INT8, _FLOAT16 = 3, 10  # TensorProto.DataType
_AXIS_0 = b"\x0a\x04axis\x18\x00\xa0\x01\x02"  # an AttributeProto: name "axis", i 0, type INT
# each an AttributeProto: name "to", i TensorProto.FLOAT or INT8, type INT
_TO_FLOAT, _TO_INT8 = b"\x0a\x02to\x18\x01\xa0\x01\x02", b"\x0a\x02to\x18\x03\xa0\x01\x02"


def rounding(path: "str | Path") -> "str | bytes":
    """The path, or the bytes of the same model in which each FP16 QuantizeLinear is written as Concat, Cast, Div, Round, Clip and Cast.

    The Concat of one tensor prevents ONNX Runtime from removing the cast together with the preceding cast to FP16, so values stay
    rounded to FP16. A QuantizeLinear with an FP32 scale after a Cast would be simpler, but versions 1.19 and 1.20 cannot open it.
    """
    try:
        model = memoryview(Path(path).read_bytes())
        parts = [(number, whole, _graph(content) if number == _GRAPH else b"") for number, whole, content in fields(model)]
    except (OSError, ValueError, IndexError):
        return str(path)  # ONNX Runtime reports the error
    if not any(graph for _, _, graph in parts):
        return str(path)
    return b"".join(_field(_GRAPH, graph) if graph else bytes(whole) for _, whole, graph in parts)


def _graph(message: memoryview) -> bytes:
    """A rewritten graph; empty if it does not quantize FP16."""
    halves = {}  # type: dict[bytes, float]
    zeros = set()  # type: set[bytes]
    for number, _, content in fields(message):
        if number == _INITIALIZER:
            tensor = {field: value for field, _, value in fields(content)}
            name, kind, raw = bytes(tensor.get(_TENSOR_NAME, b"")), tensor.get(_TYPE), bytes(tensor.get(_RAW, b""))
            if kind == _FLOAT16 and len(raw) == 2:  # a scalar: an activation has one scale
                halves[name] = struct.unpack("<e", raw)[0]
            elif kind == _INT8 and not any(raw) and not any(bytes(tensor.get(_INT32S, b""))):
                zeros.add(name)
    result = []  # type: list[bytes]
    constants = {}  # type: dict[bytes, float]
    for number, whole, content in fields(message):
        rewritten = list(_node(content, halves, zeros, constants)) if number == _NODE else []
        result += [_field(_NODE, node) for node in rewritten] or [bytes(whole)]
    for name, value in constants.items():
        result.append(_field(_INITIALIZER, _FP32 + _field(_TENSOR_NAME, name) + _field(_RAW, struct.pack("<f", value))))
    return b"".join(result) if constants else b""


def _node(message: memoryview, halves: "dict[bytes, float]", zeros: "set[bytes]", constants: "dict[bytes, float]") -> "Iterator[bytes]":
    """The nodes in place of a QuantizeLinear with an FP16 scale and an INT8 zero point of 0; nothing for any other.

    Adds the FP32 numbers that they read to ``constants``.
    """
    parts = list(fields(message))
    read = (_INPUT, _OUTPUT, _OPERATOR, _DOMAIN)
    texts = {field: [bytes(value) for number, _, value in parts if number == field] for field in read}
    inputs = texts[_INPUT]
    if texts[_OPERATOR] != [b"QuantizeLinear"] or any(texts[_DOMAIN]) or len(inputs) < 3:
        return
    if inputs[1] not in halves or inputs[2] not in zeros:
        return
    [output] = texts[_OUTPUT]
    scale, least, largest = inputs[1] + b"_tlx_fp32", b"tlx_least", b"tlx_largest"
    constants.update({scale: halves[inputs[1]], least: -128.0, largest: 127.0})
    steps = (
        (b"Concat", _AXIS_0, []),
        (b"Cast", _TO_FLOAT, []),
        (b"Div", b"", [scale]),
        (b"Round", b"", []),
        (b"Clip", b"", [least, largest]),
        (b"Cast", _TO_INT8, []),
    )  # type: tuple[tuple[bytes, bytes, list[bytes]], ...]
    name = inputs[0]
    for place, (operator, attribute, more) in enumerate(steps):
        given = b"%s_tlx_%d" % (output, place) if place + 1 < len(steps) else output
        node = [_field(_INPUT, name), *(_field(_INPUT, other) for other in more), _field(_OUTPUT, given), _field(_OPERATOR, operator)]
        yield b"".join(node) + (_field(_ATTRIBUTE, attribute) if attribute else b"")
        name = given


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
