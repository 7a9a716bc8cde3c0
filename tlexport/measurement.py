"""Measurement: one timing of one artifact on one machine. Statistics are derived from the raw samples, never stored."""

from __future__ import annotations

import math
import statistics
from typing import Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

from tlexport.record import Record


class Environment(Record):
    """The machine that measured; enough to tell whether two figures can be compared."""

    machine: str = Field(description="architecture, such as x86_64")
    system: str
    cpu: str
    cores: PositiveInt = Field(description="logical cores that the process may use")
    governor: str | None = Field(description="CPU frequency governor, where readable")
    memory_bytes: PositiveInt
    load_1min: float | None = Field(description="load average just before measuring")
    accelerator: str | None = Field(None, description="GPU, where one ran the model")
    python: str
    versions: dict[str, str]
    board: dict[str, JsonValue] | None = Field(None, description="a board's own state: device/board.py; None on what is none")

    @property
    def onnxruntime(self) -> str:
        """Version of ONNX Runtime, whichever of its distributions was installed. Raises KeyError where none was."""
        return self.versions.get("onnxruntime") or self.versions["onnxruntime-gpu"]


class Measurement(Record):
    """Raw latencies of one artifact under one setting."""

    format: Literal[1] = 1
    what: str
    artifact_sha256: str
    precision: str
    runtime: str
    provider: str = Field(description="the execution provider that ran, as the runtime itself reports it")
    threads: PositiveInt = Field(description="CPU threads of the runtime, as asked for or chosen for it")
    batch: PositiveInt
    warmup_runs: NonNegativeInt
    latencies_ns: tuple[PositiveInt, ...] = Field(
        min_length=1,
        description="one per run of a whole batch, all in order; monotonic clock, host memory to host memory unless mode says otherwise",
    )
    mode: str | None = Field(
        None, description="what a run is, where that can differ: CUDA graph, spin wait, copies to the GPU counted or not"
    )
    load_ns: PositiveInt = Field(description="opening the model, ready to run; the runtime's library is already loaded")
    peak_memory_bytes: PositiveInt = Field(description="largest resident size of a process that does nothing else")
    size_bytes: NonNegativeInt
    environment: Environment

    def percentile_ms(self, percent: int) -> float:
        """Latency, ms, that at least ``percent`` % (1 to 100) of the runs did not exceed: the nearest rank, always a real sample."""
        rank = max(1, math.ceil(percent * len(self.latencies_ns) / 100))  # whole numbers up to the division: 7 % of 100 is rank 7, not 8
        return sorted(self.latencies_ns)[rank - 1] / 1e6

    @property
    def mean_ms(self) -> float:
        """Arithmetic mean, ms."""
        return statistics.fmean(self.latencies_ns) / 1e6

    def mean_interval_ms(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bootstrap percentile interval of the mean, ms (Efron 1979), from 1000 resamples.

        Seeded, so the same samples give the same interval. It takes the samples as independent: on a machine whose load or
        clock drifts while measuring it is too narrow.
        """
        import numpy as np  # here: this module is read by commands that need no arrays

        draw = np.random.default_rng(0)
        samples = np.asarray(self.latencies_ns, dtype=np.float64)
        means = [samples[draw.integers(0, len(samples), len(samples))].mean() for _ in range(1000)]
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]) / 1e6
        return float(low), float(high)

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
        }
