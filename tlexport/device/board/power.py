"""Power of a board, from its sensors. Python 3.6 syntax: this file is copied into bundles unchanged.

Jetson modules carry INA3221 monitors: up to JetPack 4 as iio devices (milliwatts), since then as hwmon devices (millivolts and
milliamperes); Thor has an INA238 at the board's input as well (microwatts). PCs count the energy of each processor package (RAPL,
Documentation/power/powercap). Names and units: rbonghi/jetson_stats jtop/core/power.py and Documentation/hwmon/ina3221.rst.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

from . import sysfs

if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

BOARD_INPUT = "board input (INA238)"
TOTALS = (BOARD_INPUT, "VDD_IN", "POM_5V_IN")  # rails that feed the others, the most comprehensive first
# measured at 5 V on the AGX Orin, so it is assumed to be fed by VIN_SYS_5V0 and counted there; no document confirms it
_INCLUDED = ("VDDQ_VDD2_1V8AO",)
_RAPL = "sys/class/powercap/intel-rapl:*"


class Rail(NamedTuple):
    """One sensor: the product of the values in its files, times ``to_mw``, is the power in milliwatts."""

    name: str
    files: "Tuple[str, ...]"
    to_mw: float

    def milliwatts(self, root: str) -> "Optional[float]":
        """Current power; None if it cannot be read."""
        power = self.to_mw
        for path in self.files:
            value = sysfs.read_number(root, path)
            if value is None:
                return None
            power *= value
        return power


class Counter(NamedTuple):
    """An energy counter in microjoules, which wraps around at ``most``."""

    name: str
    path: str
    most: int


def rails(root: str = "/") -> "List[Rail]":
    """The sensors of a board. The label NC marks an unconnected channel; channel 7 is a sum of other channels."""
    found = []
    for chip in sysfs.find(root, "sys/class/hwmon/hwmon*"):
        kind = sysfs.read_text(root, chip + "/name")
        if kind == "ina238":
            found.append(Rail(BOARD_INPUT, (chip + "/power1_input",), 1e-3))
        for number in (1, 2, 3) if kind == "ina3221" else ():
            label = sysfs.read_text(root, "{}/in{}_label".format(chip, number))
            files = ("{}/in{}_input".format(chip, number), "{}/curr{}_input".format(chip, number))
            if label and label != "NC":
                found.append(Rail(label, files, 1e-3))
    for path in sysfs.find(root, "sys/bus/i2c/drivers/ina3221x/*/iio?device*/rail_name_*"):
        label = sysfs.read_text(root, path)
        if label and label != "NC":
            found.append(Rail(label, (re.sub(r"rail_name_(\d+)$", r"in_power\1_input", path),), 1))
    return [rail for rail in found if rail.milliwatts(root) is not None]


def counters(root: str = "/") -> "Tuple[List[Counter], str]":
    """Energy counters of a PC's processor packages, and the reason if they are not readable."""
    found, why = [], ""
    for zone in sysfs.find(root, _RAPL):
        name, most = sysfs.read_text(root, zone + "/name") or "", sysfs.read_number(root, zone + "/max_energy_range_uj")
        if name.startswith("package") and most:
            if sysfs.read_number(root, zone + "/energy_uj") is None:
                why = "only root may read /{}/energy_uj".format(zone)
            else:
                found.append(Counter(name, zone + "/energy_uj", most))
    return found, why


class Meter:
    """Integrate the power of the board over the readings.

    Args:
        root: root of the file system.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._rails = rails(root)
        self._counters, self._why = ([], "") if self._rails else counters(root)
        self._last: Dict[str, Tuple[float, float]] = {}  # name -> (when, milliwatts; for a counter microjoules)
        self._mj: Dict[str, float] = {}
        self._seconds: Dict[str, float] = {}

    def read(self, now: float) -> None:
        """Read all sensors. ``now``: seconds of a monotonic clock."""
        for rail in self._rails:
            power = rail.milliwatts(self._root)
            if power is not None:
                when, before = self._last.get(rail.name, (now, power))
                self._add(rail.name, now - when, (power + before) / 2 * (now - when))  # mW x s = mJ
                self._last[rail.name] = now, power
        for counter in self._counters:
            count = sysfs.read_number(self._root, counter.path)
            if count is not None:
                when, last = self._last.get(counter.name, (now, count))
                # the range is the value at which the counter wraps around to 0
                self._add(counter.name, now - when, (count - last if count >= last else count + counter.most - last) / 1e3)
                self._last[counter.name] = now, count

    def _add(self, name: str, seconds: float, mj: float) -> None:
        self._mj[name] = self._mj.get(name, 0) + mj
        self._seconds[name] = self._seconds.get(name, 0) + seconds

    def result(self) -> "Dict[str, object]":
        """The power figures of :meth:`~.board.state.Watch.report`."""
        watts = {name: self._mj[name] / 1e3 / seconds for name, seconds in self._seconds.items() if seconds > 0}
        if not watts:
            why = self._why or "no power sensor (INA3221, INA238 or RAPL) was found"
            if self._last:
                why = "the measurement was shorter than two readings of the power"
            return {"energy_mj": None, "watts": None, "rail": None, "rails_w": None, "power_reason": why}
        whole = next(([name] for name in TOTALS if name in watts), [name for name in watts if name not in _INCLUDED])
        return {
            "energy_mj": round(sum(self._mj[name] for name in whole), 3),
            "watts": round(sum(watts[name] for name in whole), 4),
            "rail": " + ".join(whole),
            "rails_w": {name: round(value, 4) for name, value in watts.items()},
            "power_reason": "",
        }
