"""Fits a latency model of a device to timed layers: for each kind of layer, a linear model of its costs with a smooth correction.

The linear model (time = constant + MACs, activation bytes and weight bytes, each at a non-negative rate) extrapolates. The correction
is a Gaussian process (Rasmussen and Williams 2006, algorithm 2.1) on the logarithm of the ratio between the measured time and the
linear model; far from the timed layers it tends to 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from tlexport.errors import InvalidFile
from tlexport.estimate.cost import GraphCost, LayerCost
from tlexport.hardware.device_model import LayerModel

Numbers = npt.NDArray[np.float64]
Lengths = tuple[Numbers, float, float]  # length scales, spread, noise

MOST_ROWS = 450  # of one kind: the correction costs the cube of this number
LENGTH_ROWS = 160  # number of rows for fitting the length scales
FEWEST_ROWS = 6  # rows required for fitting a group separately from its kind
OWN_LENGTHS = 30  # rows required for separate length scales; smaller groups use those of their kind
WEIGHTED_KINDS = ("conv", "pointwise", "depthwise", "grouped", "se", "gemm")
OUTLIER = 4.0  # standard deviations above the median beyond which a time was disturbed; times are never too short
TICK_US = 1.0  # resolution of the profiler's clock, and uncertainty of its overhead
LEAST_US = 0.3  # shortest layer: the profiler counts whole microseconds
AROUND = (4.0, 60.0)  # bounds of the length scales, octaves, of features that all layers of a network share: shorter ones would let the
# correction distinguish the timed networks and learn the machine's load while each was timed
CHEAP = ("", "Relu", "Clip")  # activations that a convolution applies at negligible cost


@dataclass(frozen=True)
class TimedLayer:
    """A timed layer inside a network."""

    group: str
    costs: tuple[float, ...]  # inputs of the linear model
    features: tuple[float, ...]  # inputs of the correction, base-2 logarithms
    us: float
    count: int = 1  # number of equal layers in the network


def group_of(layer: LayerCost) -> str:
    """Name of the group of layers that share a model."""
    return f"{layer.kind}/{layer.op}"


def costs_of(layer: LayerCost) -> tuple[float, ...]:
    """The terms of the linear model: 1, 10^6 MACs, 10^6 bytes of activations, 10^6 bytes of weights."""
    return 1.0, layer.macs / 1e6, (layer.input_bytes + layer.output_bytes) / 1e6, layer.weight_bytes / 1e6


def features_of(layer: LayerCost, cost: GraphCost) -> tuple[float, ...]:
    """The features that determine the speed of a layer of a kind. The first two describe the network's working set, hence the cache."""
    around = (cost.weight_bytes, cost.peak_activation_bytes)
    since = float(np.log2(1 + layer.since / 1e5))
    if layer.kind in WEIGHTED_KINDS:
        sizes = (*around, layer.rows, layer.width, layer.inner, layer.outer, layer.groups, layer.kernel, layer.stride)
        fused = 0.0 if layer.activation in CHEAP else 1.0
        joined = 1.0 if layer.input_bytes > 1.5 * layer.output_bytes and layer.kind == "pointwise" else 0.0
        return (*(float(np.log2(max(1, size))) for size in sizes), since, fused, joined)
    ends = (*around, layer.input_bytes, layer.output_bytes, layer.inner_axis, layer.width, layer.kernel)
    return (*(float(np.log2(max(1, size))) for size in ends), since)


def rows_of(cost: GraphCost, node_us: Mapping[str, float]) -> list[TimedLayer]:
    """The timed layers of a network. Equal layers form one row with their mean time: repetitions add no information."""
    found: dict[tuple[str, tuple[float, ...], tuple[float, ...]], list[float]] = {}
    for layer in cost.layers:
        if layer.name in node_us:
            found.setdefault((group_of(layer), costs_of(layer), features_of(layer, cost)), []).append(node_us[layer.name])
    return [TimedLayer(*row, us=max(LEAST_US, fmean(times)), count=len(times)) for row, times in found.items()]


@dataclass(frozen=True)
class KindModel:
    """A fitted linear model and its correction."""

    line: Numbers  # (cost,) µs for each unit of a cost
    scales: Numbers  # (feature,) length scales of the correction
    spread: float  # standard deviation of the correction, in natural logarithms
    noise: float  # noise of one timed layer, likewise
    points: Numbers  # (row, feature)
    weights: Numbers  # (row,)

    @classmethod
    def from_record(cls, record: LayerModel) -> KindModel:
        """From the record of a calibration file."""
        line, scales, weights = (np.array(values) for values in (record.line, record.scales, record.weights))
        return cls(line, scales, record.spread, record.noise, np.array(record.points), weights)

    def to_record(self) -> LayerModel:
        """For the calibration file, rounded to six digits, beyond the precision of timings."""
        points = tuple(tuple(round(float(value), 4) for value in point) for point in self.points)
        line, scales, weights = (tuple(float(f"{value:.6g}") for value in v) for v in (self.line, self.scales, self.weights))
        return LayerModel.model_validate(
            {"line": line, "scales": scales, "spread": self.spread, "noise": self.noise, "points": points, "weights": weights}
        )

    def log_us(self, costs: Numbers, features: Numbers) -> Numbers:
        """Natural logarithm of the time of layers: (layer, cost), (layer, feature) -> (layer,).

        Raises:
            InvalidFile: the model was fitted by another version, with other features.
        """
        if features.shape[1] != len(self.scales):
            raise InvalidFile("the calibration was made by another version of tlexport", "calibrate again: tlx profiles calibrate")
        base = np.log(np.maximum(costs @ self.line, LEAST_US))
        correction: Numbers = _kernel(features, self.points, self.scales, self.spread) @ self.weights
        return np.asarray(base + correction, dtype=np.float64)


def fit_kind(rows: Sequence[TimedLayer], lengths: Lengths | None = None) -> KindModel:
    """Fit one kind's model; ``lengths`` from an earlier fit of the same kind save most of the time."""
    costs, features = np.array([row.costs for row in rows]), np.array([row.features for row in rows])
    times = np.array([row.us for row in rows])
    tick = TICK_US / times
    scale = np.hypot(times, TICK_US)
    line, _ = nnls(costs / scale[:, None], times / scale)  # relative errors
    left = np.log(times) - np.log(np.maximum(costs @ line, LEAST_US))
    few = np.random.default_rng(0).permutation(len(rows))[:LENGTH_ROWS]
    scales, spread, noise = lengths or _lengths(features[few], left[few], tick[few])
    for last in (False, True):
        inverse = np.linalg.inv(_kernel(features, features, scales, spread) + np.diag(noise**2 + tick**2))
        weights = inverse @ left
        # difference of each row from the prediction of the others (equation 5.12): large if the machine was busy
        beyond = weights / np.diag(inverse)
        kept = beyond - np.median(beyond) <= OUTLIER * spread_of(beyond)
        if last or kept.all():
            break
        features, left, tick = features[kept], left[kept], tick[kept]
    return KindModel(line, scales, spread, noise, features, weights)


def spread_of(values: Numbers) -> float:
    """Robust standard deviation, from the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) + 1e-9


def weighted_median(values: Numbers, weights: Numbers) -> float:
    """Weighted median."""
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])


def _kernel(a: Numbers, b: Numbers, scales: Numbers, spread: float) -> Numbers:
    """Matérn covariance with ν = 3/2 (Rasmussen and Williams 2006, equation 4.17)."""
    a, b = a / scales, b / scales
    distance = np.sqrt(np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T)) * np.sqrt(3)
    return np.asarray(spread**2 * (1 + distance) * np.exp(-distance), dtype=np.float64)


def _lengths(features: Numbers, left: Numbers, tick: Numbers) -> Lengths:
    """Length scales, spread and noise with the largest likelihood (scikit-learn's optimiser)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    width = features.shape[1]
    bounds = [AROUND] * 2 + [(0.3, 60.0)] * (width - 2)
    kernel = ConstantKernel(0.1, (1e-3, 10)) * Matern([5.0] * width, bounds, nu=1.5) + WhiteKernel(0.005, (1e-4, 0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the length scale of a constant feature does not converge
        found = GaussianProcessRegressor(kernel, alpha=tick**2).fit(features, left).kernel_
    return np.asarray(found.k1.k2.length_scale), float(np.sqrt(found.k1.k1.constant_value)), float(np.sqrt(found.k2.noise_level))


def thin(rows: Sequence[TimedLayer], most: int = MOST_ROWS) -> list[TimedLayer]:
    """At most ``most`` rows, chosen at random with a fixed seed."""
    if len(rows) <= most:
        return list(rows)
    return [rows[int(index)] for index in np.random.default_rng(0).permutation(len(rows))[:most]]


def fit_layers(rows: Sequence[TimedLayer], known: Mapping[str, KindModel] | None = None) -> dict[str, KindModel]:
    """A model for each group with enough rows, and one for each kind, for groups without timings.

    Args:
        rows: timed layers.
        known: models of an earlier fit; their length scales are kept.
    """
    by_group: dict[str, list[TimedLayer]] = {}
    for row in rows:
        by_group.setdefault(row.group.partition("/")[0], []).append(row)
        by_group.setdefault(row.group, []).append(row)
    fitted: dict[str, KindModel] = {}
    for group, found in sorted(by_group.items()):  # fit each kind before its groups
        like = (known or {}).get(group) or (fitted.get(group.partition("/")[0]) if len(found) < OWN_LENGTHS else None)
        if len(found) >= FEWEST_ROWS:
            fitted[group] = fit_kind(thin(found), (like.scales, like.spread, like.noise) if like else None)
    return fitted
