"""BoardRates: how fast a board runs layers of each kind, fitted to latencies that others published for it.

They stand in a profile as ``[[latency]]``, one table for each runtime, precision and number of threads.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tlexport.artifact import Precision
from tlexport.record import Positive, Record

Runtime = Literal["onnxruntime", "tensorrt", "ncnn", "ncnn-vulkan"]


class Rates(Record):
    """What gets done in a nanosecond: multiply-accumulates of each kind of layer, and numbers moved."""

    conv3x3: Positive = Field(description="MACs of 3x3 convolutions of stride 1, which have algorithms of their own (Winograd)")
    conv: Positive = Field(description="MACs of other convolutions over space")
    pointwise: Positive = Field(description="MACs of 1x1 convolutions and of matrix products")
    depthwise: Positive = Field(description="MACs of convolutions with a group for each channel")
    grouped: Positive = Field(description="MACs of other convolutions in groups")
    weights: Positive = Field(description="weights read")
    activations: Positive = Field(description="activations read and written")


class Conditions(Record):
    """The hardware that figures hold for; on another clock or with another memory they are scaled."""

    mhz: Positive | None = Field(None, description="clock of the processor that computes: of the GPU, or of the CPU's cores")
    tops: Positive | None = Field(None, description="peak in this precision, 10^12 operations a second: of the GPU, or of one core")
    bandwidth_gb_s: Positive | None = Field(None, description="of the memory, 10^9 bytes per second")


class BoardRates(Record):
    """Figures of one board with one runtime, precision and number of threads."""

    board: str = Field(description="name of the profile that they were made for; another that inherits them borrows them")
    runtime: Runtime
    precision: Precision
    threads: PositiveInt | None = Field(None, description="CPU threads; None: it runs on a GPU")
    per_ns: Rates
    launch_us: Positive = Field(description="for each fused layer, µs")
    interval: Annotated[float, Field(gt=1)] = Field(
        description="80 %: from p50 / interval to p50 * interval, from networks left out of the fit"
    )
    at: Conditions
    borrowed_from: str | None = Field(None, description="whose figures these are, scaled; None: the board's own, in this precision")
    rows: PositiveInt = Field(description="published latencies, of that board and runtime, that they were fitted to")
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="of the fit")
    source: str = Field(min_length=8, description="documents of the published latencies")
    status: Literal["derived"] = "derived"
