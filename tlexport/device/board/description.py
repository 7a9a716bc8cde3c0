"""Describe this board and its settings from its system files. Python 3.6 syntax: this file is copied into bundles unchanged.

It works on any Linux; missing values are None. Paths and contents of the files are from NVIDIA's
developer guides of Jetson Linux, rbonghi/jetson_stats (jtop/core) and the documentation of the Linux kernel (cpufreq, devfreq,
thermal). This module only reads.
"""

import re
import subprocess
from typing import TYPE_CHECKING

from . import sysfs, throttling

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

NV_RELEASE = "etc/nv_tegra_release"
PACKAGES = "var/lib/dpkg/status"
POWER_STATUS, POWER_MODES = "var/lib/nvpmodel/status", "etc/nvpmodel.conf"

# L4T -> JetPack: NVIDIA_JETPACK in rbonghi/jetson_stats jtop/core/jetson_variables.py, from the oldest that tlexport has a profile for
JETPACKS = {
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
# from this L4T on, within its major version, JetPack brings this TensorRT: anduril/jetpack-nixos sourceinfo/*-debs.json for
# 35.6, 36.5 and 39.2; dusty-nv/jetson-containers for the others
TENSORRT = (
    ((32, 7), "8.2.1"),
    ((35, 1), "8.4.1"),
    ((35, 2), "8.5.2"),
    ((36, 3), "8.6.2"),
    ((36, 4), "10.3.0"),
    ((38, 2), "10.13.3"),
    ((39, 2), "10.16.2"),
)
# the GPU among the devices with a clock of their own: gp10b is the TX2's, gv11b Xavier's, ga10b Orin's; gpu-gpc-0 Thor's
_GPU = re.compile(r"gpu|g[pvab]1[01]b")
# the memory's clock: Thor, then Orin and Xavier, then Nano and TX2; only root can read all but the first
_EMC = ("sys/class/devfreq/bwmgr/cur_freq", "sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/clk/emc/clk_rate")


def describe_board(root: str = "/") -> "Dict[str, Any]":
    """Description and current state of the board, as data for JSON.

    Args:
        root: root of the file system that describes it.

    Returns:
        ``module`` (from the device tree), ``part`` (of an NVIDIA module), ``soc``; the keys of :func:`software`;
        ``power_mode`` (its name) and ``power_mode_id``; ``clocks_locked`` (as by ``jetson_clocks``: CPU and GPU stay at their
        highest clock); ``governor`` of the CPU; ``cpu_mhz``, ``cpu_max_mhz``, ``gpu_mhz``, ``gpu_max_mhz``, ``emc_mhz``;
        ``temperatures_c`` by zone; ``throttled`` (on a Raspberry Pi, current reasons and those since its start); ``memory_bytes``,
        ``free_memory_bytes`` (available to a new process), ``swap_bytes``, ``free_swap_bytes`` (on disk and in zram). Unreadable
        values are None.
    """
    mode, mode_id = power_mode(root)
    memory = memory_of(root)
    state: Dict[str, Any] = dict(identity(root), **software(root))
    state.update(clocks(root), power_mode=mode, power_mode_id=mode_id)
    state.update(
        temperatures_c=temperatures(root) or None,
        throttled=throttling.pi_flags(root),
        memory_bytes=memory.get("MemTotal"),
        free_memory_bytes=memory.get("MemAvailable"),
        swap_bytes=memory.get("SwapTotal"),
        free_swap_bytes=memory.get("SwapFree"),
    )
    return state


def identity(root: str = "/") -> "Dict[str, Optional[str]]":
    """``module``, ``part`` and ``soc`` from the device tree; None if it lacks them."""
    names = (sysfs.read_text(root, "proc/device-tree/compatible") or "").split("\0")
    chips = [name.partition(",")[2] for name in names if re.match(r"nvidia,tegra\d+$", name)]
    parts = re.findall(r"p\d{4}-\d{4}", " ".join(names))
    # a developer kit is named CARRIER+MODULE; the one of the Nano ends in its board's revision
    modules = [name.rpartition("+")[2][:10] for name in names if re.search(r"\+p\d{4}-\d{4}", name)]
    return {
        "module": sysfs.read_text(root, "proc/device-tree/model") or None,
        "part": next(iter(modules + parts), None),
        "soc": (chips or [names[-1].partition(",")[2]])[-1] or None,
    }


def software(root: str = "/") -> "Dict[str, Optional[str]]":
    """``l4t``, ``jetpack``, ``cuda`` and ``tensorrt``; for JetPack and TensorRT also the source of the version (``..._source``).

    dpkg's record of installed packages takes precedence. If JetPack's package is not installed, its version follows from L4T's.
    TensorRT's follows from L4T's only if there is no record of packages.
    """
    packages = _packages(root)
    release = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", sysfs.read_text(root, NV_RELEASE) or "")
    l4t = "{}.{}".format(*release.groups()) if release else packages.get("nvidia-l4t-core")
    found: Dict[str, Optional[str]] = {"l4t": l4t, "jetpack": packages.get("nvidia-jetpack"), "jetpack_source": "/" + PACKAGES}
    if not found["jetpack"]:
        found["jetpack"] = JETPACKS.get(l4t or "")
        found["jetpack_source"] = "derived from L4T {}".format(l4t) if found["jetpack"] else None
    found["cuda"] = _newest(packages, r"cuda-cudart-\d+-\d+$")
    found["tensorrt"], found["tensorrt_source"] = _newest(packages, r"libnvinfer\d+$"), "/" + PACKAGES
    if not found["tensorrt"]:
        found["tensorrt"] = None if packages else _tensorrt_of(l4t)
        found["tensorrt_source"] = "derived from L4T {}".format(l4t) if found["tensorrt"] else None
    return found


def version_tuple(written: str) -> "Tuple[int, ...]":
    """``"10.3.0.30"`` -> ``(10, 3, 0, 30)``."""
    return tuple(int(part) for part in re.findall(r"\d+", written))


def _packages(root: str) -> "Dict[str, str]":
    """Version of each installed package that identifies NVIDIA's software, without the revision of the packaging."""
    found = {}
    for entry in re.split(r"\n\n+", sysfs.read_text(root, PACKAGES) or ""):
        name = re.match(r"Package: (nvidia-jetpack|nvidia-l4t-core|cuda-cudart-\d+-\d+|libnvinfer\d+)\n", entry)
        number = re.search(r"^Version: (\d+(?:\.\d+)*)", entry, re.MULTILINE)
        if name and number and re.search(r"^Status: .* installed$", entry, re.MULTILINE):
            found[name.group(1)] = number.group(1)
    if not found and sysfs.read_text(root, PACKAGES):
        found[""] = ""  # the record exists but contains none of them
    return found


def _newest(packages: "Dict[str, str]", name: str) -> "Optional[str]":
    return max((number for package, number in packages.items() if re.match(name, package)), key=version_tuple, default=None)


def _tensorrt_of(l4t: "Optional[str]") -> "Optional[str]":
    here = version_tuple(l4t or "0")
    return next((number for since, number in reversed(TENSORRT) if since[0] == here[0] and since <= here), None)


def power_mode(root: str = "/") -> "Tuple[Optional[str], Optional[int]]":
    """Name and number of nvpmodel's power mode; the default mode if no choice is recorded.

    The record is ``pmode:0002``; the configuration lists the modes as ``< POWER_MODEL ID=2 NAME=MAXN_SUPER >`` and the default as
    ``< PM_CONFIG DEFAULT=1 >``. If neither is readable, ``nvpmodel -q`` is run.
    """
    modes = sysfs.read_text(root, POWER_MODES) or ""
    chosen = re.search(r"pmode:(\d+)", sysfs.read_text(root, POWER_STATUS) or "") or re.search(r"< *PM_CONFIG +DEFAULT=(\d+)", modes)
    if chosen is None:
        return _asked_mode() if root == "/" else (None, None)
    number = int(chosen.group(1))
    name = re.search(r"< *POWER_MODEL +ID={} +NAME=(\S+)".format(number), modes)
    return name.group(1) if name else None, number


def parse_power_mode(answer: str) -> "Tuple[Optional[str], Optional[int]]":
    """Name and number in the output of ``nvpmodel -q``: a line ``NV Power Mode: NAME``, and the number on the next line."""
    found = re.search(r"^NV Power Mode: *(\S+)\s+(\d+)\s*$", answer, re.MULTILINE)
    return (found.group(1), int(found.group(2))) if found else (None, None)


def _asked_mode() -> "Tuple[Optional[str], Optional[int]]":
    command = ["nvpmodel", "-q"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, timeout=5)
    except (OSError, subprocess.SubprocessError):  # it exists only on a Jetson
        return None, None
    return parse_power_mode(done.stdout)


def gpu_clock(root: str = "/") -> "Optional[str]":
    """The folder with the GPU's clock, below ``root``; None if the kernel has none."""
    found = [path for path in sysfs.find(root, "sys/class/devfreq/*") if _GPU.search(path.rpartition("/")[2])]
    return found[0] if found else None  # Thor has gpu-gpc-0, which computes, and gpu-nvd-0, which does video


def clocks(root: str = "/") -> "Dict[str, Any]":
    """Current and maximum clocks, MHz, the CPU's governor, and whether the clocks are locked; see :func:`describe_board`."""
    ranges = _ranges(root)
    policies = [path for path in ranges if path != gpu_clock(root)]
    now = [sysfs.read_number(root, path + "/scaling_cur_freq") or 0 for path in policies]
    governors = {sysfs.read_text(root, path + "/scaling_governor") or "" for path in policies} - {""}
    gpu = gpu_clock(root)
    gpu_now = sysfs.read_number(root, gpu + "/cur_freq") if gpu else None
    emc = next((clock for clock in (sysfs.read_number(root, path) for path in _EMC) if clock), None)
    return {
        "clocks_locked": all(low == high for low, high in ranges.values()) if ranges else None,
        "governor": ", ".join(sorted(governors)) or None,
        "cpu_mhz": _mhz(max(now) * 1000) if any(now) else None,  # cpufreq counts in kHz, devfreq in Hz
        "cpu_max_mhz": _mhz(max(ranges[path][1] for path in policies) * 1000) if policies else None,
        "gpu_mhz": None if gpu_now is None else _mhz(gpu_now),
        "gpu_max_mhz": _mhz(ranges[gpu][1]) if gpu in ranges else None,
        "emc_mhz": _mhz(emc) if emc else None,
    }


def locked_clocks(root: str = "/") -> "Dict[str, int]":
    """Locked clocks (lowest equals highest): file of the current clock -> the locked clock, in the unit of the file."""
    gpu, locked = gpu_clock(root), {}
    for path, (low, high) in _ranges(root).items():
        if low == high:
            locked[path + ("/cur_freq" if path == gpu else "/scaling_cur_freq")] = high
    return locked


def _ranges(root: str) -> "Dict[str, Tuple[int, int]]":
    """Lowest and highest allowed clock: of each of the CPU's clock domains, kHz, and of the GPU, Hz."""
    found = {}
    gpu = gpu_clock(root)
    domains = [(path, "/scaling_{}_freq") for path in sysfs.find(root, "sys/devices/system/cpu/cpufreq/policy*")]
    for path, names in domains + ([(gpu, "/{}_freq")] if gpu else []):
        low, high = (sysfs.read_number(root, path + names.format(end)) for end in ("min", "max"))
        if low is not None and high is not None:
            found[path] = low, high
    return found


def _mhz(hertz: int) -> float:
    return round(hertz / 1e6, 1)


def temperatures(root: str = "/") -> "Dict[str, float]":
    """Degrees Celsius by thermal zone.

    Omits disabled zones (they fail, or read far below zero) and PMIC-Die, which always reads 100 °C.
    """
    found: Dict[str, float] = {}
    for zone in sysfs.find(root, "sys/class/thermal/thermal_zone*"):
        name, value = sysfs.read_text(root, zone + "/type"), sysfs.read_number(root, zone + "/temp")
        if name and value is not None and -40000 < value < 150000 and not name.startswith("PMIC"):
            found[name if name not in found else "{} {}".format(name, zone.rpartition("zone")[2])] = round(value / 1000, 1)
    return found


def memory_of(root: str = "/") -> "Dict[str, int]":
    """The entries of /proc/meminfo, bytes; empty if it is unreadable."""
    lines = re.findall(r"^(\w+): +(\d+) kB$", sysfs.read_text(root, "proc/meminfo") or "", re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in lines}


def zram(root: str = "/") -> "List[str]":
    """Whether a swap device is in memory, such as ``/dev/zram0``."""
    return re.findall(r"^(/dev/zram\d+)\s", sysfs.read_text(root, "proc/swaps") or "", re.MULTILINE)
