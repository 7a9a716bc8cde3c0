"""Whether a measured model is within the profile's budget: limit by limit, and in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tlexport.bundle.manifest import Manifest
from tlexport.measurement import Measurement
from tlexport.plan import more_than, not_as_budgeted
from tlexport.units import format_bytes, format_mj

Kept = Literal["kept", "broken", "unknown"]
TIMED = ("p95 latency", "energy")  # limits that a noisy machine affects


@dataclass(frozen=True)
class Limit:
    """One limit of the budget, and the measured figure."""

    name: str
    allowed: str
    found: str
    kept: Kept
    share: float | None  # found / allowed
    why: str = ""  # why it is unknown


@dataclass(frozen=True)
class Verdict:
    """The verdict on the bundle's chosen model."""

    kept: Kept
    sentence: str
    limits: tuple[Limit, ...] = ()
    noise: str = ""  # why the measurement behind a latency or energy limit was noisy; empty: it was not

    @property
    def word(self) -> str:
        """The answer in a few words."""
        answer = {"kept": "Within the budget", "broken": "Over the budget", "unknown": "No verdict"}[self.kept]
        return f"{answer}, measured on a noisy machine." if self.noise and self.kept != "unknown" else f"{answer}."

    @property
    def tone(self) -> Kept:
        """The colour of the verdict: an unknown one on a noisy machine."""
        return "unknown" if self.noise else self.kept


def judge(manifest: Manifest, measurements: Sequence[Measurement], *, on_target: bool, noise: Mapping[str, str] | None = None) -> Verdict:
    """Compare the chosen model with the budget of the bundle's profile.

    Args:
        manifest: of the bundle.
        measurements: of its models, and possibly of others.
        on_target: the measurements were made on the bundle's target. Elsewhere only the size counts.
        noise: the sha256 of each model with a noisy measurement, and the cause.
    """
    found = _judged(manifest, measurements, on_target)
    cause = (noise or {}).get(manifest.model().artifact.sha256, "")
    timed = [limit for limit in found.limits if limit.name in TIMED and limit.kept != "unknown"]
    if not cause or not timed:
        return found
    again = f"{found.sentence} Noisy measurement: {cause}. Measure again on a quiet machine."
    limits = tuple(replace(limit, why="on a noisy machine") if limit in timed else limit for limit in found.limits)
    return replace(found, sentence=again, limits=limits, noise=cause)


def _judged(manifest: Manifest, measurements: Sequence[Measurement], on_target: bool) -> Verdict:
    chosen, where = manifest.model(), manifest.target
    own = [m for m in measurements if m.artifact_sha256 == chosen.artifact.sha256]
    measured = next((m for m in own if m.batch == 1), None)
    limits = tuple(_limits(manifest, measured, _why_not(manifest, measured, own, on_target)))
    name = f"The chosen {chosen.artifact.precision.upper()} model"
    if not limits:
        return Verdict("unknown", f"The profile {where} has no budget, so there is no verdict.")
    broken = [limit for limit in limits if limit.kept == "broken"]
    if broken:
        over = "; ".join(f"{limit.name} is {limit.found}, the limit is {limit.allowed}" for limit in broken)
        return Verdict("broken", f"{name} is over the budget of {where}: {over}.", limits)
    if unknown := [limit for limit in limits if limit.kept == "unknown"]:
        rest = " and ".join(limit.name for limit in unknown)
        kept = [limit.name for limit in limits if limit.kept == "kept"]
        first = f"{name} is within the limit of {' and '.join(kept)}. Its {rest}" if kept else f"{name}: its {rest}"
        return Verdict("unknown", f"{first} on {where} could not be checked: {unknown[0].why}.", limits)
    return Verdict("kept", f"{name} is within the budget of {where}.", limits)


def _why_not(manifest: Manifest, measured: Measurement | None, own: Sequence[Measurement], on_target: bool) -> str:
    """Why the target's budget does not apply to a measurement; empty if it does. The same rule as in ``tlx bench --check``."""
    if measured is None:
        return "only batches of several images were measured, and the budget is for one image" if own else "it was not measured"
    if not on_target:
        return f"this machine is not {manifest.target}"
    return not_as_budgeted(manifest.profile, measured.runtime, measured.provider)


def _limits(manifest: Manifest, measured: Measurement | None, why: str) -> Iterator[Limit]:
    budget, counted = manifest.profile.budget, None if why else measured
    if budget.size_bytes is not None:
        found = manifest.model().size_bytes
        over = found > budget.size_bytes
        shown = more_than(found, budget.size_bytes).partition(" > ")[0] if over else format_bytes(found)
        share = found / budget.size_bytes
        yield Limit("file size", format_bytes(budget.size_bytes), shown, "broken" if over else "kept", share)
    if budget.latency_p95_ms is not None:
        p95 = counted.percentile_ms(95) if counted else None
        yield _limit("p95 latency", p95, budget.latency_p95_ms, lambda ms: f"{ms:.4g} ms", why)
    if budget.memory_bytes is not None:
        yield _limit("memory", counted.peak_memory_bytes if counted else None, budget.memory_bytes, format_bytes, why)
    if budget.energy_mj is not None:
        yield _limit(
            "energy", counted.energy_mj_per_image if counted else None, budget.energy_mj, format_mj, why or "no energy counter was read"
        )


def _limit(name: str, found: float | None, allowed: float, shown: Callable[[float], str], why: str) -> Limit:
    if found is None:
        return Limit(name, shown(allowed), "–", "unknown", None, why)
    return Limit(name, shown(allowed), shown(found), "broken" if found > allowed else "kept", found / allowed)
