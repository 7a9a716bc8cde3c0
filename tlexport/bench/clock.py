"""Timing a runner: warm up until steady, then keep the duration of every single run."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlexport.ports import Array, Runner

WINDOW = 10  # warm-up runs whose median is compared with the median of as many runs before
STEADY = 0.05  # largest relative difference between the two
SETTLE_SECONDS = 0.1  # shortest warm-up where there is time for it: frequency governors take some 10 ms to raise the clock


def time_runner(
    runner: Runner,
    feeds: Sequence[Mapping[str, Array]],
    min_runs: int,
    min_seconds: float,
    max_runs: int,
    warmup_seconds: float,
) -> tuple[int, tuple[int, ...]]:
    """Warm up, then time single runs; no sample is dropped.

    A sample is the duration of ``runner.run`` alone: arrays in host memory in, arrays in host memory out, so a GPU's copies
    count. Garbage collection is off meanwhile.

    Args:
        runner: an open model.
        feeds: what to run it on, in turn.
        min_runs: at least so many samples,
        min_seconds: and at least this much time,
        max_runs: but never more samples than this.
        warmup_seconds: the warm-up ends after this time even when the runs are not steady; see :func:`warm_up`.

    Returns:
        The number of warm-up runs, and the samples in the order they were taken, ns.
    """
    turns = itertools.cycle(feeds)
    with _no_garbage_collection():
        warmup_runs = warm_up(runner, turns, warmup_seconds)
        samples: list[int] = []
        begin = perf_counter_ns()
        while len(samples) < max_runs and (len(samples) < min_runs or perf_counter_ns() - begin < min_seconds * 1e9):
            samples.append(_run(runner, next(turns)))
    return warmup_runs, tuple(samples)


def warm_up(runner: Runner, turns: Iterator[Mapping[str, Array]], seconds: float) -> int:
    """Run until the median of the last 10 runs is within 5 % of that of the 10 before, or until ``seconds`` are over; at least once.

    Returns:
        The number of runs.
    """
    samples: list[int] = []
    begin = perf_counter_ns()
    elapsed = 0.0
    while not samples or elapsed < seconds:
        samples.append(_run(runner, next(turns)))
        elapsed = (perf_counter_ns() - begin) / 1e9
        if elapsed >= SETTLE_SECONDS and len(samples) % WINDOW == 0 and _steady(samples):
            break
    return len(samples)


def _run(runner: Runner, feed: Mapping[str, Array]) -> int:
    begin = perf_counter_ns()
    _ = runner.run(feed)  # kept until the return, so that freeing the results is not timed
    return perf_counter_ns() - begin


def _steady(samples: list[int]) -> bool:
    if len(samples) < 2 * WINDOW:
        return False
    before, last = statistics.median(samples[-2 * WINDOW : -WINDOW]), statistics.median(samples[-WINDOW:])
    return abs(last - before) <= STEADY * before


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
