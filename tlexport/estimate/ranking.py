"""Compares estimates with limits, and ranks boards. Pure functions on records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlexport.hardware.profile import Profile
from tlexport.plan import TENSORS, Limits, too_large, too_slow
from tlexport.prediction import Estimate

Likelihood = Literal["yes", "probably", "probably not", "no"]


@dataclass(frozen=True)
class BudgetFit:
    """Whether a model meets limits on a board, and the limits that it exceeds."""

    likelihood: Likelihood
    broken: tuple[str, ...]  # each limit that it exceeds or probably exceeds, in words with both figures

    @property
    def counts(self) -> bool:
        """Whether the model probably meets the limits."""
        return self.likelihood in ("yes", "probably")


def fit_to_budget(estimate: Estimate, limits: Limits) -> BudgetFit:
    """Compare an estimate with limits.

    Size and tensor memory are exact, so exceeding either is decisive. Latency has an interval: the model meets its limit if the whole
    interval does, probably meets it if the estimate does, and probably exceeds it if only the lower bound meets it.
    """
    exact = too_large("size", estimate.size_bytes, limits.size_bytes) + too_large(TENSORS, estimate.memory_bytes, limits.memory_bytes)
    likelihood: Likelihood = "no" if exact else _within(estimate, limits.latency_p95_ms)
    return BudgetFit(likelihood, (*exact, *too_slow(estimate, limits)))


def _within(estimate: Estimate, limit: float | None) -> Likelihood:
    if limit is None or estimate.high_ms <= limit:
        return "yes"
    if estimate.p50_ms <= limit:
        return "probably"
    return "probably not" if estimate.low_ms <= limit else "no"


def by_peak_rate(profile: Profile) -> tuple[bool, float, str]:
    """Sort key of boards: peak FP32 rate, lowest first; profiles without one are last."""
    peak = profile.hardware.fp32_tflops
    return peak is None, peak.value if peak else 0.0, profile.target
