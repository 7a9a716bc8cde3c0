"""Describe the measuring machine, so that two measurements can be compared."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import psutil

from tlexport.device.board import description as board
from tlexport.measurement import Environment
from tlexport.version import __version__

_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")  # names of distributions; only one of the two onnxruntimes is there


def describe_machine(device: str = "cpu", root: str = "/") -> Environment:
    """Describe this machine as it is now. Does not import the libraries whose versions it reads.

    Args:
        device: ``"cpu"``, or ``"cuda:N"`` if a GPU runs the model.
        root: root of the file system with the files that describe a board and its settings.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # Windows has none
    return Environment(
        machine=platform.machine(),
        system=platform.platform(),
        cpu=_cpu(),
        cores=usable_cores(),
        governor=_governor(),
        memory_bytes=psutil.virtual_memory().total,
        load_1min=None if load is None else round(load, 2),
        accelerator=_gpu(int(device.partition(":")[2] or 0)) if device.startswith("cuda") else None,
        python=platform.python_version(),
        versions={"tlexport": __version__} | _versions(),
        board=board.describe_board(root) if board.identity(root)["module"] else None,
    )


def usable_cores() -> int:
    """Logical cores that this process may use: fewer than the machine has under ``taskset`` or a container's CPU set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Default number of threads: one per physical core, but at most the usable cores.

    ONNX Runtime and torch choose the same on an unrestricted machine, but ignore CPU sets and do not report their choice. A quota
    on CPU time (containers) is not considered.
    """
    return min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())


def _cpu() -> str:
    """Name of the processor, or of the board if the kernel does not report the processor."""
    cpuinfo = _text("/proc/cpuinfo")
    for key in ("model name", "Model", "Hardware"):  # x86; Raspberry Pi; older ARM kernels
        if found := re.search(rf"^{key}\s*: *(.+)$", cpuinfo, re.MULTILINE):
            return found[1].strip()
    return _text("/proc/device-tree/model").strip("\0\n ") or platform.processor() or platform.machine()


def _governor() -> str | None:
    """Frequency governor of the cores, such as ``"performance"``; all of them if they differ; None if the kernel has none."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({_text(str(file)).strip() for file in files} - {""})) or None


def _text(path: str) -> str:
    """Content of a kernel's file, or an empty text if it is unreadable."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpu(index: int) -> str:
    """Name of a CUDA device: from torch if it is loaded, else from the driver's tool."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(index))
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    which = visible[index] if index < len(visible) else str(index)
    command = ["nvidia-smi", "--id", which, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # Jetson boards have no nvidia-smi
        return f"CUDA device {index}"
    return done.stdout.strip()
