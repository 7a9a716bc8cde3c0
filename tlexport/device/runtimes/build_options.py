"""Options for building an engine, by TensorRT version. Python 3.6 syntax: this file is copied into bundles unchanged."""

import re
from typing import Tuple

from ..errors import InvalidFile, Unsupported

# opset from which a graph's scales are FP16 (ONNX: QuantizeLinear, DequantizeLinear 19): a strongly typed network takes from a
# scale the type in which it goes on computing
TYPED_SCALES = 19

OLDEST = (8, 2)  # JetPack 4.6, the oldest with a profile
PRECISIONS = ("fp32", "fp16", "int8")


def parse_version(text: str) -> Tuple[int, ...]:
    """Parse a version of TensorRT.

    Args:
        text: as TensorRT's Python module, dpkg or trtexec write it: ``"10.3.0.30"``, ``"8.6.1.post1"``, ``"10.3.0.30-1+cuda12.5"``.

    Returns:
        At least major and minor: ``(10, 3, 0, 30)``.

    Raises:
        InvalidFile: the text does not start with major and minor numbers.
    """
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,9})+)", text.strip())
    if not found:
        raise InvalidFile("{!r} is no version of TensorRT: numbers with points between, such as 10.3.0.30, were expected".format(text))
    return tuple(int(part) for part in found.group(1).split("."))


def version_text(version: Tuple[int, ...]) -> str:
    """``"10.3.0.30"`` for ``(10, 3, 0, 30)``."""
    return ".".join(str(part) for part in version)


def precision_flags(version: Tuple[int, ...], precision: str, opset: int) -> Tuple[str, ...]:
    """The builder options for a precision, with the names of trtexec's options.

    TensorRT 8 and 9 take the precisions as flags that allow them. 10 can take the types from the graph (``stronglyTyped``); but an
    INT8 graph with FP32 scales, as those below opset 19 are, would then run its other layers in FP32, so it is built with flags there
    too. From 11 on the graph's types are all there is, and the flags are gone. (trtexec's own option lists, tags 8.2.1 to 11.1.)

    Args:
        version: of TensorRT, from the major one on.
        precision: of the model: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        opset: of the ONNX graph.

    Returns:
        ``("stronglyTyped",)``, ``("fp16",)``, ``("fp16", "int8")``, or nothing if the types in the graph suffice.

    Raises:
        Unsupported: another precision, or a TensorRT older than 8.2.
    """
    if tuple(version) < OLDEST:
        raise Unsupported(
            "TensorRT {} is too old: engines are built with {} or newer".format(version_text(version), version_text(OLDEST)),
            "update JetPack, or use another device",
        )
    if precision not in PRECISIONS:
        raise Unsupported("no engine is built in {}: {} are known".format(precision, ", ".join(PRECISIONS)))
    if precision == "int8" and (version[0] < 10 or (version[0] == 10 and opset < TYPED_SCALES)):
        return ("fp16", "int8")
    if version[0] < 10:
        return ("fp16",) if precision == "fp16" else ()
    return ("stronglyTyped",) if version[0] == 10 else ()
