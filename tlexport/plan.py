"""Which limits are binding, and which candidate export chooses. Pure functions: records in, decisions with reasons out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tlexport.artifact import Precision
from tlexport.errors import OverBudget, UsageError
from tlexport.hardware.profile import Budget, Profile
from tlexport.prediction import Estimate
from tlexport.units import format_bytes

MAX_DROP_POINTS = 1.0  # default of --max-drop: the accuracy that INT8 may lose
TENSORS = "memory of weights and activations alone"  # estimates of memory do not include the runtime's own
ENGINES = {"trtexec": "tensorrt"}  # trtexec runs the same engine
SHARED = 2.0  # slowdown of a core whose second hardware thread is busy
PREFERRED: tuple[Precision, ...] = ("fp16", "fp32", "int8")  # order without any latency


def not_as_budgeted(profile: Profile, runtime: str, provider: str) -> str:
    """Why a budget does not apply to a measurement: another runtime or processor than the target's. Empty: it applies."""
    if (runs := ENGINES.get(runtime, runtime)) != profile.runtime:
        return f"{runs} was measured, and the budget is for {profile.runtime}"
    if (profile.device is not None) != provider.startswith("CUDA"):
        return f"{provider} was measured, and the budget is for {'a GPU' if profile.device else 'the CPU'}"
    return ""


@dataclass(frozen=True)
class Limits:
    """The limits for a model. None: no limit."""

    size_bytes: int | None
    latency_p95_ms: float | None
    memory_bytes: int | None
    drop_points: float
    asked: bool = False  # the user gave a limit of latency or memory; a model without either figure violates it


@dataclass(frozen=True)
class Constraints:
    """The user's constraints for an export.

    These limits are binding and replace those of the profile, which are advisory. None: the profile's limit applies.
    """

    precision: Precision | Literal["auto"] = "auto"
    max_size_bytes: int | None = None
    max_latency_ms: float | None = None
    max_drop_points: float | None = None
    threads: int | None = 1  # for the latency; most boards have one core to spare for a classifier
    max_memory_bytes: int | None = None
    shrink: bool = False  # the profile's own budget may change the network too

    def limits(self, budget: Budget) -> Limits:
        """The advisory limits: the user's, or else those of the budget."""
        return Limits(
            size_bytes=self.max_size_bytes if self.max_size_bytes is not None else budget.size_bytes,
            latency_p95_ms=self.max_latency_ms if self.max_latency_ms is not None else budget.latency_p95_ms,
            memory_bytes=self.max_memory_bytes if self.max_memory_bytes is not None else budget.memory_bytes,
            drop_points=self.max_drop_points if self.max_drop_points is not None else MAX_DROP_POINTS,
            asked=(self.max_latency_ms, self.max_memory_bytes) != (None, None),
        )

    def binding(self) -> Limits:
        """The binding limits, which the user gave: a model that violates one is not written."""
        drop = math.inf if self.max_drop_points is None else self.max_drop_points
        return replace(self.limits(Budget()), drop_points=drop)

    def may_change(self, budget: Budget) -> Limits:
        """The limits for which the network may be changed. For a changed network the default limit of the accuracy drop applies too."""
        return self.limits(budget if self.shrink else Budget())

    @property
    def may_train(self) -> bool:
        """Whether quantization-aware training may be used if INT8 loses too much accuracy."""
        return self.shrink or self.max_drop_points is not None


@dataclass(frozen=True)
class Candidate:
    """The figures of one model for the choice."""

    precision: Precision
    size_bytes: int
    drop_points: float
    p50_ms: float | None  # these three: measured
    p95_ms: float | None
    memory_bytes: int | None
    estimate: Estimate | None = None  # where nothing was measured
    shortest_ms: float | None = None  # shortest measured run, or its CPU time if less
    noisy: bool = False  # the machine was not quiet while it was measured

    @property
    def bound_ms(self) -> float | None:
        """Lower bound of p95: the measured figure, or on a noisy machine the estimated time of the shortest run on an idle core."""
        if not self.noisy or self.p95_ms is None or self.shortest_ms is None:
            return self.p95_ms
        return min(self.p95_ms, self.shortest_ms / SHARED)


@dataclass(frozen=True)
class Decision:
    """Whether a candidate was chosen, and why or why not."""

    precision: Precision
    chosen: bool
    reason: str
    over: tuple[str, ...] = ()  # advisory limits that it violates
    doubts: tuple[str, ...] = ()  # limits that it violates in a noisy measurement, and may meet in a quiet one


def violations(candidate: Candidate, limits: Limits) -> list[str]:
    """A text with both figures for each limit that a candidate violates."""
    broken = too_large("size", candidate.size_bytes, limits.size_bytes)
    if limits.latency_p95_ms is not None and candidate.bound_ms is not None and candidate.bound_ms > limits.latency_p95_ms:
        noisy = f" (noisy machine; the shortest run took {candidate.shortest_ms:g} ms)" if candidate.noisy else ""
        broken.append(f"p95 latency {candidate.p95_ms:g} ms{noisy} > {limits.latency_p95_ms:g} ms")
    if candidate.memory_bytes is not None:
        broken += too_large("memory", candidate.memory_bytes, limits.memory_bytes)
    if candidate.estimate is not None:
        broken += too_large(TENSORS, candidate.estimate.memory_bytes, limits.memory_bytes) + too_slow(candidate.estimate, limits)
    elif limits.asked and candidate.p95_ms is None:
        broken.append("neither measured nor estimated, so the limit cannot be checked")
    if candidate.drop_points > limits.drop_points:
        broken.append(f"accuracy drop {candidate.drop_points:g} points > {limits.drop_points:g}")
    return broken


def doubts(candidate: Candidate, limits: Limits) -> list[str]:
    """A text with the figures if the latency limit may be exceeded only because of noise; else none."""
    limit, p95 = limits.latency_p95_ms, candidate.p95_ms
    if limit is None or p95 is None or p95 <= limit or candidate.bound_ms is None or candidate.bound_ms > limit:
        return []
    return [
        f"p95 latency {p95:g} ms > {limit:g} ms was measured on a noisy machine and is ignored: the shortest run took "
        f"{candidate.shortest_ms:g} ms"
    ]


def too_large(what: str, found: int, limit: int | None) -> list[str]:
    """One text with both sizes if the limit is exceeded; else none."""
    return [f"{what} {more_than(found, limit)}"] if limit is not None and found > limit else []


def too_slow(estimate: Estimate, limits: Limits) -> list[str]:
    """One text with the figures if the estimated median exceeds the latency limit; else none."""
    limit = limits.latency_p95_ms
    return [f"estimated latency {estimate.latency} > {limit:g} ms"] if limit is not None and estimate.p50_ms > limit else []


def more_than(found: int, limit: int) -> str:
    """``"FOUND > LIMIT"``, in bytes if the rounded sizes would be equal."""
    rounded = format_bytes(found), format_bytes(limit)
    return " > ".join(rounded) if rounded[0] != rounded[1] else f"{found} B > {limit} B"


def choose(
    candidates: Sequence[Candidate], limits: Limits, wanted: Precision | Literal["auto"], yardstick: Limits | None = None
) -> tuple[Decision, ...]:
    """Choose one candidate.

    With measured latencies, the fitting candidate with the lowest median is chosen, so INT8 that is slower than FP16 is chosen only for
    its size. Without, FP16 is preferred if it fits: every such target accelerates it, and it costs no accuracy. Another candidate
    replaces it only if its whole estimated interval is below that of FP16.

    Args:
        candidates: one of each precision.
        limits: the binding limits.
        wanted: the requested precision.
        yardstick: the advisory limits of the profile: a candidate within them is preferred, and the decision states violations.
            None: there are none.

    Raises:
        OverBudget: none fits; names the binding limit and the nearest candidate.
        UsageError: no candidates.
    """
    eligible = [c for c in candidates if wanted in ("auto", c.precision)]
    if not eligible:
        raise UsageError(f"there is no {wanted} candidate", "leave out --precision, or choose another one")
    broken = {c.precision: violations(c, limits) for c in candidates}
    fitting = [c for c in eligible if not broken[c.precision]]
    if not fitting:
        nearest = min(eligible, key=lambda c: (len(broken[c.precision]), c.size_bytes))
        over = "; ".join(broken[nearest.precision])
        raise OverBudget(
            "no model fits the budget:\n" + "\n".join(f"  {c.precision}: {'; '.join(broken[c.precision])}" for c in eligible),
            f"the nearest is {nearest.precision} ({over}); raise that limit, or train a smaller --backbone or --image-size",
        )
    measure = yardstick or limits
    beyond = {c.precision: tuple(text for text in violations(c, measure) if text not in broken[c.precision]) for c in candidates}
    best = _fastest([c for c in fitting if not beyond[c.precision]] or [_nearest(fitting, measure)])
    return tuple(
        Decision(
            c.precision,
            c is best,
            _reason(c, best, [*broken[c.precision], *beyond[c.precision]], bool(doubts(c, measure)), wanted),
            beyond[c.precision],
            tuple(doubts(c, measure)),
        )
        for c in candidates
    )


def _nearest(fitting: Sequence[Candidate], yardstick: Limits) -> Candidate:
    """The best candidate outside the advisory limits: by accuracy drop, then by the number of violations, then by size."""
    return min(fitting, key=lambda c: (c.drop_points > yardstick.drop_points, len(violations(c, yardstick)), c.size_bytes))


def _fastest(fitting: Sequence[Candidate]) -> Candidate:
    """The fastest candidate by measurement or estimate; see :func:`choose`."""
    if all(c.p50_ms is not None for c in fitting):
        return min(fitting, key=lambda c: _time(c, fitting))
    first = min(fitting, key=lambda c: PREFERRED.index(c.precision))
    if first.estimate is None:
        return first
    low = first.estimate.low_ms
    faster = [(c.estimate.p50_ms, c) for c in fitting if c.estimate is not None and c.estimate.high_ms < low]
    return min(faster, key=lambda pair: pair[0])[1] if faster else first


def _time(candidate: Candidate, others: Sequence[Candidate]) -> float:
    """The time that ranks candidates: the median, or on a noisy machine the shortest run, since noise only lengthens runs."""
    shortest = any(c.noisy for c in others) and all(c.shortest_ms is not None for c in others)
    return (candidate.shortest_ms if shortest else candidate.p50_ms) or 0.0


def _reason(candidate: Candidate, best: Candidate, broken: list[str], doubtful: bool, wanted: str) -> str:
    if candidate is best:
        how = " by estimated latency" if best.estimate else ", measured on a noisy machine" if doubtful else ""
        within = f"over the profile's budget: {'; '.join(broken)}" if broken else f"within the budget{how}"
        if wanted != "auto":
            return f"requested; {within}"
        if broken:
            return f"nearest to the budget; {within}"
        return f"fastest {within}" if best.p50_ms is not None else f"{within}; not timed here"
    if broken:
        return "; ".join(broken)
    if wanted not in ("auto", candidate.precision):
        return f"{wanted} was requested"
    if candidate.p50_ms is not None and best.p50_ms is not None:
        times = _time(candidate, (candidate, best)), _time(best, (candidate, best))
        what = "shortest run, on a noisy machine" if candidate.noisy or best.noisy else "median"
        return f"slower than {best.precision} ({times[0]:.2f} ms against {times[1]:.2f} ms, {what})"
    if candidate.estimate is not None and best.estimate is not None:
        return f"also fits; estimated at {candidate.estimate.latency}, {best.precision} at {best.estimate.latency}"
    if candidate.precision == "int8":
        return f"also fits; measure on the device whether it is faster than {best.precision}: tlx bench"
    return f"also fits; {best.precision} is half its size"
