"""Estimate: a predicted latency and memory on a profile, with an interval. Never mixed up with a Measurement."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tlexport.record import Record


class Estimate(Record):
    """What one model is expected to take on a device that it did not run on."""

    format: Literal[1] = 1
    what: str
    target: str = Field(description="name of the profile")
    precision: str
    threads: PositiveInt = Field(description="CPU threads that it holds for")
    p50_ms: float = Field(gt=0, description="median latency of one image, ms")
    low_ms: float = Field(gt=0, description="the median lies between low and high for 80 % of networks")
    high_ms: float = Field(gt=0)
    memory_bytes: PositiveInt = Field(description="weights and the tensors alive at the worst moment; without the runtime's own memory")
    size_bytes: NonNegativeInt
    macs: NonNegativeInt
    basis: str = Field(description="how it came about, and what it was fitted to")
    unknown: tuple[str, ...] = Field((), description="operators that the model of costs does not know")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low_ms <= self.p50_ms <= self.high_ms:
            raise ValueError(f"the interval {self.low_ms} to {self.high_ms} ms does not hold the estimate, {self.p50_ms} ms")
        return self

    @property
    def latency(self) -> str:
        """With its interval, in words: ``"4.1 ms (3.2 to 5.4)"``."""
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
