"""BoardRates: the speed of a board for each kind of layer, fitted to published latencies.

A profile has one ``[[latency]]`` table for each runtime, precision and number of threads.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tlexport.artifact import Precision
from tlexport.record import Positive, Record

Runtime = Literal["onnxruntime", "tensorrt", "ncnn", "ncnn-vulkan"]


class Rates(Record):
    """Rates per nanosecond: multiply-accumulates (MACs) of each kind of layer, and values moved."""

    conv3x3: Positive = Field(description="MACs of 3x3 convolutions of stride 1, which have special algorithms (Winograd)")
    conv: Positive = Field(description="MACs of other spatial convolutions")
    pointwise: Positive = Field(description="MACs of 1x1 convolutions and of matrix products")
    depthwise: Positive = Field(description="MACs of depthwise convolutions")
    grouped: Positive = Field(description="MACs of other grouped convolutions")
    weights: Positive = Field(description="weights read")
    activations: Positive = Field(description="activations read and written")


class Conditions(Record):
    """The hardware of the figures. They are scaled to another clock or memory."""

    mhz: Positive | None = Field(None, description="clock of the processor: the GPU, or the CPU's cores")
    tops: Positive | None = Field(None, description="peak in this precision, 10^12 operations a second: of the GPU, or of one core")
    bandwidth_gb_s: Positive | None = Field(None, description="of the memory, 10^9 bytes per second")


class BoardRates(Record):
    """Figures of one board with one runtime, precision and number of threads."""

    board: str = Field(description="name of the profile of the figures; other profiles can inherit them")
    runtime: Runtime
    precision: Precision
    threads: PositiveInt | None = Field(None, description="CPU threads; None: it runs on a GPU")
    per_ns: Rates
    launch_us: Positive = Field(description="for each fused layer, µs")
    interval: Annotated[float, Field(gt=1)] = Field(
        description="80 %: from p50 / interval to p50 * interval, from networks left out of the fit"
    )
    at: Conditions
    borrowed_from: str | None = Field(None, description="source profile of scaled figures; None: the board's own, in this precision")
    rows: PositiveInt = Field(description="number of published latencies of that board and runtime in the fit")
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="of the fit")
    source: str = Field(min_length=8, description="documents of the published latencies")
    status: Literal["derived"] = "derived"
