"""Times that an open engine reports. Python 3.6 syntax: this file is copied into bundles unchanged."""

from typing import NamedTuple


class RunTimes(NamedTuple):
    """One run as the GPU's own clock saw it, in milliseconds between CUDA events."""

    total_ms: float  # of what is counted
    compute_ms: float
    to_device_ms: float  # 0 where copies are not counted
    to_host_ms: float


class EngineLayerTime(NamedTuple):
    """How long one layer takes, in milliseconds."""

    name: str
    ms: float
