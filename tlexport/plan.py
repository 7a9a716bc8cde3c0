"""Which limits bind, and which candidate export chooses. Pure: records in, decisions with reasons out."""

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

MAX_DROP_POINTS = 1.0  # default for --max-drop: what INT8 may cost before it is no longer chosen unasked
TENSORS = "memory of weights and activations alone"  # what an estimate knows of the memory: the runtime's own comes on top
ENGINES = {"trtexec": "tensorrt"}  # the same engine, timed by NVIDIA's tool
SHARED = 2.0  # how much slower a core may be while another program keeps its second hardware thread busy
PREFERRED: tuple[Precision, ...] = ("fp16", "fp32", "int8")  # where nothing tells which is fastest


def not_as_budgeted(profile: Profile, runtime: str, provider: str) -> str:
    """Why a profile's budget says nothing of what a runtime took; empty where it does: it is for the way that the target runs models."""
    if (runs := ENGINES.get(runtime, runtime)) != profile.runtime:
        return f"{runs} was measured, and the budget is for {profile.runtime}"
    if (profile.device is not None) != provider.startswith("CUDA"):
        return f"{provider} was measured, and the budget is for {'a GPU' if profile.device else 'the CPU'}"
    return ""


@dataclass(frozen=True)
class Limits:
    """What a model is held against. None: no limit."""

    size_bytes: int | None
    latency_p95_ms: float | None
    memory_bytes: int | None
    drop_points: float
    asked: bool = False  # for latency or memory by the user: a model of which neither is known does not keep it


@dataclass(frozen=True)
class Constraints:
    """What the user asked of an export. Limits bind, and replace the profile's, which is a yardstick; None keeps that."""

    precision: Precision | Literal["auto"] = "auto"
    max_size_bytes: int | None = None
    max_latency_ms: float | None = None
    max_drop_points: float | None = None
    threads: int | None = 1  # for the latency; one core is what is left to a classifier on most boards
    max_memory_bytes: int | None = None
    shrink: bool = False  # the profile's own budget may change the network too

    def limits(self, budget: Budget) -> Limits:
        """The yardstick: each limit of the user's, or where there is none the budget's figure."""
        return Limits(
            size_bytes=self.max_size_bytes if self.max_size_bytes is not None else budget.size_bytes,
            latency_p95_ms=self.max_latency_ms if self.max_latency_ms is not None else budget.latency_p95_ms,
            memory_bytes=self.max_memory_bytes if self.max_memory_bytes is not None else budget.memory_bytes,
            drop_points=self.max_drop_points if self.max_drop_points is not None else MAX_DROP_POINTS,
            asked=(self.max_latency_ms, self.max_memory_bytes) != (None, None),
        )

    def binding(self) -> Limits:
        """The limits that the user gave: a model that breaks one is not written."""
        drop = math.inf if self.max_drop_points is None else self.max_drop_points
        return replace(self.limits(Budget()), drop_points=drop)

    def may_change(self, budget: Budget) -> Limits:
        """The limits for which the network may be changed. A changed one also keeps to the default of the loss in accuracy."""
        return self.limits(budget if self.shrink else Budget())

    @property
    def may_train(self) -> bool:
        """Whether INT8 may be trained for where it loses too much."""
        return self.shrink or self.max_drop_points is not None


@dataclass(frozen=True)
class Candidate:
    """What is known of one model when the choice is made."""

    precision: Precision
    size_bytes: int
    drop_points: float
    p50_ms: float | None  # these three: measured
    p95_ms: float | None
    memory_bytes: int | None
    estimate: Estimate | None = None  # where nothing was measured
    shortest_ms: float | None = None  # of the measured runs; CPU time where that is less
    noisy: bool = False  # the machine was not quiet while it was measured

    @property
    def bound_ms(self) -> float | None:
        """What p95 is at least: the measured figure, or on a noisy machine what the shortest run may take on a core of its own."""
        if not self.noisy or self.p95_ms is None or self.shortest_ms is None:
            return self.p95_ms
        return min(self.p95_ms, self.shortest_ms / SHARED)


@dataclass(frozen=True)
class Decision:
    """Whether a candidate was chosen, and why or why not."""

    precision: Precision
    chosen: bool
    reason: str
    over: tuple[str, ...] = ()  # limits of the profile that it breaks, and that do not bind
    doubts: tuple[str, ...] = ()  # limits that a noisy measurement breaks and a quiet one may keep


def violations(candidate: Candidate, limits: Limits) -> list[str]:
    """Each limit that a candidate breaks, in words with both figures."""
    broken = too_large("size", candidate.size_bytes, limits.size_bytes)
    if limits.latency_p95_ms is not None and candidate.bound_ms is not None and candidate.bound_ms > limits.latency_p95_ms:
        noisy = f" (noisy machine; the shortest run took {candidate.shortest_ms:g} ms)" if candidate.noisy else ""
        broken.append(f"p95 latency {candidate.p95_ms:g} ms{noisy} > {limits.latency_p95_ms:g} ms")
    if candidate.memory_bytes is not None:
        broken += too_large("memory", candidate.memory_bytes, limits.memory_bytes)
    if candidate.estimate is not None:
        broken += too_large(TENSORS, candidate.estimate.memory_bytes, limits.memory_bytes) + too_slow(candidate.estimate, limits)
    elif limits.asked and candidate.p95_ms is None:
        broken.append("neither measured nor estimated, so it cannot be held against the limit")
    if candidate.drop_points > limits.drop_points:
        broken.append(f"accuracy drop {candidate.drop_points:g} points > {limits.drop_points:g}")
    return broken


def doubts(candidate: Candidate, limits: Limits) -> list[str]:
    """The limit of latency, with the figures, where only noise may have broken it; else none."""
    limit, p95 = limits.latency_p95_ms, candidate.p95_ms
    if limit is None or p95 is None or p95 <= limit or candidate.bound_ms is None or candidate.bound_ms > limit:
        return []
    return [
        f"p95 latency {p95:g} ms > {limit:g} ms was measured on a noisy machine and does not count: the shortest run took "
        f"{candidate.shortest_ms:g} ms"
    ]


def too_large(what: str, found: int, limit: int | None) -> list[str]:
    """One text, with both sizes, where the limit is broken; else none."""
    return [f"{what} {more_than(found, limit)}"] if limit is not None and found > limit else []


def too_slow(estimate: Estimate, limits: Limits) -> list[str]:
    """One text, with the figures, where the limit of latency is more likely to be broken than not; else none."""
    limit = limits.latency_p95_ms
    return [f"estimated latency {estimate.latency} > {limit:g} ms"] if limit is not None and estimate.p50_ms > limit else []


def more_than(found: int, limit: int) -> str:
    """Both sizes, the first of which is the larger; to the byte where rounding would make them look alike."""
    rounded = format_bytes(found), format_bytes(limit)
    return " > ".join(rounded) if rounded[0] != rounded[1] else f"{found} B > {limit} B"


def choose(
    candidates: Sequence[Candidate], limits: Limits, wanted: Precision | Literal["auto"], yardstick: Limits | None = None
) -> tuple[Decision, ...]:
    """Choose one candidate.

    With measured latencies the one with the lowest median that fits wins (INT8 that is slower than FP16 is not chosen unless
    the size demands it). Without, FP16 is preferred where it fits: it is accelerated by every such target and costs no
    accuracy. Another takes its place where the estimates say so clearly: where the whole interval of the one is below that
    of the other.

    Args:
        candidates: one of each precision.
        limits: they bind.
        wanted: the precision that was asked for.
        yardstick: limits of the profile, which do not: a candidate that keeps them is preferred, and whether the chosen one does is
            told. None: there are none.

    Raises:
        OverBudget: none fits; names the binding limit and the nearest candidate.
        UsageError: no candidates.
    """
    eligible = [c for c in candidates if wanted in ("auto", c.precision)]
    if not eligible:
        raise UsageError(f"there is no {wanted} candidate")
    broken = {c.precision: violations(c, limits) for c in candidates}
    fitting = [c for c in eligible if not broken[c.precision]]
    if not fitting:
        nearest = min(eligible, key=lambda c: (len(broken[c.precision]), c.size_bytes))
        over = "; ".join(broken[nearest.precision])
        raise OverBudget(
            "no model fits the budget:\n" + "\n".join(f"  {c.precision}: {'; '.join(broken[c.precision])}" for c in eligible),
            f"nearest is {nearest.precision} ({over}); raise that limit, or train a smaller --backbone or --image-size",
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
    """Where none keeps the yardstick: accuracy counts most, then the number of broken limits, then the size."""
    return min(fitting, key=lambda c: (c.drop_points > yardstick.drop_points, len(violations(c, yardstick)), c.size_bytes))


def _fastest(fitting: Sequence[Candidate]) -> Candidate:
    """The fastest as far as is known; see :func:`choose`."""
    if all(c.p50_ms is not None for c in fitting):
        return min(fitting, key=lambda c: _time(c, fitting))
    first = min(fitting, key=lambda c: PREFERRED.index(c.precision))
    if first.estimate is None:
        return first
    low = first.estimate.low_ms
    faster = [(c.estimate.p50_ms, c) for c in fitting if c.estimate is not None and c.estimate.high_ms < low]
    return min(faster, key=lambda pair: pair[0])[1] if faster else first


def _time(candidate: Candidate, others: Sequence[Candidate]) -> float:
    """What models are ranked by: the median; the shortest run where the machine was noisy, since noise only adds to a run."""
    shortest = any(c.noisy for c in others) and all(c.shortest_ms is not None for c in others)
    return (candidate.shortest_ms if shortest else candidate.p50_ms) or 0.0


def _reason(candidate: Candidate, best: Candidate, broken: list[str], doubtful: bool, wanted: str) -> str:
    if candidate is best:
        how = ", as far as latency can be estimated" if best.estimate else ", as far as a noisy machine can tell" if doubtful else ""
        within = f"over the profile's budget: {'; '.join(broken)}" if broken else f"within the budget{how}"
        if wanted != "auto":
            return f"asked for; {within}"
        if broken:
            return f"nearest; {within}"
        return f"fastest {within}" if best.p50_ms is not None else f"{within}; not timed here"
    if broken:
        return "; ".join(broken)
    if wanted not in ("auto", candidate.precision):
        return f"{wanted} was asked for"
    if candidate.p50_ms is not None and best.p50_ms is not None:
        times = _time(candidate, (candidate, best)), _time(best, (candidate, best))
        what = "shortest run, on a noisy machine" if candidate.noisy or best.noisy else "median"
        return f"slower than {best.precision} ({times[0]:.2f} against {times[1]:.2f} ms {what})"
    if candidate.estimate is not None and best.estimate is not None:
        return f"fits too; estimated at {candidate.estimate.latency}, {best.precision} at {best.estimate.latency}"
    if candidate.precision == "int8":
        return f"fits too; whether it is faster than {best.precision} is known only on the device: tlx bench there"
    return f"fits too; {best.precision} is half its size"
