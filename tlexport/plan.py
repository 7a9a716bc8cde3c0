"""What export will do, and which candidate it chooses. Pure: records in, decisions with reasons out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import OverBudget, Unsupported, UsageError
from tlexport.prediction import Estimate
from tlexport.profile import Budget, Profile
from tlexport.units import format_bytes

MAX_DROP_POINTS = 1.0  # default for --max-drop: what INT8 may cost before it is no longer chosen unasked
TENSORS = "memory of weights and activations alone"  # what an estimate knows of the memory: the runtime's own comes on top
LADDER = "calibrated on training images; where it loses too much: equalization, blocks in float, training for it"
ENGINES = {"trtexec": "tensorrt"}  # the same engine, timed by NVIDIA's tool
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
    """The budget that binds: the profile's, with what the command line replaced. None: no limit."""

    size_bytes: int | None
    latency_p95_ms: float | None
    memory_bytes: int | None
    drop_points: float
    asked: bool = False  # for latency or memory by the user: a model of which neither is known does not keep it


@dataclass(frozen=True)
class Wishes:
    """What the user asked of an export. Limits replace the profile's; None keeps them."""

    precision: Precision | Literal["auto"] = "auto"
    max_size_bytes: int | None = None
    max_latency_ms: float | None = None
    max_drop_points: float | None = None
    threads: int | None = 1  # for the latency; one core is what is left to a classifier on most boards
    max_memory_bytes: int | None = None

    def limits(self, budget: Budget) -> Limits:
        """What binds: each wish, or where there is none the budget's figure."""
        return Limits(
            size_bytes=self.max_size_bytes if self.max_size_bytes is not None else budget.size_bytes,
            latency_p95_ms=self.max_latency_ms if self.max_latency_ms is not None else budget.latency_p95_ms,
            memory_bytes=self.max_memory_bytes if self.max_memory_bytes is not None else budget.memory_bytes,
            drop_points=self.max_drop_points if self.max_drop_points is not None else MAX_DROP_POINTS,
            asked=(self.max_latency_ms, self.max_memory_bytes) != (None, None),
        )


@dataclass(frozen=True)
class Step:
    """One thing that export does, and why."""

    action: Literal["convert", "quantize", "check", "measure", "estimate", "choose", "write"]
    precision: Precision | None
    reason: str


def plan_export(
    profile: Profile, precision: Precision | Literal["auto"], here: bool, estimated: Collection[Precision] = ()
) -> tuple[Step, ...]:
    """The steps, in order.

    Args:
        profile: the target.
        precision: what the user asked for; ``auto``: everything the target accelerates, then a choice.
        here: this machine is the target, so latency can be measured.
        estimated: where it cannot, the precisions that there is something to estimate latency by.

    Raises:
        Unsupported: the target cannot do that precision.
    """
    able = profile.precisions.value
    if precision != "auto" and precision not in able:
        raise Unsupported(
            f"{profile.title} has no {precision}: {profile.precisions.source}", f"use --precision {' or '.join(able)}, or another --target"
        )
    # FP32 is the parent of the others, and on the device the reference that they are held against
    wanted = [p for p in PRECISIONS if p in able and (precision in ("auto", p) or p == "fp32")]
    steps = [Step("convert", "fp32", f"ONNX, opset {profile.opset.value}, {profile.input_dtype.value} image in, probabilities out")]
    if "fp16" in wanted:
        steps.append(Step("quantize", "fp16", "half the size; types in the graph"))
    if "int8" in wanted and profile.int8 is not None:
        steps.append(
            Step(
                "quantize",
                "int8",
                f"{profile.int8.quantizer}, {profile.int8.activations} activations, calibrated on training images; {LADDER}",
            )
        )
    steps += [Step("check", p, "onnx.checker, declared tensors, agreement with the checkpoint on every validation image") for p in wanted]
    if here:
        steps += [Step("measure", p, f"this machine is {profile.target}: latency is measured") for p in wanted]
    else:
        steps += [Step("estimate", p, f"latency on {profile.target} is estimated, not measured") for p in wanted if p in estimated]
    how = "the fastest that keeps the limits" if precision == "auto" else "as asked"
    rest = "where none does, a smaller network for the size, smaller images for the latency"
    steps.append(Step("choose", None if precision == "auto" else precision, f"{how}; {rest}"))
    steps.append(Step("write", None, "the bundle"))
    return tuple(steps)


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


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate was chosen, and why or why not."""

    precision: Precision
    chosen: bool
    reason: str


def violations(candidate: Candidate, limits: Limits) -> list[str]:
    """Each limit that a candidate breaks, in words with both figures."""
    broken = too_large("size", candidate.size_bytes, limits.size_bytes)
    if limits.latency_p95_ms is not None and candidate.p95_ms is not None and candidate.p95_ms > limits.latency_p95_ms:
        broken.append(f"p95 latency {candidate.p95_ms:g} ms > {limits.latency_p95_ms:g} ms")
    if candidate.memory_bytes is not None:
        broken += too_large("memory", candidate.memory_bytes, limits.memory_bytes)
    if candidate.estimate is not None:
        broken += too_large(TENSORS, candidate.estimate.memory_bytes, limits.memory_bytes) + too_slow(candidate.estimate, limits)
    elif limits.asked and candidate.p95_ms is None:
        broken.append("neither measured nor estimated, so it cannot be held against the limit")
    if candidate.drop_points > limits.drop_points:
        broken.append(f"accuracy drop {candidate.drop_points:g} points > {limits.drop_points:g}")
    return broken


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


def choose(candidates: Sequence[Candidate], limits: Limits, wanted: Precision | Literal["auto"]) -> tuple[Verdict, ...]:
    """Choose one candidate.

    With measured latencies the one with the lowest median that fits wins (INT8 that is slower than FP16 is not chosen unless
    the size demands it). Without, FP16 is preferred where it fits: it is accelerated by every such target and costs no
    accuracy. Another takes its place where the estimates say so clearly: where the whole interval of the one is below that
    of the other.

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
    best = _fastest(fitting)
    return tuple(Verdict(c.precision, c is best, _reason(c, best, broken[c.precision], wanted)) for c in candidates)


def _fastest(fitting: Sequence[Candidate]) -> Candidate:
    """The fastest as far as is known; see :func:`choose`."""
    if all(c.p50_ms is not None for c in fitting):
        return min(fitting, key=lambda c: c.p50_ms or 0.0)
    first = min(fitting, key=lambda c: PREFERRED.index(c.precision))
    if first.estimate is None:
        return first
    low = first.estimate.low_ms
    faster = [(c.estimate.p50_ms, c) for c in fitting if c.estimate is not None and c.estimate.high_ms < low]
    return min(faster, key=lambda pair: pair[0])[1] if faster else first


def _reason(candidate: Candidate, best: Candidate, broken: list[str], wanted: str) -> str:
    if candidate is best:
        how = "" if best.estimate is None else ", as far as latency can be estimated"
        if wanted != "auto":
            return f"asked for; within the budget{how}"
        return "fastest within the budget" if best.p50_ms is not None else f"within the budget{how}; not timed here"
    if broken:
        return "; ".join(broken)
    if wanted not in ("auto", candidate.precision):
        return f"{wanted} was asked for"
    if candidate.p50_ms is not None and best.p50_ms is not None:
        return f"slower than {best.precision} ({candidate.p50_ms:.2f} against {best.p50_ms:.2f} ms median)"
    if candidate.estimate is not None and best.estimate is not None:
        return f"fits too; estimated at {candidate.estimate.latency}, {best.precision} at {best.estimate.latency}"
    if candidate.precision == "int8":
        return f"fits too; whether it is faster than {best.precision} is known only on the device: tlx bench there"
    return f"fits too; {best.precision} is half its size"
