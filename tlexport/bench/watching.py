"""Watch the machine during a measurement: temperatures, throttling, power, and the CPU load of other programs."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from pydantic import JsonValue

from tlexport.device.board import sysfs
from tlexport.device.board.state import Watch

# total CPU time; guests are included in "user" and "nice"; "steal" is load of other guests
BUSY = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
PRESSURES = ("io", "memory")  # in /proc/pressure; CPU pressure would include the measured model


@contextmanager
def watching(root: str = "/", own_seconds: Callable[[], float] = time.process_time) -> Iterator[dict[str, JsonValue]]:
    """Watch the machine while the block runs; the dict is filled at its end.

    It contains the keys of :meth:`tlexport.device.board.state.Watch.report`, and

    - ``other_cores``: CPU time of all other programs, in cores, at any priority, with a resolution of 10 ms; None if the block was
      too short.
    - ``stolen_cores``: the part of it that a hypervisor gave to other guests.
    - ``limited_seconds``: how long a container's limit on CPU time held this process; None if there is no limit.
    - ``swapped_bytes``: bytes swapped out and in.
    - ``waiting``: share of the time in which some process waited for ``io`` or ``memory``, as measured by the kernel.
    - ``cpu_mhz``: highest clock of the cores at the start and at the end; None where it cannot be read.

    Args:
        root: root of the file system with the sensor files.
        own_seconds: CPU time of the measured processes so far.
    """
    found: dict[str, JsonValue] = {}
    before, own, begin = _counters(root), own_seconds(), time.monotonic()
    watch = Watch(root)
    with watch:
        yield found
    seconds, after = time.monotonic() - begin, _counters(root)
    grown = {name: after[name] - value for name, value in before.items() if name in after}
    found |= watch.report()
    if seconds < 0.1:
        found["other_cores"] = None
        return
    found["other_cores"] = round(max(0.0, (grown["busy"] - (own_seconds() - own)) / seconds), 2)
    found["stolen_cores"] = round(max(0.0, grown["stolen"] / seconds), 2)
    found["limited_seconds"] = round(grown["limited"], 3) if "limited" in grown else None
    found["swapped_bytes"] = round(grown["swapped"])
    found["waiting"] = {name: round(min(1.0, grown[name] / seconds), 2) for name in PRESSURES if name in grown}
    clocks = before.get("mhz"), after.get("mhz")
    found["cpu_mhz"] = {"before": clocks[0], "after": clocks[1]} if all(clocks) else None


def _counters(root: str) -> dict[str, float]:
    """Monotonic counters and the CPU clock; unavailable ones are omitted."""
    times, swap = psutil.cpu_times(), psutil.swap_memory()
    found = {"busy": sum(getattr(times, name, 0.0) for name in BUSY), "stolen": getattr(times, "steal", 0.0)}
    found["swapped"] = float(swap.sin + swap.sout)
    for name in PRESSURES:
        if total := re.search(r"^some .*total=(\d+)", sysfs.read_text(root, f"proc/pressure/{name}") or "", re.MULTILINE):
            found[name] = int(total[1]) / 1e6
    limited = [seconds for folder in _control_groups(root) if (seconds := _limited(root, folder)) is not None]
    if limited:
        found["limited"] = sum(limited)
    files = sysfs.find(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
    if clocks := [khz for file in files if (khz := sysfs.read_number(root, file))]:
        found["mhz"] = max(clocks) / 1000
    return found


def _control_groups(root: str) -> Iterator[str]:
    """Folders of the control groups that this process is in, with those above them; version 2, then version 1."""
    own = re.findall(r"^\d+:(.*?):/(.*)$", sysfs.read_text(root, "proc/self/cgroup") or "", re.MULTILINE)
    for controllers, path in own:
        if controllers == "":
            base = "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            base = "sys/fs/cgroup/cpu"
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        yield from ("/".join([base, *parts[:depth]]) for depth in range(len(parts) + 1))


def _limited(root: str, folder: str) -> float | None:
    """Seconds for which a control group's limit on CPU time has held its processes; None where it has no such limit."""
    stat = sysfs.read_text(root, f"{folder}/cpu.stat") or ""
    found = re.search(r"^throttled_(usec|time) (\d+)$", stat, re.MULTILINE)  # version 2: µs; version 1: ns
    return int(found[2]) / (1e6 if found[1] == "usec" else 1e9) if found else None


def gpu_memory_used(device: str) -> int | None:
    """Bytes in use on a CUDA device, by all programs; None for the CPU, and if nvidia-smi is missing (Jetson)."""
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
