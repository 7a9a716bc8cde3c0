"""Parses the files that trtexec writes: times of single runs, times of layers, outputs.

Python 3.6 syntax: this file is copied into bundles unchanged.

Formats: exportJSONTrace, Profiler::exportJSONProfile and exportJSONOutput in samples/common/sampleReporting.cpp of NVIDIA/TensorRT, read
at the tags 8.2.1, 8.4.1, 8.5.2, v8.6.1, v10.3.0, v10.16 and v11.1. They are written by printing: names are not escaped, and a number may
be ``nan`` or ``inf``, which JSON lacks.
"""

import json
import math
import re
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from ..errors import DeviceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NUMBER = r"-?(?:[0-9][0-9.]*(?:e[-+]?[0-9]+)?|inf|nan)"
_COUNT = re.compile(r'\{ "count" : ([0-9]+) \}$')
_LAYER = re.compile(  # greedy: a name may contain quotes and even keys
    r'^, \{{ "name" : "(?P<name>.*)", "timeMs" : (?P<total>{0}), "averageMs" : (?P<average>{0})'
    r'(?:, "medianMs" : (?P<median>{0}))?, "percentage" : (?P<percent>{0}) \}}$'.format(_NUMBER)
)


class ProfiledLayer(NamedTuple):
    """Time of a layer over all runs of a profile."""

    name: str
    total_ms: float
    average_ms: float
    median_ms: Optional[float]  # None before TensorRT 8.5
    percent: float  # of all layers' time; nan where that is 0


def read_times(text: str, queries: int, warmup: int) -> Tuple[int, ...]:
    """Latencies of the single queries of a measurement, from a file of ``--exportTimes``.

    TensorRT 8.2 and 8.4 also write the queries of the warm-up first; these are removed.

    Args:
        text: the file.
        queries: number of measured queries in the log.
        warmup: number of warm-up queries in the log.

    Returns:
        ns, in order: copies to the GPU, computation and copies back, as requested. trtexec stores times since the start in single
        precision, so a sample in a run of seconds has a resolution of about 0.25 us.

    Raises:
        DeviceError: the file is truncated, of another kind, or has another number of queries.
    """
    try:
        found = json.loads(text)
        latencies = [round(_milliseconds(item["latencyMs"]) * 1e6) for item in found]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeviceError("trtexec's file of times cannot be read: {}".format(error), "run it again") from None
    if len(latencies) not in (queries, queries + warmup):
        message = "trtexec's file of times holds {} queries; its log reports {} after {} of warm-up"
        raise DeviceError(message.format(len(latencies), queries, warmup), "run it again")
    measured = latencies[len(latencies) - queries :]
    if not measured or min(measured) <= 0:
        raise DeviceError("trtexec's file of times holds no times, or a time of 0: {} queries".format(len(measured)), "run it again")
    return tuple(measured)


def _milliseconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("expected a time in ms, found {!r}".format(value))
    return float(value)


def read_profile(text: str) -> "Tuple[ProfiledLayer, ...]":
    """Times of the layers, from a file of ``--exportProfile``.

    Raises:
        DeviceError: the file is truncated or has an unexpected line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or lines[0] != "[" or lines[-1] != "]" or not _COUNT.match(lines[1]):
        raise DeviceError(
            "trtexec's file of layer times is cut short or of another kind: {} lines; expected lines from [ to ]".format(len(lines)),
            "run it again",
        )
    layers = []
    for line in lines[2:-1]:
        found = _LAYER.match(line)
        if not found:
            raise DeviceError("trtexec's file of layer times holds an unknown line: {:.200}".format(line))
        total, average, percent = (float(found.group(name)) for name in ("total", "average", "percent"))
        median = found.group("median")
        layers.append(ProfiledLayer(found.group("name"), total, average, None if median is None else float(median), percent))
    return tuple(layers)


def read_output_file(text: str) -> "npt.NDArray[np.float32]":
    """The one output tensor, from a file of ``--exportOutput``.

    Returns:
        float32, with the shape in the file; values have six digits.

    Raises:
        DeviceError: the file is truncated, has another number of tensors, or a value that is not finite.
    """
    import numpy as np  # imported here: reading a log does not need numpy

    numbers = re.sub(r"-?\b(nan|inf)\b", lambda found: {"nan": "NaN", "inf": "Infinity"}[found.group(1)], text)
    try:
        tensors = json.loads(numbers)
        if len(tensors) != 1:
            raise ValueError("{} tensors, 1 was expected".format(len(tensors)))
        shape = tuple(int(axis) for axis in tensors[0]["dimensions"].split("x"))
        values = np.array(tensors[0]["values"], dtype=np.float32).reshape(shape)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DeviceError("trtexec's file of outputs cannot be read: {}".format(error)) from None
    if not np.isfinite(values).all():
        raise DeviceError("the engine's output is not finite: the model overflows in this precision", "use another precision")
    return values
