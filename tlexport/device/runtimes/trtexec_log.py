"""Parse the log of trtexec. Python 3.6 syntax: this file is copied into bundles unchanged.

The format is that of NVIDIA/TensorRT's samples (samples/common: sampleReporting.cpp, sampleOptions.cpp, sampleDevice.cpp, logging.h;
samples/trtexec/trtexec.cpp), read at the tags 8.2.1, 8.4.1, 8.5.2, v8.6.1, v10.3.0, v10.16 and v11.1. Except where noted, the parsed
lines are equal in all of them. A figure that a run does not print is None.
"""

import re
from typing import TYPE_CHECKING, Dict, NamedTuple, Optional, Tuple

from ..errors import DeviceError

if TYPE_CHECKING:
    from typing import List, Sequence

LAST_LINES = 15  # lines of a log in an error
MEBIBYTE = 1 << 20  # trtexec's "MiB"

# required values after a build, and after a measurement
BUILT = ("tensorrt", "device", "compute_capability", "build_seconds")
MEASURED = ("tensorrt", "device", "compute_capability", "load_seconds", "throughput_qps", "latency", "gpu_compute", "queries")

_NUMBER = r"[-+]?(?:[0-9][0-9.]*(?:[eE][-+]?[0-9]+)?|inf|nan)"
_PREFIX = re.compile(r"^\[[^\]]*\] \[([FEWIV])\] ?(.*)$")  # "[11/21/2026-18:47:34] [I] text"
_BANNER = re.compile(r"&&&& (RUNNING|PASSED|FAILED|WAIVED) TensorRT\.trtexec(?: \[TensorRT v([0-9]+)\])?(?: \[b([0-9]+)\])?")
_STATISTICS = re.compile(r"min = ({0}) ms, max = ({0}) ms, mean = ({0}) ms, median = ({0}) ms(.*)".format(_NUMBER))
_PERCENTILE = re.compile(r"percentile\(({0})%\) = ({0}) ms".format(_NUMBER))


class Statistics(NamedTuple):
    """One line of the performance summary, ms."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: Dict[float, float]  # percent -> ms; TensorRT 8.2 and 8.4 print one, of 99 %


class TrtexecLog(NamedTuple):
    """The values in a log. Seconds are wall time; the latencies are those of one query, which is one batch."""

    verdict: str  # "PASSED", "FAILED", "WAIVED"; "" if the log ends without one
    tensorrt: Optional[str]  # "10.3.0", from 10.14 on with the build number: "10.16.2.10"
    device: Optional[str]  # name of the GPU
    compute_capability: Optional[str]  # "8.7"
    build_seconds: Optional[float]
    engine_bytes: Optional[int]  # to six digits; from 10 on
    load_seconds: Optional[float]  # reading and preparing the engine
    throughput_qps: Optional[float]  # queries, not images
    latency: Optional[Statistics]  # H2D, compute and D2H together
    enqueue: Optional[Statistics]
    h2d: Optional[Statistics]
    gpu_compute: Optional[Statistics]
    d2h: Optional[Statistics]
    warmup_queries: Optional[int]
    queries: Optional[int]
    cuda_graph: Optional[bool]  # whether a CUDA graph was used
    spin_wait: Optional[bool]
    data_transfers: Optional[bool]  # whether the latency includes H2D and D2H
    warnings: Tuple[str, ...]  # trtexec's warnings about the figures: bound by enqueueing, unstable, ...
    errors: Tuple[str, ...]  # lines of severity E and F


def read_log(text: str) -> TrtexecLog:
    """Read a complete or truncated log. Never raises; missing values are None. See :func:`require`.

    Args:
        text: standard output and standard error of trtexec together.
    """
    lines = [_split(line) for line in text.splitlines()]
    plain = [line for _, line in lines]
    banners = [found for found in map(_BANNER.search, plain) if found]
    ends = [found.group(1) for found in banners if found.group(1) != "RUNNING"]
    figures = {name: _statistics(plain, words) for name, words in _SUMMARY.items()}
    return TrtexecLog(
        verdict=ends[-1] if ends else "",
        tensorrt=_version(banners, plain),
        device=_after(plain, "Selected Device: "),
        compute_capability=_after(plain, "Compute Capability: "),
        build_seconds=_float(plain, r"Engine built in ({}) sec\.".format(_NUMBER)),
        engine_bytes=_engine_bytes(plain),
        load_seconds=_load_seconds(plain),
        throughput_qps=_float(plain, r"Throughput: ({}) qps".format(_NUMBER)),
        warmup_queries=_int(plain, r"Warmup completed ([0-9]+) queries over "),
        queries=_int(plain, r"Timing trace has ([0-9]+) queries over "),
        cuda_graph=_cuda_graph(plain),
        spin_wait=_enabled(plain, "Spin-wait: "),
        data_transfers=_enabled(plain, "Data transfers: "),
        warnings=tuple(line[2:] for severity, line in lines if severity == "W" and line.startswith("* ")),
        errors=tuple(line for severity, line in lines if severity in ("E", "F")),
        **figures,
    )


def require(text: str, names: "Sequence[str]", status: int = 0) -> TrtexecLog:
    """Read the log of a run that must have succeeded.

    Args:
        text: the log.
        names: required fields of :class:`TrtexecLog`, such as :data:`BUILT` or :data:`MEASURED`.
        status: exit status of trtexec.

    Raises:
        DeviceError: trtexec failed, or its log is truncated or lacks a figure; the message lists these and the last lines.
    """
    log = read_log(text)
    if log.verdict == "FAILED" or status != 0:
        ended = "with exit status {}".format(status) if status >= 0 else "by signal {}".format(-status)
        reason = ": " + log.errors[0] if log.errors else " (it ended {} without a reason)".format(ended)
        raise DeviceError("trtexec failed" + reason + _tail(text), _remedy(text, status))
    if not log.verdict:
        raise DeviceError("the log of trtexec is cut short: its last line, &&&& PASSED, is missing" + _tail(text))
    missing = [name for name in names if getattr(log, name) is None]
    if log.verdict != "PASSED" or missing:
        what = "the log of trtexec lacks: {}".format(", ".join(missing)) if missing else "trtexec ended with " + log.verdict
        raise DeviceError(what + _tail(text))
    return log


def percentile(samples: "Sequence[float]", percent: float) -> float:
    """The percentile by trtexec's rule: the sorted sample before the largest ``(1 - percent / 100) * n``, at least the first.

    It is always a real sample, of the nearest rank or the next larger one. Like trtexec, it computes in single precision, where the
    product can be slightly below an integer: the 99th percentile of 100 samples is the largest. (findPercentile in sampleReporting.cpp.)

    Args:
        samples: at least one, in any order.
        percent: 0 to 100.

    Raises:
        ValueError: no samples, or ``percent`` is out of range.
    """
    import numpy as np  # here: reading a log needs none

    if not samples or not 0 <= percent <= 100:
        raise ValueError("{} samples, percentile {}: at least one, and 0 to 100 were expected".format(len(samples), percent))
    above = (np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(len(samples))
    return sorted(samples)[max(len(samples) - 1 - int(above), 0)]


def last_lines(text: str, count: int = LAST_LINES) -> "List[str]":
    """The last lines that are not empty, without the time stamps."""
    lines = [line for _, line in map(_split, text.splitlines()) if line.strip()]
    return lines[-count:]


def _tail(text: str) -> str:
    lines = last_lines(text)
    return "".join("\n  " + line for line in lines) if lines else "; it is empty"


def _remedy(text: str, status: int) -> str:
    lower = text.lower()
    if "timingcache creation failed" in lower:
        return "the timing cache is damaged: delete *.timing.cache beside the engine, and run the command again"
    if status == -9 or "outofmemory" in lower or "out of memory" in lower:
        return "the device ran out of memory: end other programs or add swap, and run the command again"
    if "version tag does not match" in lower or "magic tag does not match" in lower:
        return "the engine was built by another TensorRT: python3 run.py build"
    return ""


_SUMMARY = {
    "latency": "Latency: ",
    "enqueue": "Enqueue Time: ",
    "h2d": "H2D Latency: ",
    "gpu_compute": "GPU Compute Time: ",
    "d2h": "D2H Latency: ",
}


def _split(line: str) -> "Tuple[str, str]":
    """Severity and text of a line; lines of other programs have no severity."""
    found = _PREFIX.match(line)
    return (found.group(1), found.group(2)) if found else ("", line)


def _after(lines: "Sequence[str]", words: str) -> Optional[str]:
    """The rest of the last line with this prefix."""
    found = [line[len(words) :].strip() for line in lines if line.startswith(words)]
    return found[-1] or None if found else None


def _search(lines: "Sequence[str]", pattern: str) -> Optional[str]:
    found = [match.group(1) for match in (re.match(pattern, line) for line in lines) if match]
    return found[-1] if found else None


def _float(lines: "Sequence[str]", pattern: str) -> Optional[float]:
    found = _search(lines, pattern)
    return None if found is None else _number(found)


def _int(lines: "Sequence[str]", pattern: str) -> Optional[int]:
    found = _search(lines, pattern)
    return None if found is None else int(found)


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:  # "1.2.3", from a garbled line
        return None


def _enabled(lines: "Sequence[str]", words: str) -> Optional[bool]:
    return {"Enabled": True, "Disabled": False}.get(_after(lines, words) or "")


def _cuda_graph(lines: "Sequence[str]") -> Optional[bool]:
    """Whether the requested CUDA graph was used; trtexec drops it if the engine cannot be captured."""
    refused = any("not permitted under CUDA graph capture mode" in line for line in lines)
    return False if refused else _enabled(lines, "CUDA Graph: ")


def _load_seconds(lines: "Sequence[str]") -> Optional[float]:
    """TensorRT 8.2 loads in one step; later versions read the file, and prepare the engine at first use."""
    parts = [_float(lines, r"Engine {} in ({}) sec\.".format(done, _NUMBER)) for done in ("loaded", "deserialized")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _engine_bytes(lines: "Sequence[str]") -> Optional[int]:
    size = _float(lines, r"(?:Created|Loaded) engine with size: ({}) MiB".format(_NUMBER))
    return None if size is None or not 0 <= size < float("inf") else round(size * MEBIBYTE)


def _statistics(lines: "Sequence[str]", words: str) -> Optional[Statistics]:
    found = _STATISTICS.match(_after(lines, words) or "")
    if not found:
        return None
    figures = [_number(text) for text in found.groups()[:4]]
    percentiles = [(_number(a), _number(b)) for a, b in _PERCENTILE.findall(found.group(5))]
    low, high, mean, median = figures
    if low is None or high is None or mean is None or median is None:
        return None
    return Statistics(low, high, mean, median, {a: b for a, b in percentiles if a is not None and b is not None})


def _version(banners: "Sequence[object]", lines: "Sequence[str]") -> Optional[str]:
    """The version in the banner, with the build number if present; otherwise that of the line "TensorRT version: "."""
    for found in banners:
        code, build = found.group(2), found.group(3)  # type: ignore[attr-defined]  # re.Match is nameless in Python 3.6
        if code:
            return version_of(int(code)) + ("." + build if build else "")
    return _search(lines, r"TensorRT version: ([0-9]+(?:\.[0-9]+)+)")


def version_of(code: int) -> str:
    """``"8.2.1"`` for 8201 and ``"10.3.0"`` for 100300: the major version counts 1000 before TensorRT 10, and 10000 since."""
    unit = 1000 if code < 10000 else 10000
    return "{}.{}.{}".format(code // unit, code % unit // 100, code % 100)
