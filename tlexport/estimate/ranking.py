"""Whether an estimate keeps within limits, and which boards come first. Pure: records in, answers with reasons out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlexport.hardware.profile import Profile
from tlexport.plan import TENSORS, Limits, too_large, too_slow
from tlexport.prediction import Estimate

Likelihood = Literal["yes", "probably", "probably not", "no"]


@dataclass(frozen=True)
class BudgetFit:
    """Whether a model keeps within limits on a board, and what it breaks."""

    likelihood: Likelihood
    broken: tuple[str, ...]  # each limit that it breaks, or may well break, in words with both figures

    @property
    def counts(self) -> bool:
        """Whether it may be said that the model meets the limits: more likely than not."""
        return self.likelihood in ("yes", "probably")


def fit_to_budget(estimate: Estimate, limits: Limits) -> BudgetFit:
    """Hold an estimate against limits.

    Size and memory of the tensors are exact: they decide alone where they are over. Latency has an interval: the model meets its
    limit where the whole interval does, probably where the estimate does, probably not where only the lower end does.
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
    """What boards are sorted by: peak rate in FP32, lowest first; a profile that does not know it comes after those that do."""
    peak = profile.hardware.fp32_tflops
    return peak is None, peak.value if peak else 0.0, profile.target
