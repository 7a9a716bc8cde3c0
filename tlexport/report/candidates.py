"""All models of a bundle and its export, with accuracy, size and latency, measured now or recorded earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tlexport.bundle.manifest import Latency, Manifest
from tlexport.checkpoint import Checkpoint
from tlexport.measurement import Measurement
from tlexport.prediction import Estimate

Source = Literal["measured", "measured at export", "estimated", "unknown"]


@dataclass(frozen=True)
class ModelPoint:
    """One model: a point of the plot, and a row of the table beside it."""

    name: str
    size_bytes: int
    top1: float | None  # 0..1
    source: Source  # of the latency
    p50_ms: float | None
    p95_ms: float | None
    memory_bytes: int | None
    chosen: bool
    reason: str
    interval_ms: tuple[float, float] | None = None  # of an estimate


def candidates(measurements: Sequence[Measurement], known: Manifest | Checkpoint | None) -> tuple[ModelPoint, ...]:
    """The models of a bundle, the rejected ones, and all other measured models."""
    first: dict[str, Measurement] = {}
    for measured in sorted(measurements, key=lambda m: m.batch):
        first.setdefault(measured.artifact_sha256, measured)
    found = []
    if isinstance(known, Manifest):
        for model in known.models:
            measured_now = first.pop(model.artifact.sha256, None)
            latency = _measured(measured_now) if measured_now else _latency(model.latency, model.estimate, model.peak_memory_bytes)
            name = model.artifact.precision.upper()
            found.append(
                ModelPoint(name, model.size_bytes, model.top1, *latency, model.chosen, model.reason, _interval(latency, model.estimate))
            )
        for other in known.rejected:
            if other.size_bytes is None:  # it failed: no figures exist
                continue
            latency = _latency(other.latency, other.estimate, None)
            name, interval = f"{other.precision.upper()}, {other.what}", _interval(latency, other.estimate)
            found.append(ModelPoint(name, other.size_bytes, other.top1, *latency, False, f"not in the bundle: {other.reason}", interval))
    for measured in first.values():
        top1 = known.metrics.get("val_top1") if isinstance(known, Checkpoint) else None
        name = "the checkpoint, in torch" if isinstance(known, Checkpoint) else f"{_file(measured.what)}, {measured.precision}"
        found.append(ModelPoint(name, measured.size_bytes, top1, *_measured(measured), False, ""))
    return tuple(found)


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points (cost, benefit), by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, optimal = float("-inf"), []
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            optimal.append(i)
    return optimal


Figures = tuple[Source, float | None, float | None, int | None]


def _measured(m: Measurement) -> Figures:
    return "measured", m.percentile_ms(50), m.percentile_ms(95), m.peak_memory_bytes


def _latency(latency: Latency | None, estimate: Estimate | None, memory: int | None) -> Figures:
    if latency is not None:
        return "measured at export", latency.p50, latency.p95, memory
    if estimate is not None:
        return "estimated", estimate.p50_ms, None, memory
    return "unknown", None, None, memory


def _interval(figures: Figures, estimate: Estimate | None) -> tuple[float, float] | None:
    return (estimate.low_ms, estimate.high_ms) if figures[0] == "estimated" and estimate else None


def _file(what: str) -> str:
    return what.replace("\\", "/").rstrip("/").rpartition("/")[2] or what
