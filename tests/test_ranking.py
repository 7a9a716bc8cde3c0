"""Estimates against limits, and the ranking of boards: pure functions, tested with tables and properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlexport.estimate.ranking import by_peak_rate, fit_to_budget
from tlexport.hardware.calibration import Sharpened
from tlexport.hardware.target import load_profile, profile_names
from tlexport.plan import Limits
from tlexport.prediction import Estimate

NONE = Limits(None, None, None, drop_points=100.0)
HASH = "0" * 64


def estimate(p50: float = 4.0, width: float = 1.25, size: int = 1_000_000, memory: int = 3_000_000) -> Estimate:
    return Estimate(
        what="m",
        target="board",
        precision="fp32",
        threads=1,
        p50_ms=p50,
        low_ms=p50 / width,
        high_ms=p50 * width,
        memory_bytes=memory,
        size_bytes=size,
        macs=1,
        basis="made up",
    )


@pytest.mark.parametrize(
    ("limits", "likelihood", "broken"),
    [
        (NONE, "yes", ()),
        (replace(NONE, latency_p95_ms=5.0), "yes", ()),
        (replace(NONE, latency_p95_ms=4.9), "probably", ()),
        (replace(NONE, latency_p95_ms=4.0), "probably", ()),
        (replace(NONE, latency_p95_ms=3.9), "probably not", ("estimated latency 4 ms (3.2 to 5) > 3.9 ms",)),
        (replace(NONE, latency_p95_ms=3.1), "no", ("estimated latency 4 ms (3.2 to 5) > 3.1 ms",)),
        (replace(NONE, size_bytes=1_000_000, memory_bytes=3_000_000), "yes", ()),
        (replace(NONE, size_bytes=900_000), "no", ("size 1.00 MB > 900.00 kB",)),
        (replace(NONE, memory_bytes=2_999_999), "no", ("memory of weights and activations alone 3000000 B > 2999999 B",)),
    ],
)
def test_what_fits_and_how_surely(limits: Limits, likelihood: str, broken: tuple[str, ...]) -> None:
    found = fit_to_budget(estimate(), limits)
    assert (found.likelihood, found.broken) == (likelihood, broken)
    assert found.counts == (likelihood in ("yes", "probably"))


MS = st.floats(0.01, 1e4)


@given(MS, st.floats(1, 10), MS, st.floats(1, 10))
def test_a_looser_limit_is_never_kept_less_surely(p50: float, width: float, limit: float, looser: float) -> None:
    order = ["no", "probably not", "probably", "yes"]
    tight = fit_to_budget(estimate(p50, width), replace(NONE, latency_p95_ms=limit))
    loose = fit_to_budget(estimate(p50, width), replace(NONE, latency_p95_ms=limit * looser))
    assert order.index(loose.likelihood) >= order.index(tight.likelihood)
    assert tight.counts == (not tight.broken), "what counts breaks nothing, and what does not says why"


def test_boards_come_by_their_peak_and_those_that_do_not_know_it_last() -> None:
    profiles = [load_profile(name) for name in profile_names()]
    ordered = sorted(profiles, key=by_peak_rate)
    known = [peak.value for profile in ordered if (peak := profile.hardware.fp32_tflops)]
    assert known == sorted(known)
    assert [profile.hardware.fp32_tflops is None for profile in ordered] == sorted(p.hardware.fp32_tflops is None for p in profiles)
    assert ordered.index(load_profile("raspberry-pi-5")) < ordered.index(load_profile("jetson-agx-orin"))


# --- what real runs correct -------------------------------------------------------------------------------------------


def sharpened(factor: float, n: int) -> Sharpened:
    return Sharpened(
        runtime="onnxruntime", precision="fp32", threads=1, factor=factor, n=n, corrects="x", date="2026-01-31", measurements=(HASH,)
    )


@given(st.floats(0.2, 5), st.integers(1, 50), MS, st.floats(1.01, 4))
def test_a_correction_goes_towards_what_was_measured_and_narrows_the_interval(factor: float, n: int, p50: float, width: float) -> None:
    middle, low, high = sharpened(factor, n).applied(p50, p50 / width, p50 * width)
    assert min(p50, p50 * factor) * 0.999999 <= middle <= max(p50, p50 * factor) * 1.000001
    assert low < middle < high
    assert high / low < width**2
    assert high / low > width ** math.sqrt(2) * 0.999999, "each network keeps an error of its own, however many were run"


@given(st.floats(1.1, 5), st.integers(1, 50))
def test_more_runs_are_believed_more(factor: float, n: int) -> None:
    one, more = (sharpened(factor, count).applied(1.0, 0.5, 2.0) for count in (n, n + 1))
    assert one[0] < more[0] < factor
    assert more[2] / more[1] < one[2] / one[1]
