"""Detect a noisy machine and its likely causes from a Measurement."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from tlexport.measurement import Measurement
from tlexport.units import format_bytes

# On a quiet machine, p90 is within a few percent of p50 (the five benches of benchmarks/bench_quality.py); the limit is twice that.
SPREAD = 0.15  # p90 above p50
DRIFT = 0.05  # median of the last quarter of the runs against that of the first
FEWEST = 20  # minimum number of runs for either
OTHER_CORES = 0.25  # CPU load of other programs, in cores, that is not reported
BUSY = 1.0  # load average at the start, used if the load of other programs was not measured
SLOWED = 0.9  # ratio of the lowest to the highest clock
CROWDED = 0.5  # cores that were missing for the model's threads beside those of other programs
LIMITED = 0.01  # seconds for which a container's limit on CPU time held the process
SWAPPED = 10**6  # bytes
WAITED = 0.1  # share of the time in which some process waited for a disk or for memory


def noise(measurement: Measurement) -> str:
    """The signs of noise and the likely causes in one sentence; empty if the machine was quiet.

    Throttling is always reported, because evenly slowed runs do not scatter.
    """
    signs, throttled = list(_signs(measurement)), throttling(measurement.watch or {})
    if not signs and not throttled:
        return ""
    causes = [*throttled, *_other_causes(measurement)] if signs else throttled
    because = "; likely because " + " and ".join(causes) if causes else "; no cause was detected"
    return (", ".join(signs) or "the runs are even, but may all be slow") + because


def disturbance(measurement: Measurement) -> str:
    """As :func:`noise`, but stricter, for decisions based on latency: runs on shared cores may be even but slow."""
    if told := noise(measurement):
        return told
    p50, p95 = measurement.percentile_ms(50), measurement.percentile_ms(95)
    signs = [f"some runs are slow (p95 is {p95 / p50:.2f} times p50)"] if p95 > (1 + SPREAD) * p50 else []
    if crowded := list(crowding(measurement.watch or {}, measurement.threads, measurement.environment.cores)):
        return f"{signs[0] if signs else 'the runs are even, but may all be slow'}; likely because {crowded[0]}"
    return signs[0] if signs else ""


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
        yield f"they became {abs(change):.0%} {'slower' if change > 0 else 'faster'} during the measurement"


def throttling(watch: Mapping[str, object]) -> list[str]:
    """Description of throttling; empty if there was none."""
    if not watch.get("throttled"):
        return []
    signs = watch.get("throttling")
    told = f" ({', '.join(map(str, signs))})" if isinstance(signs, list) and signs else ""
    return [f"the machine throttled{told}"]


def crowding(watch: Mapping[str, object], threads: int, cores: int) -> Iterator[str]:
    """Load of other programs that forced the model's threads to share cores."""
    others = watch.get("other_cores")
    if isinstance(others, int | float) and others + threads > cores + CROWDED:
        yield f"other programs took {others:.1f} of {cores} cores, and the model has {threads} thread(s)"


def _other_causes(m: Measurement) -> Iterator[str]:
    watch, environment = m.watch or {}, m.environment
    others = watch.get("other_cores")
    if isinstance(others, int | float) and others >= OTHER_CORES:
        yield f"other programs took {others:.1f} of {environment.cores} cores meanwhile"
    # if it was not measured; the load at the start is not the model's
    if (environment.load_1min or 0) >= (environment.cores + m.threads if isinstance(others, int | float) else BUSY):
        yield f"the machine had a load of {environment.load_1min} at the start"
    if environment.governor is not None and environment.governor != "performance":
        yield f"the frequency governor is {environment.governor}, not performance"
    yield from _held_up(watch)
    clocks = watch.get("cpu_mhz")
    if isinstance(clocks, dict):
        before, after = clocks.get("before"), clocks.get("after")
        if isinstance(before, int | float) and isinstance(after, int | float) and after < SLOWED * before:
            yield f"the CPU clock fell from {before:.0f} to {after:.0f} MHz"
    clocks = watch.get("gpu_mhz")
    if isinstance(clocks, dict):
        low, high = clocks.get("lowest"), clocks.get("highest")
        if isinstance(low, int | float) and isinstance(high, int | float) and low < SLOWED * high:
            yield f"the GPU clock varied between {low} and {high} MHz"


def _held_up(watch: Mapping[str, object]) -> Iterator[str]:
    """Causes that stopped the process from running."""

    def told(name: str) -> float:
        value = watch.get(name)
        return value if isinstance(value, int | float) else 0.0

    if (stolen := told("stolen_cores")) >= OTHER_CORES:
        yield f"the hypervisor gave {stolen:.1f} cores to other guests"
    if (seconds := told("limited_seconds")) >= LIMITED:
        yield f"the container's limit on CPU time held the process for {seconds:.2f} s"
    if (count := told("swapped_bytes")) >= SWAPPED:
        yield f"the system swapped {format_bytes(round(count))}"
    waiting = watch.get("waiting")
    if isinstance(waiting, dict):
        for name, what in (("io", "a disk"), ("memory", "memory")):
            share = waiting.get(name)
            if isinstance(share, int | float) and share >= WAITED:
                yield f"programs waited for {what} in {share:.0%} of the time"
