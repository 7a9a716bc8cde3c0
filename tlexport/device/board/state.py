"""Check the memory for an engine build, and watch the board during a measurement.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

import re
import threading
import time
from typing import TYPE_CHECKING

from ..errors import Unsupported
from . import description as board
from . import sysfs
from .power import Meter
from .throttling import Throttling

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

# CUDA, cuBLAS and cuDNN in a TensorRT process on a Jetson Nano, before the first model: the log in wang-xinyu/tensorrtx#1145
CUDA_BYTES = 700 * 10**6
# the file, the parser's weights, the builder's weights, and the new engine
COPIES = 4
# programs that draw a desktop, as /proc names them (15 characters at most)
_DESKTOP = re.compile(r"^(Xorg|Xwayland|gnome-shell|compiz|unity-panel-ser|lxsession|lxpanel|labwc|wayfire)$")


def needed_for_build(workspace_bytes: int, onnx_bytes: int) -> int:
    """Approximate memory in bytes for building an engine, to refuse a build that would be killed.

    The sum of CUDA's memory (:data:`CUDA_BYTES`, measured on a Nano), the whole workspace, because the builder may try a tactic
    that uses all of it, and :data:`COPIES` copies of the weights. Only TensorRT can determine the exact need of a tactic.

    Args:
        workspace_bytes: the builder's workspace limit.
        onnx_bytes: size of the model's file.
    """
    return CUDA_BYTES + workspace_bytes + COPIES * onnx_bytes


def preflight(needed_bytes: int, root: str = "/") -> "Optional[int]":
    """Check that enough memory is free.

    Swap on a disk counts, because other programs can be swapped out; zram does not, because it uses memory itself.

    Args:
        needed_bytes: see :func:`needed_for_build`.
        root: root of the file system with /proc.

    Returns:
        Bytes available to a new process; None if unknown, in which case nothing was checked.

    Raises:
        Unsupported: not enough memory; the hint lists remedies for this board.
    """
    memory = board.memory_of(root)
    free = memory.get("MemAvailable")
    if free is None:
        return None
    swap = _free_swap(root)
    if free + swap >= needed_bytes:
        return free + swap
    found = "{} of memory are free{}".format(_size(free), " and {} of swap".format(_size(swap)) if swap else "")
    raise Unsupported(
        "building the engine takes about {} (CUDA itself, the workspace and copies of the weights), and {}: it would end in "
        "'Killed'".format(_size(needed_bytes), found),
        "; ".join(_remedies(root, needed_bytes - free - swap)),
    )


def _remedies(root: str, missing: int) -> "List[str]":
    """Remedies for this board, the simplest first."""
    found = []
    if any(_DESKTOP.match(sysfs.read_text(root, path) or "") for path in sysfs.find(root, "proc/[0-9]*/comm")):
        found.append("stop the desktop until the next start: sudo systemctl isolate multi-user.target")
    gb = -(-(missing + 10**9) // 10**9)  # 1 GB more than is missing
    found.append(
        "add swap: sudo fallocate -l {0}G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile".format(
            gb
        )
    )
    if board.zram(root):
        found.append("with swap on a disk, turn off zram, which uses memory: sudo systemctl disable nvzramconfig, and restart")
    found.append("give the builder less: a smaller workspace_mb in the profile, and export again")
    return found


def _free_swap(root: str) -> int:
    """Free bytes of swap on disks: /proc/swaps has one line each, with size and used in KiB."""
    lines = re.findall(r"^(/\S+)\s+\w+\s+(\d+)\s+(\d+)", sysfs.read_text(root, "proc/swaps") or "", re.MULTILINE)
    return sum(int(size) - int(used) for name, size, used in lines if not name.startswith("/dev/zram")) * 1024


def _size(count: int) -> str:
    return "{:.1f} GB".format(count / 1e9) if count >= 1e9 else "{:.0f} MB".format(count / 1e6)


class Watch:
    """Record temperature, throttling and power in a thread; a context manager.

    Power sensors are on a slow bus (about 1 ms per reading, without holding the GIL), so five readings per second take less than
    1 % of one core.

    Args:
        root: root of the file system.
        period: seconds between two readings of power; temperatures are read at every fifth.
    """

    def __init__(self, root: str = "/", period: float = 0.2) -> None:
        self._root = root
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._meter = Meter(root)
        self._throttling = Throttling(root, board.locked_clocks(root))
        self._gpu = board.gpu_clock(root)
        self._gpu_mhz: List[float] = []
        self._before: Dict[str, float] = {}
        self._after: Dict[str, float] = {}
        self._highest: Dict[str, float] = {}
        self._times: List[float] = []  # of the readings

    def __enter__(self) -> "Watch":
        self._before = board.temperatures(self._root)
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        self._after = board.temperatures(self._root)
        self._keep(self._after)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._read()
            if len(self._times) % 5 == 0:
                self._keep(board.temperatures(self._root))

    def _read(self) -> None:
        self._times.append(time.monotonic())
        self._meter.read(self._times[-1])
        self._throttling.look()
        clock = sysfs.read_number(self._root, self._gpu + "/cur_freq") if self._gpu else None
        if clock:  # 0: switched off
            self._gpu_mhz.append(round(clock / 1e6, 1))

    def _keep(self, degrees: "Dict[str, float]") -> None:
        for zone, value in degrees.items():
            self._highest[zone] = max(value, self._highest.get(zone, value), self._before.get(zone, value))

    def report(self) -> "Dict[str, Any]":
        """The recorded values as data for JSON, after the block has ended.

        Returns:
            ``seconds``, ``readings``; ``temperatures_c`` with ``before``, ``after`` and ``max`` by zone, or None; ``throttled``
            (None if unknown) and ``throttling``, its signs; ``gpu_mhz`` with ``lowest`` and ``highest`` while it was on, or None;
            ``energy_mj``, ``watts`` (mean), ``rail`` (where these were measured), ``rails_w`` by rail, all None without a sensor,
            with ``power_reason``.
        """
        throttled, signs = self._throttling.result()
        degrees = {"before": self._before, "after": self._after, "max": self._highest} if self._highest else None
        clocks = {"lowest": min(self._gpu_mhz), "highest": max(self._gpu_mhz)} if self._gpu_mhz else None
        return dict(
            self._meter.result(),
            seconds=round(self._times[-1] - self._times[0], 3) if self._times else 0.0,
            readings=len(self._times),
            temperatures_c=degrees,
            throttled=throttled,
            throttling=signs,
            gpu_mhz=clocks,
        )
