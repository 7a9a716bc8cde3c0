"""Latency and memory of one model on one board, with the basis of the estimate."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tlexport.artifact import Precision
from tlexport.errors import Unsupported
from tlexport.hardware.calibration import CalibratedModel
from tlexport.hardware.calibration_tables import read_device_model
from tlexport.hardware.target import Target
from tlexport.loading.estimable import Estimable
from tlexport.prediction import Estimate

if TYPE_CHECKING:
    from tlexport.estimate.costed import Costs, Graph

Kind = Literal["calibrated", "published", "proxy"]


@dataclass(frozen=True)
class PredictedLatency:
    """A latency on one board, before corrections from real runs."""

    p50_ms: float
    low_ms: float
    high_ms: float
    unknown: tuple[str, ...]  # operators without timing data
    kind: Kind
    basis: str
    corrects: str  # identifies the figures, so that a correction applies to these only


def expect_basis(target: Target, precision: Precision, threads: int) -> CalibratedModel | None:
    """The basis of an estimate: a calibration of the board, or None for published figures. Needs no model.

    Raises:
        Unsupported: the board does not support the precision, or there is no basis.
    """
    from tlexport.estimate.boards import choose_rates

    profile = target.profile
    able = profile.precisions.value
    if precision not in able:
        raise Unsupported(f"{profile.target} has no {precision}: {profile.precisions.source}", f"it takes {' and '.join(able)}")
    for entry in profile.calibration:
        if entry.key == (profile.runtime, precision, threads):
            return entry
    try:
        choose_rates(profile, precision, threads)
    except Unsupported:
        raise _nothing(target, precision, threads) from None
    return None


def _nothing(target: Target, precision: Precision, threads: int) -> Unsupported:
    """The error of a board without figures, with what is there and what to do."""
    profile = target.profile
    have = ", ".join(f"{entry.precision} with {_threads(entry.threads)}" for entry in profile.calibration)
    calibrated = f"it is calibrated only for {have}" if have else "it is not calibrated"
    what = f"{profile.target}: no basis for an estimate of {precision} with {_threads(threads)}"
    if target.here and profile.runtime == "onnxruntime":
        hint = f"this machine is one: measure with tlx bench WHAT, or enable estimates with tlx profiles calibrate {profile.name}"
    elif profile.runtime == "tensorrt":
        hint = "copy a bundle to the device, build the engine there and time it: python3 run.py build, python3 run.py bench"
    elif profile.device is None and profile.mode is None and precision != "fp16":
        hint = f"on the device itself: tlx profiles calibrate {profile.name} --precision {precision} --threads {threads}"
    else:
        hint = "copy a bundle to the device and measure there: tlx bench BUNDLE"
    return Unsupported(f"{what}: {calibrated}, and no latency is published for it or a similar board", hint)


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def predict_latency(model: Estimable, target: Target, threads: int) -> PredictedLatency:
    """Latency from the best available figures, without corrections from real runs. Raises as :func:`estimate`."""
    entry = expect_basis(target, model.precision, threads)
    graph = model.graph_for(target.profile)
    return _by_published(graph, target, model.precision, threads) if entry is None else _by_layers(graph, target, entry)


def _by_layers(graph: Graph | Costs, target: Target, entry: CalibratedModel) -> PredictedLatency:
    """From the layer times of a calibration."""
    from tlexport.estimate.layer_times import predict_from_layers

    device = read_device_model(target.path, entry)
    # ONNX Runtime here cannot show the tensor layouts of another architecture
    cost, nodes = graph.native if device.environment.machine == platform.machine() else graph.portable
    found = predict_from_layers(cost, nodes, device)
    basis = (
        f"calibrated on {entry.cpu}, {entry.cores} cores, ONNX Runtime {entry.version} ({entry.date}): {entry.probes} networks timed, "
        f"median error {100 * entry.error:.1f} %, {100 * entry.within_10:.0f} % of them within 10 %"
    )
    strange = sum(layer.op in found.unknown for layer in cost.layers)
    return PredictedLatency(
        found.p50_ms, found.low_ms, found.high_ms, found.unknown, "calibrated", basis + _strange(found.unknown, strange), entry.sha256
    )


def _by_published(graph: Graph | Costs, target: Target, precision: Precision, threads: int) -> PredictedLatency:
    """From figures fitted to published latencies. Each layer without timing data widens the interval by its share."""
    from tlexport.estimate.boards import choose_rates, predict_from_rates

    cost = graph.plain
    found = predict_from_rates(cost, target.profile, precision, threads)
    figures = choose_rates(target.profile, precision, threads)
    strange = sum(layer.op in cost.unknown for layer in cost.layers)
    wider = 1 + strange / max(1, len(cost.layers))
    low, high = found.low_ms / wider, found.high_ms * wider
    kind: Kind = "published" if figures.runtime == target.profile.runtime else "proxy"
    name = f"{figures.board} {figures.runtime} {figures.precision} {figures.threads or 'GPU'} {figures.date}"
    return PredictedLatency(found.p50_ms, low, high, cost.unknown, kind, found.basis + _strange(cost.unknown, strange), name)


def _strange(unknown: Sequence[str], layers: int) -> str:
    if not unknown:
        return ""
    count = f"{layers} layer{'' if layers == 1 else 's'}"
    return f"; the interval is wider because of operators without timing data: {', '.join(unknown)} ({count})"


def estimate(model: Estimable, target: Target, threads: int = 1) -> Estimate:
    """Latency and memory of a model on one board.

    The layer times of the board's own calibration come first, for its runtime, the model's precision and these threads; then figures
    fitted to published latencies. ``basis`` names the source. Real runs on the board correct either.

    Raises:
        Unsupported: the board does not support the precision, or there is no basis for an estimate.
        InvalidFile: the graph cannot be read, or a calibration file beside the profile is missing or changed.
    """
    return estimate_with_kind(model, target, threads)[0]


def estimate_with_kind(model: Estimable, target: Target, threads: int) -> tuple[Estimate, Kind]:
    """As :func:`estimate`, with the kind of figures that the answer rests on."""
    found = predict_latency(model, target, threads)
    graph, profile = model.graph_for(target.profile), target.profile
    cost, _ = graph.portable
    if not cost.layers:
        raise _no_work(model)
    if found.p50_ms <= 0:
        raise _no_work(model)
    times, basis = (found.p50_ms, found.low_ms, found.high_ms), found.basis
    runs = next((s for s in profile.sharpened if s.key == (profile.runtime, model.precision, threads)), None)
    if runs and runs.corrects == found.corrects:
        times = runs.applied(*times)
        basis += f"; corrected by runs of {runs.n} {'model' if runs.n == 1 else 'models'} there ({runs.date})"
    elif runs:
        basis += f"; the runs of {runs.date} are not used: they correct other figures than these"
    answer = Estimate(
        what=model.what,
        target=profile.target,
        precision=model.precision,
        threads=threads,
        p50_ms=times[0],
        low_ms=times[1],
        high_ms=times[2],
        memory_bytes=cost.weight_bytes + cost.peak_activation_bytes,
        size_bytes=graph.size_bytes,
        macs=cost.macs,
        basis=basis,
        unknown=found.unknown,
    )
    return answer, found.kind


def _no_work(model: Estimable) -> Unsupported:
    why = "its operators only reshape or convert, or their results are constant"
    return Unsupported(
        f"{model.what} does 0 MACs, so there is nothing to estimate: {why}", f"measure it: tlx bench {shlex.quote(model.what)}"
    )
