"""Quantities with units: sizes, durations, energies, percentages. Sizes are decimal (1 MB = 10^6 bytes)."""

from __future__ import annotations

import math
import re

from tlexport.errors import UsageError

_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_TIMES_MS = {"NS": 1e-6, "US": 1e-3, "µS": 1e-3, "MS": 1.0, "S": 1e3}
_ENERGIES_MJ = {"UJ": 1e-3, "MJ": 1.0, "J": 1e3}


def _parse(text: str, units: dict[str, float], example: str) -> float:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*([A-Za-zµμ]+)\s*", text)
    unit = match[2].upper().replace("Μ", "µ") if match else ""  # both micro signs have the same capital, the Greek Mu
    value = float(match[1]) * units[unit] if match and unit in units else math.inf
    if not math.isfinite(value):
        known = ", ".join(name.lower() for name in units)
        raise UsageError(f"{text!r} is not a quantity", f"write a number and one of {known}, such as {example}")
    return value


def parse_bytes(text: str) -> int:
    """``"1.5MB"`` -> 1500000. Raises UsageError for anything else."""
    return round(_parse(text, dict(_SIZES), "1.5MB"))


def parse_ms(text: str) -> float:
    """``"8ms"`` -> 8.0 milliseconds. Raises UsageError for anything else."""
    return _parse(text, _TIMES_MS, "8ms")


def parse_mj(text: str) -> float:
    """``"20 mJ"`` -> 20.0 millijoules. Raises UsageError for anything else."""
    return _parse(text, _ENERGIES_MJ, "20mJ")


def format_bytes(count: float) -> str:
    """1500000 -> ``"1.50 MB"``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f} B"


def format_mj(millijoules: float) -> str:
    """20.0 -> ``"20.00 mJ"``."""
    for unit, scale in (("J", 1e3), ("mJ", 1.0)):
        if millijoules >= scale:
            return f"{millijoules / scale:.2f} {unit}"
    return f"{1e3 * millijoules:.2f} uJ"


def format_percent(fraction: float | None, digits: int = 2, missing: str = "-") -> str:
    """0.9512 -> ``"95.12 %"``; ``missing`` for None."""
    return missing if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_ms(milliseconds: float | None) -> str:
    """Milliseconds without their unit, with up to three decimals: ``"0.831"``, ``"12.35"``, ``"152"``; a dash for None."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.3f}" if milliseconds < 10 else f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"
