"""Options for building an engine, by TensorRT version. Python 3.6 syntax: this file is copied into bundles unchanged."""

import re
from typing import Tuple

from ..errors import InvalidFile, Unsupported

# opset from which a graph's scales are FP16 (ONNX: QuantizeLinear, DequantizeLinear 19): a strongly typed network derives the type of
# the dequantized tensor from its scale
TYPED_SCALES = 19

OLDEST = (8, 2)  # JetPack 4.6, the oldest with a profile
PRECISIONS = ("fp32", "fp16", "int8")


def parse_version(text: str) -> Tuple[int, ...]:
    """Parse a version of TensorRT.

    Args:
        text: in the form of TensorRT's Python module, dpkg or trtexec: ``"10.3.0.30"``, ``"8.6.1.post1"``, ``"10.3.0.30-1+cuda12.5"``.

    Returns:
        At least major and minor: ``(10, 3, 0, 30)``.

    Raises:
        InvalidFile: the text does not start with major and minor numbers.
    """
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,9})+)", text.strip())
    if not found:
        raise InvalidFile("{!r} is not a version of TensorRT; expected numbers separated by points, such as 10.3.0.30".format(text))
    return tuple(int(part) for part in found.group(1).split("."))


def version_text(version: Tuple[int, ...]) -> str:
    """``"10.3.0.30"`` for ``(10, 3, 0, 30)``."""
    return ".".join(str(part) for part in version)


def precision_flags(version: Tuple[int, ...], precision: str, opset: int) -> Tuple[str, ...]:
    """The builder options for a precision, with the names of trtexec's options.

    TensorRT 8 and 9 have flags that allow precisions. TensorRT 10 can take the types from the graph (``stronglyTyped``), but would
    then run the other layers of an INT8 graph with FP32 scales (below opset 19) in FP32, so such graphs are also built with flags.
    TensorRT 11 always takes the types from the graph and has no such flags. (Option lists of trtexec, tags 8.2.1 to 11.1.)

    Args:
        version: version of TensorRT, starting with the major number.
        precision: precision of the model: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        opset: opset of the ONNX graph.

    Returns:
        ``("stronglyTyped",)``, ``("fp16",)``, ``("fp16", "int8")``, or nothing if the types in the graph suffice.

    Raises:
        Unsupported: unknown precision, or TensorRT older than 8.2.
    """
    if tuple(version) < OLDEST:
        raise Unsupported(
            "TensorRT {} is too old: engines are built with {} or newer".format(version_text(version), version_text(OLDEST)),
            "update JetPack, or use another device",
        )
    if precision not in PRECISIONS:
        raise Unsupported("engines cannot be built in {}; known precisions: {}".format(precision, ", ".join(PRECISIONS)))
    if precision == "int8" and (version[0] < 10 or (version[0] == 10 and opset < TYPED_SCALES)):
        return ("fp16", "int8")
    if version[0] < 10:
        return ("fp16",) if precision == "fp16" else ()
    return ("stronglyTyped",) if version[0] == 10 else ()
