"""Time a model: warm up until the runs are steady, then record each run. `tlx bench` uses this file too."""

import gc
import itertools
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, List, Sequence, Tuple

WINDOW = 10  # warm-up runs whose median is compared with the median of as many runs before
STEADY = 0.05  # largest relative difference between the two
SETTLE_SECONDS = 0.1  # minimum warm-up if the time allows: frequency governors need about 10 ms to raise the clock


def _clock() -> "Callable[[], int]":
    counter = getattr(time, "perf_counter_ns", None)  # from Python 3.7 on
    return counter if counter is not None else lambda: int(time.perf_counter() * 1e9)


now_ns = _clock()  # a monotonic clock, ns


def time_runs(
    run: "Callable[[Any], Any]",
    feeds: "Sequence[Any]",
    min_runs: int,
    min_seconds: float,
    max_runs: int,
    warmup_seconds: float,
) -> "Tuple[int, Tuple[int, ...]]":
    """Warm up, then time single runs; no sample is dropped.

    A sample is the duration of ``run`` alone: arrays in host memory in, arrays in host memory out, so a GPU's copies
    count. Garbage collection is off meanwhile.

    Args:
        run: runs the model once.
        feeds: inputs, used in turn.
        min_runs: minimum number of samples.
        min_seconds: minimum duration.
        max_runs: maximum number of samples.
        warmup_seconds: maximum warm-up, even if the runs are not steady; see :func:`warm_up`.

    Returns:
        The number of warm-up runs, and the samples in the order they were taken, ns.
    """
    turns = itertools.cycle(feeds)
    with _no_garbage_collection():
        warmup_runs = warm_up(run, turns, warmup_seconds)
        samples = []  # type: List[int]
        begin = now_ns()
        while len(samples) < max_runs and (len(samples) < min_runs or now_ns() - begin < min_seconds * 1e9):
            samples.append(_timed(run, next(turns)))
    return warmup_runs, tuple(samples)


def warm_up(run: "Callable[[Any], Any]", turns: "Iterator[Any]", seconds: float) -> int:
    """Run until the median of the last 10 runs is within 5 % of that of the 10 before, or until ``seconds`` are over; at least once.

    Returns:
        The number of runs.
    """
    samples = []  # type: List[int]
    begin = now_ns()
    elapsed = 0.0
    while not samples or elapsed < seconds:
        samples.append(_timed(run, next(turns)))
        elapsed = (now_ns() - begin) / 1e9
        if elapsed >= SETTLE_SECONDS and len(samples) % WINDOW == 0 and _steady(samples):
            break
    return len(samples)


def _timed(run: "Callable[[Any], Any]", feed: "Any") -> int:
    begin = now_ns()
    _ = run(feed)  # kept until the return, so that freeing the results is not timed
    return now_ns() - begin


def _steady(samples: "List[int]") -> bool:
    if len(samples) < 2 * WINDOW:
        return False
    before, last = statistics.median(samples[-2 * WINDOW : -WINDOW]), statistics.median(samples[-WINDOW:])
    return abs(last - before) <= STEADY * before


@contextmanager
def _no_garbage_collection() -> "Iterator[None]":
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
