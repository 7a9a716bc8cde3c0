"""Was the machine quiet while a model was measured, and if not, why? Pure: all that it asks is in the Measurement."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tlexport.measurement import Measurement

# A quiet machine keeps p90 within a few percent of p50 (the five benches of benchmarks/bench_quality.py); twice that is no quiet one.
SPREAD = 0.15  # p90 above p50
DRIFT = 0.05  # median of the last quarter of the runs against that of the first
FEWEST = 20  # runs that say anything about either
OTHER_CORES = 0.25  # cores' worth of CPU time that other programs take without being worth a word
BUSY = 1.0  # load average at the start, where what others took meanwhile was not measured
SLOWED = 0.9  # a GPU's lowest clock against its highest


def noise(measurement: Measurement) -> str:
    """What is odd about the runs, and the likely causes, in one sentence; empty where the machine was quiet.

    Throttling is told in any case: runs that were slowed down evenly do not scatter.
    """
    signs, throttled = list(_signs(measurement)), _throttling(measurement)
    if not signs and not throttled:
        return ""
    causes = [*throttled, *_other_causes(measurement)] if signs else throttled
    because = "; likely because " + " and ".join(causes) if causes else "; nothing that was watched explains it"
    return (", ".join(signs) or "the runs are even, and may all be slow") + because


def _signs(m: Measurement) -> Iterator[str]:
    runs = m.latencies_ns
    if len(runs) < FEWEST:
        return
    p50, p90 = m.percentile_ms(50), m.percentile_ms(90)
    if p90 > (1 + SPREAD) * p50:
        yield f"the runs scatter (p90 is {p90 / p50:.2f} times p50)"
    quarter = len(runs) // 4
    change = statistics.median(runs[-quarter:]) / statistics.median(runs[:quarter]) - 1
    if abs(change) > DRIFT:
        yield f"they got {abs(change):.0%} {'slower' if change > 0 else 'faster'} while it was measured"


def _throttling(m: Measurement) -> list[str]:
    watch = m.watch or {}
    if not watch.get("throttled"):
        return []
    signs = watch.get("throttling")
    told = f" ({', '.join(map(str, signs))})" if isinstance(signs, list) and signs else ""
    return [f"the machine throttled{told}"]


def _other_causes(m: Measurement) -> Iterator[str]:
    watch, environment = m.watch or {}, m.environment
    others = watch.get("other_cores")
    if isinstance(others, int | float):
        if others >= OTHER_CORES:
            yield f"other programs took {others:.1f} of {environment.cores} cores meanwhile"
    elif (environment.load_1min or 0) >= BUSY:
        yield f"the machine had a load of {environment.load_1min} at the start"
    if environment.governor is not None and environment.governor != "performance":
        yield f"the frequency governor is {environment.governor}, not performance"
    clocks = watch.get("gpu_mhz")
    if isinstance(clocks, dict):
        low, high = clocks.get("lowest"), clocks.get("highest")
        if isinstance(low, int | float) and isinstance(high, int | float) and low < SLOWED * high:
            yield f"the GPU's clock went between {low} and {high} MHz"
