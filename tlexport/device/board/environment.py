"""Describes the measuring machine from its operating system, without any library."""

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Dict, Optional


def describe_environment(versions: "Dict[str, str]", accelerator: "Optional[str]") -> "Dict[str, Any]":
    """The record ``environment`` of a measurement.

    Args:
        versions: versions of the libraries used.
        accelerator: name of the GPU that runs the model; None: the CPU runs it.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # Windows has none
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": cpu(),
        "cores": usable_cores(),
        "governor": governor(),
        "memory_bytes": _memory_bytes(),
        "load_1min": None if load is None else round(load, 2),
        "accelerator": accelerator,
        "python": platform.python_version(),
        "versions": versions,
    }


def usable_cores() -> int:
    """Logical cores that this process may use: fewer than the machine has under ``taskset`` or a container's CPU set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Default number of threads of a model: one for each usable physical core."""
    siblings = {read_kernel_file(str(file)) for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")}
    return min(len(siblings - {""}) or usable_cores(), usable_cores())


def cpu() -> str:
    """Name of the processor, or of the board if the kernel does not report the processor."""
    cpuinfo = read_kernel_file("/proc/cpuinfo")
    for key in ("model name", "Model", "Hardware"):  # x86; Raspberry Pi; older ARM kernels
        found = re.search(rf"^{key}\s*: *(.+)$", cpuinfo, re.MULTILINE)
        if found:
            return found.group(1).strip()
    return read_kernel_file("/proc/device-tree/model").strip("\0\n ") or platform.processor() or platform.machine()


def governor() -> "Optional[str]":
    """Frequency governor of the cores, such as ``"performance"``; all of them if they differ; None if the kernel has none."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({read_kernel_file(str(file)).strip() for file in files} - {""})) or None


def read_kernel_file(path: str) -> str:
    """Content of a kernel's file, or an empty text if it is unreadable."""
    try:
        return Path(path).read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""


def peak_memory_bytes() -> int:
    """Largest resident size of this process since it started its program.

    On Linux, reads VmHWM of /proc/self/status. ``ru_maxrss`` of ``getrusage`` survives ``exec``, so it starts with the size of the
    parent process.
    """
    found = re.search(r"^VmHWM:\s*(\d+) kB$", read_kernel_file("/proc/self/status"), re.MULTILINE)
    if found:
        return int(found.group(1)) * 1024
    import resource  # not on Windows
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
