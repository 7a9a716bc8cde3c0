"""What happens to the machine while a model is measured: temperatures, throttling, power, and what other programs take of the processor."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from pydantic import JsonValue

from tlexport.device.board_state import Watch


@contextmanager
def watching(root: str = "/") -> Iterator[dict[str, JsonValue]]:
    """Watch while the block runs; the dict is filled when it is left.

    It holds what :meth:`tlexport.device.board_state.Watch.report` says, and ``other_cores``: the cores' worth of CPU time that
    everything but this process took, as the system counts it (to 10 ms), None where the block was too short to tell.

    Args:
        root: root of the file system that tells of sensors.
    """
    found: dict[str, JsonValue] = {}
    busy, own, begin = _busy_seconds(), time.process_time(), time.monotonic()
    watch = Watch(root)
    with watch:
        yield found
    seconds = time.monotonic() - begin
    others = _busy_seconds() - busy - (time.process_time() - own)
    found |= watch.report()
    found["other_cores"] = round(max(0.0, others / seconds), 2) if seconds >= 0.1 else None


def _busy_seconds() -> float:
    """CPU time of everything on this machine since it started. Time that a hypervisor took away counts: it is somebody's load."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "system", "irq", "softirq", "steal", "interrupt", "dpc"))


def gpu_memory_used(device: str) -> int | None:
    """Bytes in use on a CUDA device, by all programs; None for the CPU, and where the driver's tool is not there (Jetsons)."""
    if not device.startswith("cuda"):
        return None
    index = int(device.partition(":")[2] or 0)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    which = visible[index] if index < len(visible) else str(index)
    command = ["nvidia-smi", "--id", which, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return int(done.stdout) * 1024 * 1024  # it counts in MiB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
