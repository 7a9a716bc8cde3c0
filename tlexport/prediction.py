"""Estimate: predicted latency and memory on a profile, with an interval. Not a Measurement."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tlexport.record import Record


class Estimate(Record):
    """The expected latency and memory of a model on a device on which it did not run."""

    format: Literal[1] = 1
    what: str
    target: str = Field(description="name of the profile")
    precision: str
    threads: PositiveInt = Field(description="CPU threads of the runtime")
    p50_ms: float = Field(gt=0, description="median latency of one image, ms")
    low_ms: float = Field(gt=0, description="the median is between low and high for 80 % of networks")
    high_ms: float = Field(gt=0)
    memory_bytes: PositiveInt = Field(description="weights and the peak of live tensors, without the runtime's own memory")
    size_bytes: NonNegativeInt
    macs: NonNegativeInt
    basis: str = Field(description="the method, and the data that it was fitted to")
    unknown: tuple[str, ...] = Field((), description="operators without a cost model")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low_ms <= self.p50_ms <= self.high_ms:
            raise ValueError(f"the interval {self.low_ms} to {self.high_ms} ms does not contain the estimate, {self.p50_ms} ms")
        return self

    @property
    def latency(self) -> str:
        """Text with the interval: ``"4.1 ms (3.2 to 5.4)"``."""
        return f"{self.p50_ms:.3g} ms ({self.low_ms:.3g} to {self.high_ms:.3g})"

    def interval(self) -> dict[str, float]:
        """As ``latency_ms`` of cli.md has it."""
        return {"p50": round(self.p50_ms, 4), "low": round(self.low_ms, 4), "high": round(self.high_ms, 4)}

    def to_json(self) -> dict[str, object]:
        """As cli.md has it."""
        return {
            "what": self.what,
            "target": self.target,
            "precision": self.precision,
            "threads": self.threads,
            "latency_ms": self.interval(),
            "memory_bytes": self.memory_bytes,
            "size_bytes": self.size_bytes,
            "macs": self.macs,
            "basis": self.basis,
            "unknown": list(self.unknown),
        }
