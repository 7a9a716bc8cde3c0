"""Latency on a remote board, from the rates in its profile: the sum over all layers, each kind of work at its own rate.

    time = Σ MACs of a kind / rate of that kind  +  weights / rate  +  activations / rate  +  fused layers * launch

The rates were fitted to published latencies (benchmarks/fit_boards.py), never to a measurement of the network in question. Each
estimate states its basis and the error of such estimates for networks that were left out of the fit.
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

# Runtimes fuse these into their neighbours, or omit them if the whole graph is built in one precision.
FOLDED = ("Cast", "QuantizeLinear", "DequantizeLinear")
LAUNCHES = "launches"
NAMES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "ncnn": "ncnn", "ncnn-vulkan": "ncnn on Vulkan"}
SAME = 0.02  # relative difference below which two hardware figures count as equal: sources round differently

# Factors that widen an 80 % interval, from benchmarks/results/boards.json ("wider"): for rates scaled to other clocks or another
# board, on a CPU or a GPU, and for rates of another runtime, precision or number of threads.
SCALED_CPU = 1.6
SCALED_GPU = 2.4
PROXY = 2.1


@dataclass(frozen=True)
class RatePrediction:
    """A predicted latency."""

    p50_ms: float
    low_ms: float  # bounds of the median latency for 80 % of networks
    high_ms: float
    basis: str  # source of the rates, for the user


def predict_from_rates(cost: GraphCost, profile: Profile, precision: Precision, threads: int | None = None) -> RatePrediction:
    """Median latency of one image on a profile's board, in the profile's power mode.

    Args:
        cost: the cost of the fused graph for one image.
        profile: the board's profile.
        precision: the precision of the computation.
        threads: CPU threads; None: one for each core.

    Raises:
        Unsupported: the profile has no rates for its processor.
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
    """The data that the rates were fitted to."""
    count = f"{figures.rows} published {'latency' if figures.rows == 1 else 'latencies'}"
    if figures.borrowed_from is None:
        return f"fitted to {count} of {figures.board} ({figures.date})"
    return f"none was published for {figures.board}: borrowed from {figures.borrowed_from}, fitted to {count} ({figures.date})"


def choose_rates(profile: Profile, precision: Precision, threads: int | None) -> BoardRates:
    """The closest rates in the profile: first by runtime, since runtimes differ most, then by precision, then by threads.

    Raises:
        Unsupported: there are none for the processor that the profile's runtime uses.
    """
    on_gpu = profile.runtime == "tensorrt" or profile.device == "cuda"
    fitting = [figures for figures in profile.latency if (figures.threads is None) == on_gpu]
    if not fitting:
        raise Unsupported(
            f"the latency on {profile.target} cannot be estimated: no published latency of this board or a similar one is known",
            "measure on the device itself: `tlx profiles calibrate` there for estimates, or `tlx bench` there",
        )
    order = PRECISIONS
    wanted = threads or profile.hardware.cores.value

    def distance(figures: BoardRates) -> tuple[bool, int, float]:
        away = abs(order.index(figures.precision) - order.index(precision))
        return figures.runtime != profile.runtime, away, abs(math.log((figures.threads or 1) / wanted))

    return min(fitting, key=distance)


def work(cost: GraphCost) -> dict[str, float]:
    """The amount of each kind of work in a graph: MACs, elements moved, and ``launches`` (the number of fused layers).

    Args:
        cost: the cost of the fused graph. In FP16 or INT8 the amounts are the same; only the bytes differ.
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
    """Name of the rate for the MACs of a layer."""
    if layer.kind == "conv":
        return "conv3x3" if layer.kernel == 9 and layer.stride == 1 else "conv"
    return layer.kind if layer.kind in ("depthwise", "grouped") else "pointwise"


def milliseconds_at(amounts: Mapping[str, float], figures: BoardRates) -> float:
    """Time for an amount of work at these rates."""
    rates = figures.per_ns.model_dump()
    busy = sum(amount / rates[kind] for kind, amount in amounts.items() if kind != LAUNCHES)
    return float(busy / 1e6 + amounts.get(LAUNCHES, 0.0) * figures.launch_us / 1e3)


def conditions(hardware: Hardware, precision: Precision, on_gpu: bool) -> Conditions:
    """The hardware figures that the rates of a precision depend on: of the GPU, or of one CPU core."""
    known = {name: fact.value for name, fact in hardware if fact is not None}
    peak = known.get({"fp32": "fp32_tflops", "fp16": "fp16_tflops", "int8": "int8_tops"}[precision])
    if on_gpu:
        return Conditions(mhz=known.get("gpu_mhz"), tops=peak, bandwidth_gb_s=known.get("bandwidth_gb_s"))
    return Conditions(mhz=known.get("cpu_mhz"), tops=peak and peak / known["cores"], bandwidth_gb_s=known.get("bandwidth_gb_s"))


def alike(one: Conditions, other: Conditions) -> bool:
    """Whether two hardware descriptions have equal speed in every figure that both contain."""
    pairs = zip(one.model_dump().values(), other.model_dump().values(), strict=True)
    return all(a == b or (a and b and abs(a / b - 1) <= SAME) for a, b in pairs)


def scaled(figures: BoardRates, to: Conditions) -> BoardRates:
    """Rates scaled to other hardware: another power mode, or another board of the same make."""
    if alike(figures.at, to):
        return figures
    rates = {kind: rate * gain(kind, figures.at, to) for kind, rate in figures.per_ns.model_dump().items()}
    launch = figures.launch_us / gain(LAUNCHES, figures.at, to)
    return figures.model_copy(update={"per_ns": Rates(**rates), "launch_us": launch, "at": to})


def gain(kind: str, old: Conditions, new: Conditions) -> float:
    """Speed-up of a kind of work between two hardware descriptions.

    Arithmetic scales with the peak rate, data movement with memory bandwidth, and the launch of a layer with the clock. If peak or
    bandwidth is unknown for either side, the ratio of clocks is used.
    """
    clock = new.mhz / old.mhz if old.mhz and new.mhz else 1.0
    if kind in ("weights", "activations"):
        return new.bandwidth_gb_s / old.bandwidth_gb_s if old.bandwidth_gb_s and new.bandwidth_gb_s else clock
    if kind != LAUNCHES and old.tops and new.tops:
        return new.tops / old.tops
    return clock


def wider(*factors: float) -> float:
    """Combined interval factor of independent errors: the squares of their logarithms add up."""
    return math.exp(math.sqrt(sum(math.log(factor) ** 2 for factor in factors)))
