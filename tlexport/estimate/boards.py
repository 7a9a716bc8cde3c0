"""Latency on a board that is not here, from figures in its profile: the sum of what its layers take, each kind at its own rate.

    time = Σ MACs of a kind / rate of that kind  +  weights / rate  +  activations / rate  +  fused layers * launch

The figures were fitted to latencies that others published (benchmarks/fit_boards.py), never to a measurement of the network in
question; every answer says what it stands on, and how far off such answers were for networks that were left out of the fit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import Unsupported
from tlexport.hardware.board_rates import BoardRates, Conditions, Rates
from tlexport.hardware.profile import Hardware, Profile

if TYPE_CHECKING:
    from tlexport.estimate.cost import GraphCost, LayerCost

# Runtimes compute these inside their neighbours, or need none where the whole graph is built in one precision.
FOLDED = ("Cast", "QuantizeLinear", "DequantizeLinear")
LAUNCHES = "launches"
NAMES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "ncnn": "ncnn", "ncnn-vulkan": "ncnn on Vulkan"}
SAME = 0.02  # hardware whose figures differ by less is the same, rounded otherwise

# Factors by which an 80 % interval gets wider, from benchmarks/results/boards.json ("wider"): for figures that are scaled to other
# clocks or another board, of a CPU or of a GPU, and for figures of another runtime, precision or number of threads.
SCALED_CPU = 1.6
SCALED_GPU = 2.4
PROXY = 2.1


@dataclass(frozen=True)
class RatePrediction:
    """A latency that nobody measured."""

    p50_ms: float
    low_ms: float  # the median lies between low and high for 80 % of networks
    high_ms: float
    basis: str  # what it stands on


def predict_from_rates(cost: GraphCost, profile: Profile, precision: Precision, threads: int | None = None) -> RatePrediction:
    """Median latency of one image on a profile's board, in the profile's power mode.

    Args:
        cost: of the fused graph, for one image.
        profile: of the board.
        precision: that the network will be computed in.
        threads: CPU threads; None: one for each core.

    Raises:
        Unsupported: the profile has no figures for its processor.
    """
    figures = choose_rates(profile, precision, threads)
    here = conditions(profile.hardware, figures.precision, figures.threads is None)
    p50 = milliseconds_at(work(cost), scaled(figures, here))
    factors = [figures.interval]
    notes = [_origin(figures)]
    if not alike(figures.at, here):
        factors.append(SCALED_GPU if figures.threads is None else SCALED_CPU)
        notes.append(f"scaled from the hardware of {figures.board} to that of {profile.target}")
    if figures.runtime != profile.runtime:
        factors.append(PROXY)
        notes.append(f"measured with {NAMES[figures.runtime]}, not with {NAMES[profile.runtime]}: a proxy")
    if figures.precision != precision:
        factors.append(PROXY)
        notes.append(f"for {figures.precision.upper()}, not for {precision.upper()}: a proxy")
    if threads is not None and figures.threads not in (None, threads):
        factors.append(PROXY)
        notes.append(f"with {figures.threads} threads, not {threads}: a proxy")
    factor = wider(*factors)
    return RatePrediction(p50, p50 / factor, p50 * factor, "; ".join(notes))


def _origin(figures: BoardRates) -> str:
    """What figures were fitted to."""
    count = f"{figures.rows} published {'latency' if figures.rows == 1 else 'latencies'}"
    if figures.borrowed_from is None:
        return f"fitted to {count} of {figures.board} ({figures.date})"
    return f"none was published for {figures.board}: borrowed from {figures.borrowed_from}, fitted to {count} ({figures.date})"


def choose_rates(profile: Profile, precision: Precision, threads: int | None) -> BoardRates:
    """The profile's figures that come nearest: the runtime first, since runtimes differ most, then the precision, then the threads.

    Raises:
        Unsupported: there are none for the processor that the profile's runtime computes on.
    """
    on_gpu = profile.runtime == "tensorrt" or profile.device == "cuda"
    fitting = [figures for figures in profile.latency if (figures.threads is None) == on_gpu]
    if not fitting:
        raise Unsupported(
            f"there is nothing to estimate the latency on {profile.target} by: no published latency of it, or of a board like it, is known",
            "measure on the device itself: `tlx profiles calibrate` there for estimates, or `tlx bench` there",
        )
    order = PRECISIONS
    wanted = threads or profile.hardware.cores.value

    def distance(figures: BoardRates) -> tuple[bool, int, float]:
        away = abs(order.index(figures.precision) - order.index(precision))
        return figures.runtime != profile.runtime, away, abs(math.log((figures.threads or 1) / wanted))

    return min(fitting, key=distance)


def work(cost: GraphCost) -> dict[str, float]:
    """How much of each kind of work a graph holds: MACs, numbers moved, and ``launches``, the fused layers.

    Args:
        cost: of the fused graph. In FP16 or INT8 it has the same work, in other bytes.
    """
    amounts: defaultdict[str, float] = defaultdict(float)
    for layer in cost.layers:
        if layer.op in FOLDED:
            continue
        size = layer.bits / 8
        if layer.macs:
            amounts[_rate(layer)] += layer.macs
            amounts["weights"] += layer.weight_bytes / size
        amounts["activations"] += (layer.input_bytes + layer.output_bytes) / size
        amounts[LAUNCHES] += 1
    return dict(amounts)


def _rate(layer: LayerCost) -> str:
    """Name of the rate at which the MACs of a layer are done."""
    if layer.kind == "conv":
        return "conv3x3" if layer.kernel == 9 and layer.stride == 1 else "conv"
    return layer.kind if layer.kind in ("depthwise", "grouped") else "pointwise"


def milliseconds_at(amounts: Mapping[str, float], figures: BoardRates) -> float:
    """Time that an amount of work takes with these figures."""
    rates = figures.per_ns.model_dump()
    busy = sum(amount / rates[kind] for kind, amount in amounts.items() if kind != LAUNCHES)
    return float(busy / 1e6 + amounts.get(LAUNCHES, 0.0) * figures.launch_us / 1e3)


def conditions(hardware: Hardware, precision: Precision, on_gpu: bool) -> Conditions:
    """What a profile says of the hardware that figures of a precision depend on: of the GPU, or of one core of the CPU."""
    known = {name: fact.value for name, fact in hardware if fact is not None}
    peak = known.get({"fp32": "fp32_tflops", "fp16": "fp16_tflops", "int8": "int8_tops"}[precision])
    if on_gpu:
        return Conditions(mhz=known.get("gpu_mhz"), tops=peak, bandwidth_gb_s=known.get("bandwidth_gb_s"))
    return Conditions(mhz=known.get("cpu_mhz"), tops=peak and peak / known["cores"], bandwidth_gb_s=known.get("bandwidth_gb_s"))


def alike(one: Conditions, other: Conditions) -> bool:
    """Whether two hardwares compute equally fast, as far as the same is known of both."""
    pairs = zip(one.model_dump().values(), other.model_dump().values(), strict=True)
    return all(a == b or (a and b and abs(a / b - 1) <= SAME) for a, b in pairs)


def scaled(figures: BoardRates, to: Conditions) -> BoardRates:
    """Figures as they would be on another hardware: another power mode, or another board of the same make."""
    if alike(figures.at, to):
        return figures
    rates = {kind: rate * gain(kind, figures.at, to) for kind, rate in figures.per_ns.model_dump().items()}
    launch = figures.launch_us / gain(LAUNCHES, figures.at, to)
    return figures.model_copy(update={"per_ns": Rates(**rates), "launch_us": launch, "at": to})


def gain(kind: str, old: Conditions, new: Conditions) -> float:
    """How many times faster a kind of work gets from one hardware to another, by the figures of the hardware alone.

    Arithmetic follows the peak; what is moved follows the bandwidth of the memory; the start of a layer follows the clock. Where
    peak or bandwidth is not known on both sides, the clock stands in for it.
    """
    clock = new.mhz / old.mhz if old.mhz and new.mhz else 1.0
    if kind in ("weights", "activations"):
        return new.bandwidth_gb_s / old.bandwidth_gb_s if old.bandwidth_gb_s and new.bandwidth_gb_s else clock
    if kind != LAUNCHES and old.tops and new.tops:
        return new.tops / old.tops
    return clock


def wider(*factors: float) -> float:
    """The factor of an interval that holds for several independent causes of error: their logarithms add up in squares."""
    return math.exp(math.sqrt(sum(math.log(factor) ** 2 for factor in factors)))
