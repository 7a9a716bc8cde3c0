"""Predicts the time of a run from the layers of a network with a device's model, with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from tlexport.errors import StepFailed
from tlexport.estimate.cost import GraphCost
from tlexport.estimate.fit import (
    LEAST_US,
    OUTLIER,
    WEIGHTED_KINDS,
    KindModel,
    Numbers,
    TimedLayer,
    costs_of,
    features_of,
    fit_layers,
    group_of,
    rows_of,
    spread_of,
    weighted_median,
)
from tlexport.hardware.device_model import DeviceModel
from tlexport.measurement import Environment

FOLDS = 5
FEWEST_PROBES = 20
COVERED = 0.8  # coverage of the interval: share of networks


@dataclass(frozen=True)
class Probe:
    """A timed network."""

    rows: tuple[TimedLayer, ...]
    nodes: int  # executed nodes, including those without cost
    whole_us: float

    @property
    def timed(self) -> int:
        """Number of layers that the rows represent."""
        return sum(row.count for row in self.rows)

    def without(self, overhead_us: float) -> Probe:
        """The probe with the overhead subtracted from each layer."""
        return replace(self, rows=tuple(replace(row, us=max(LEAST_US, row.us - overhead_us)) for row in self.rows))


@dataclass(frozen=True)
class LayerTimePrediction:
    """Predicted time of a network on a device."""

    p50_ms: float
    low_ms: float
    high_ms: float
    unknown: tuple[str, ...]  # operators without timings; they count as copies of the same bytes, and the interval is wider


def probe_of(cost: GraphCost, nodes: int, node_us: Mapping[str, float], whole_us: float) -> Probe:
    """The rows of a timed network."""
    return Probe(tuple(rows_of(cost, node_us)), nodes, whole_us)


def fit_device(probes: Sequence[Probe], precision: str, threads: int, environment: Environment) -> DeviceModel:
    """Fit the models of all kinds, and find the error of whole networks by cross-validation.

    Raises:
        StepFailed: too few probes.
    """
    if len(probes) < FEWEST_PROBES:
        raise StepFailed(f"only {len(probes)} probe networks were timed; {FEWEST_PROBES} are needed", "give it more time: --seconds 300")
    overhead_us = profiler_us(probes)
    probes = [probe.without(overhead_us) for probe in probes]
    kinds = fit_layers([row for probe in probes for row in probe.rows])
    sums = _left_out(probes, kinds)
    measured = np.array([probe.whole_us for probe in probes])
    terms = np.stack([sums, np.array([probe.nodes for probe in probes]), np.ones(len(probes))], axis=1)
    whole = _whole(terms, measured)
    ratios = measured / (terms @ whole)
    low, high = np.quantile(ratios, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    errors = np.abs(1 / ratios - 1)
    return DeviceModel(
        runtime="onnxruntime",
        precision=precision,
        threads=threads,
        kinds={group: kind.to_record() for group, kind in kinds.items()},
        whole=(float(whole[0]), float(whole[1]), float(whole[2])),
        low=min(1.0, float(low)),
        high=max(1.0, float(high)),
        error=float(np.median(errors)),
        within_10=float((errors <= 0.1).mean()),
        probes=len(probes),
        environment=environment,
    )


def profiler_us(probes: Sequence[Probe]) -> float:
    """Overhead of the profiler for each layer, µs: the excess of the summed layer times over whole runs without the profiler."""
    sums = np.array([sum(row.us * row.count for row in probe.rows) for probe in probes])
    whole, layers = np.array([probe.whole_us for probe in probes]), np.array([probe.timed for probe in probes])
    return max(0.0, weighted_median((sums - whole) / layers, layers / whole))


def _whole(terms: Numbers, measured: Numbers) -> Numbers:
    """Factors of the sum of layers, of each node and of each run. Probes that were timed on a busy machine are excluded."""
    kept = np.ones(len(measured), bool)
    for _ in range(3):
        whole, _ = nnls(terms[kept] / measured[kept, None], np.ones(int(kept.sum())))
        left = np.log(measured / (terms @ whole))
        kept = left - np.median(left) <= OUTLIER * spread_of(left)
    # least squares of relative errors is biased low when times scatter upwards; the median is not
    return np.asarray(whole * np.exp(np.median(left[kept])), dtype=np.float64)


def _left_out(probes: Sequence[Probe], kinds: Mapping[str, KindModel]) -> Numbers:
    """The summed layer times of each probe, µs, predicted by a model fitted without it: (probe,)."""
    sums = np.empty(len(probes))
    for fold in range(FOLDS):
        others = [row for index, probe in enumerate(probes) if index % FOLDS != fold for row in probe.rows]
        model = fit_layers(others, kinds)
        for index in range(fold, len(probes), FOLDS):
            sums[index] = _sum(probes[index].rows, model)
    return sums


def _sum(rows: Sequence[TimedLayer], kinds: Mapping[str, KindModel]) -> float:
    """Time of all layers, µs, group by group."""
    groups: dict[str, list[TimedLayer]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    total = 0.0
    for group, members in groups.items():
        model = _model_for(group, kinds)
        if model is None:
            continue
        costs, features = np.array([row.costs for row in members]), np.array([row.features for row in members])
        total += float(np.exp(model.log_us(costs, features)) @ [row.count for row in members])
    return total


def _model_for(group: str, kinds: Mapping[str, KindModel]) -> KindModel | None:
    """The model of a group, or of its kind, or of copies."""
    kind = group.partition("/")[0]
    return kinds.get(group) or kinds.get(kind) or (kinds.get("elementwise") if kind not in WEIGHTED_KINDS else kinds.get("conv"))


def predict_from_layers(cost: GraphCost, nodes: int, model: DeviceModel) -> LayerTimePrediction:
    """Predict the time of a network on the device.

    Args:
        cost: the cost of the graph as fused by the device's runtime.
        nodes: its number of nodes.
        model: the device's model.
    """
    kinds = {group: KindModel.from_record(record) for group, record in model.kinds.items()}
    rows = [TimedLayer(group_of(layer), costs_of(layer), features_of(layer, cost), 0.0) for layer in cost.layers]
    total = float(np.array([_sum(rows, kinds), nodes, 1.0]) @ np.array(model.whole)) / 1e3
    strange = [layer for layer in cost.layers if group_of(layer) not in kinds and layer.kind not in kinds]
    wider = 1 + len(strange) / max(1, len(cost.layers))
    unknown = tuple(sorted({layer.op for layer in strange} | set(cost.unknown)))
    return LayerTimePrediction(total, total * model.low / wider, total * model.high * wider, unknown)
