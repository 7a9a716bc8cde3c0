"""Times that an open engine reports. Python 3.6 syntax: this file is copied into bundles unchanged."""

from typing import NamedTuple


class RunTimes(NamedTuple):
    """One run, timed on the GPU: milliseconds between CUDA events."""

    total_ms: float  # total of the counted steps
    compute_ms: float
    to_device_ms: float  # 0 if copies are not counted
    to_host_ms: float


class EngineLayerTime(NamedTuple):
    """Time of one layer, milliseconds."""

    name: str
    ms: float
