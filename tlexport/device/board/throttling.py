"""Detect throttling. Python 3.6 syntax: this file is copied into bundles unchanged."""

import re
from typing import TYPE_CHECKING

from . import sysfs

if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

# bits of vcgencmd get_throttled (raspberrypi.com/documentation/computers/os.html); 16 bits higher: since the start
PI_BITS = {0: "under-voltage", 1: "ARM clock capped", 2: "throttled", 3: "soft temperature limit"}
_PI = ("sys/devices/platform/soc/soc:firmware/get_throttled", "sys/devices/platform/*/*:firmware/get_throttled")
# hardware event counters: over-current and under-voltage on Orin and Thor (drivers/hwmon of Jetson Linux, soctherm_oc), heat on Intel
_COUNTERS = (
    ("sys/class/hwmon/hwmon*/oc*_event_cnt", "over-current or under-voltage"),
    ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "heat"),
    ("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count", "heat"),
)
# cooling devices that reduce a clock: Orin's *-throttle-alert, Xavier's and Nano's *-balanced and *_heavy, the kernel's own
_COOLING = re.compile(r"throttle|balanced|heavy|^thermal-cpufreq|^cpufreq|^devfreq|^thermal-devfreq|powerclamp")
MARGIN = 0.95  # tolerance of a locked clock: Orin's GPU reports a measured clock, which is slightly off


def pi_value(root: str = "/") -> "Optional[int]":
    """The bits of ``vcgencmd get_throttled`` from the kernel's file; None unless this is a Raspberry Pi."""
    for pattern in _PI:
        for path in sysfs.find(root, pattern):
            try:
                return int(sysfs.read_text(root, path) or "", 16)
            except ValueError:
                continue
    return None


def pi_flags(root: str = "/") -> "Optional[List[str]]":
    """Reasons why a Raspberry Pi throttles or has throttled since its start; None if unknown."""
    value = pi_value(root)
    if value is None:
        return None
    now = [name for bit, name in PI_BITS.items() if (value >> bit) & 1]
    return now + [name + " (earlier)" for bit, name in PI_BITS.items() if (value >> (bit + 16)) & 1 and name not in now]


class Throttling:
    """Collect signs of throttling from the construction on.

    Args:
        root: root of the file system.
        locked: files of locked clocks -> the locked clock, in the unit of the file.
    """

    def __init__(self, root: str, locked: "Dict[str, int]") -> None:
        self._root = root
        self._pi = pi_value(root)
        self._counters: Dict[str, Tuple[int, str]] = {}
        for pattern, cause in _COUNTERS:
            for path in sysfs.find(root, pattern):
                count = sysfs.read_number(root, path)
                if count is not None:
                    self._counters[path] = count, cause
        # a PC's processor counts these events itself; reading the clock of each core would disturb it
        self._locked = {} if any("thermal_throttle" in path for path in self._counters) else locked
        kinds = ((path, sysfs.read_text(root, path + "/type") or "") for path in sysfs.find(root, "sys/class/thermal/cooling_device*"))
        self._cooling = {path + "/cur_state": kind for path, kind in kinds if _COOLING.search(kind)}
        self._seen: Dict[str, None] = {}  # in order

    def look(self) -> None:
        """Record current signs of throttling."""
        if self._pi is not None:
            value = pi_value(self._root) or 0
            for bit, name in PI_BITS.items():
                earlier, before = value >> (bit + 16), self._pi >> (bit + 16)
                if (value >> bit) & 1 or earlier & ~before & 1:
                    self._seen[name] = None
        for path, kind in self._cooling.items():
            if (sysfs.read_number(self._root, path) or 0) > 0:
                self._seen["cooling by " + kind] = None
        for path, full in self._locked.items():
            clock = sysfs.read_number(self._root, path)
            if clock and clock < MARGIN * full:  # 0: the GPU is idle and switched off
                self._seen["/{} below its locked clock".format(path)] = None

    def result(self) -> "Tuple[Optional[bool], List[str]]":
        """Whether the board throttled (None if unknown), and the signs."""
        seen = list(self._seen)
        for path, (before, cause) in self._counters.items():
            after = sysfs.read_number(self._root, path)
            if after is not None and after > before:
                seen.append("{}: /{} rose by {}".format(cause, path, after - before))
        told = self._pi is not None or self._counters or self._cooling or self._locked
        return (bool(seen) if told else None), seen
