"""Measurement: the raw latencies of one artifact on one machine, and their comparison. Statistics are derived, never stored."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

from tlexport.record import Record

# Smaller differences never count as real: the memory layout of a process alone can cause them (Mytkowicz et al., ASPLOS 2009)
SMALLEST = 0.01  # of a ratio


class Environment(Record):
    """The machine that measured, in enough detail to decide whether two figures are comparable."""

    machine: str = Field(description="architecture, such as x86_64")
    system: str
    cpu: str
    cores: PositiveInt = Field(description="logical cores that the process may use")
    governor: str | None = Field(description="CPU frequency governor, where readable")
    memory_bytes: PositiveInt
    load_1min: float | None = Field(description="load average just before measuring")
    accelerator: str | None = Field(None, description="the GPU that ran the model, if any")
    python: str
    versions: dict[str, str]
    board: dict[str, JsonValue] | None = Field(
        None, description="state of the board, from device/board/description.py; None if the machine is not a board"
    )

    @property
    def onnxruntime(self) -> str:
        """Version of ONNX Runtime, of either distribution. Raises KeyError if neither was installed."""
        return self.versions.get("onnxruntime") or self.versions["onnxruntime-gpu"]


_AS_IT_IS = {"format", "load_ns", "first_inference_ns", "gpu_memory_bytes", "inputs", "stages", "placement", "layers", "watch"}  # in JSON


class Stages(Record):
    """Single images, from file to probabilities: raw durations of each stage, in the same order."""

    decode_ns: tuple[PositiveInt, ...] = Field(min_length=1, description="reading the file, and decoding it")
    resize_ns: tuple[PositiveInt, ...] = Field(min_length=1, description="resizing, cropping, and conversion to the model's input type")
    infer_ns: tuple[PositiveInt, ...] = Field(min_length=1, description="the model")
    images: PositiveInt = Field(description="different files, in turn")

    def medians_ms(self) -> dict[str, float]:
        """Median of each stage, and of their sum: ``decode``, ``resize``, ``infer``, ``total``, ms."""
        stages = {"decode": self.decode_ns, "resize": self.resize_ns, "infer": self.infer_ns}
        whole = [sum(parts) for parts in zip(*stages.values(), strict=True)]
        return {name: round(statistics.median(ns) / 1e6, 4) for name, ns in (stages | {"total": tuple(whole)}).items()}


class Layer(Record):
    """A layer as fused by the runtime; it may cover several nodes of the model."""

    name: str
    kind: str = Field(description="the runtime's own type: an operator of ONNX or ONNX Runtime, or a layer type of TensorRT; may be empty")
    provider: str
    us: float = Field(ge=0, description="in one run, µs")
    share: float = Field(ge=0, le=1, description="of the sum of all layers")


class LayerProfile(Record):
    """The slowest layers. The profiler adds overhead, so their sum exceeds the latency of a normal run."""

    slowest: tuple[Layer, ...] = Field(description="at most ten, the slowest first")
    count: PositiveInt = Field(description="of all layers")
    total_us: float = Field(ge=0, description="of all layers, in one run")
    runs: PositiveInt


class Measurement(Record):
    """Raw latencies of one artifact under one setting."""

    format: Literal[1] = 1
    what: str
    artifact_sha256: str
    precision: str
    runtime: str
    provider: str = Field(description="the execution provider that ran, as the runtime itself reports it")
    threads: PositiveInt = Field(description="CPU threads of the runtime, requested or chosen by default")
    batch: PositiveInt
    warmup_runs: NonNegativeInt
    latencies_ns: tuple[PositiveInt, ...] = Field(
        min_length=1,
        description="one per run of a whole batch, all in order; monotonic clock, host memory to host memory unless mode says otherwise",
    )
    mode: str | None = Field(
        None, description="how a run is timed, if that can vary: CUDA graph, spin wait, copies to the GPU included or not"
    )
    shortest_cpu_ns: NonNegativeInt | None = Field(
        None, description="least CPU time of a run, per thread: a lower bound that the load of the machine does not affect"
    )
    load_ns: PositiveInt = Field(description="opening the model, ready to run; the runtime's library is already loaded")
    peak_memory_bytes: PositiveInt = Field(description="peak resident size of a process that only runs this model")
    size_bytes: NonNegativeInt
    environment: Environment
    first_inference_ns: PositiveInt | None = Field(None, description="the first run after opening, before the warm-up")
    gpu_memory_bytes: NonNegativeInt | None = Field(None, description="growth of the GPU's used memory, from before opening to the end")
    inputs: str | None = Field(None, description="the inputs: real images, or synthetic ones of the declared shapes")
    stages: Stages | None = Field(None, description="end to end, from an image file to probabilities")
    placement: dict[str, PositiveInt] | None = Field(None, description="number of nodes on each provider, from the runtime's own profile")
    layers: LayerProfile | None = Field(None, description="time of the layers of the model")
    watch: dict[str, JsonValue] | None = Field(
        None, description="state of the machine during the runs: device/board/state.py Watch.report, and other_cores"
    )

    def percentile_ms(self, percent: int) -> float:
        """Latency, ms, that at least ``percent`` % (1 to 100) of the runs did not exceed: the nearest rank, always a real sample."""
        rank = max(1, math.ceil(percent * len(self.latencies_ns) / 100))  # whole numbers up to the division: 7 % of 100 is rank 7, not 8
        return sorted(self.latencies_ns)[rank - 1] / 1e6

    @property
    def shortest_ms(self) -> float:
        """The shortest run, ms, or its CPU time if less, as on a machine that is always busy."""
        return min(*self.latencies_ns, self.shortest_cpu_ns or self.latencies_ns[0]) / 1e6

    @property
    def mean_ms(self) -> float:
        """Arithmetic mean, ms."""
        return statistics.fmean(self.latencies_ns) / 1e6

    def mean_interval_ms(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bootstrap percentile interval of the mean, ms (Efron 1979), from 1000 resamples.

        Seeded, so the same samples give the same interval. It treats the samples as independent, so it is too narrow if
        the load or the clock of the machine drifts during the measurement.
        """
        import numpy as np  # imported late: commands without arrays import this module

        draw = np.random.default_rng(0)
        samples = np.asarray(self.latencies_ns, dtype=np.float64)
        means = [samples[draw.integers(0, len(samples), len(samples))].mean() for _ in range(1000)]
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]) / 1e6
        return float(low), float(high)

    @property
    def variation(self) -> float:
        """Coefficient of variation: standard deviation over mean; 0 for a single run."""
        return statistics.pstdev(self.latencies_ns) / statistics.fmean(self.latencies_ns)

    @property
    def energy_mj_per_image(self) -> float | None:
        """Energy of one image, mJ: the mean power while it ran (the whole machine's or package's, idle share included) times the mean time.

        None without a power sensor.
        """
        watts = (self.watch or {}).get("watts")
        return watts * self.mean_ms / self.batch if isinstance(watts, int | float) else None

    @property
    def throughput_per_s(self) -> float:
        """Images per second: batch over mean latency."""
        return self.batch / (self.mean_ms / 1e3)

    def latency(self) -> dict[str, float]:
        """The derived figures of cli.md, ms, and the number of samples."""
        low, high = self.mean_interval_ms()
        figures = {f"p{p}": round(self.percentile_ms(p), 4) for p in (50, 90, 95, 99)}
        return {
            "mean": round(self.mean_ms, 4),
            "mean_low": round(low, 4),
            "mean_high": round(high, 4),
            **figures,
            "n": len(self.latencies_ns),
        }

    def to_json(self) -> dict[str, object]:
        """What ``tlx bench --json`` prints."""
        return {
            "what": self.what,
            "precision": self.precision,
            "runtime": self.runtime,
            "provider": self.provider,
            "threads": self.threads,
            "batch": self.batch,
            "mode": self.mode,
            "latency_ms": self.latency(),
            "throughput_per_s": round(self.throughput_per_s, 2),
            "size_bytes": self.size_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "load_ms": round(self.load_ns / 1e6, 3),
            "environment": self.environment.model_dump(),
            "warmup_runs": self.warmup_runs,
            "artifact_sha256": self.artifact_sha256,
            "latencies_ns": list(self.latencies_ns),
            "variation": round(self.variation, 4),
            "first_inference_ms": None if self.first_inference_ns is None else round(self.first_inference_ns / 1e6, 3),
            "energy_mj_per_image": None if self.energy_mj_per_image is None else round(self.energy_mj_per_image, 4),
            "stages_ms": self.stages and self.stages.medians_ms(),
            **self.model_dump(mode="json", include=_AS_IT_IS),
        }


@dataclass(frozen=True)
class Interval:
    """A ratio of medians; above 1 the second one is slower."""

    ratio: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether there is a real difference: the interval excludes 1, and the ratio differs from 1 by at least SMALLEST."""
        return not self.low <= 1 <= self.high and abs(self.ratio - 1) >= SMALLEST

    def in_words(self) -> str:
        """The result for the second one, in words."""
        if not self.real:
            return "no real difference"
        return f"{abs(self.ratio - 1):.1%} {'slower' if self.ratio > 1 else 'faster'}"
