"""CalibratedModel and Sharpened: what a profile's estimates stand on. Both are found out on the device itself, or with runs on it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from tlexport.artifact import Precision
from tlexport.record import Record, Sha256

Z80 = 1.2816  # standard deviations from the middle of a normal distribution to the ends of what holds 80 % of it


def _plain(name: str) -> str:
    if name.startswith(".") or any(mark in name for mark in "/\\:\0"):
        raise ValueError("must be the name of a file beside the profile, without a folder")
    return name


Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Key = tuple[str, str, int]  # runtime, precision, threads: of each kind of table a profile holds one


class CalibratedModel(Record):
    """Where the times of the layers of a device stand: ``[[calibration]]``, written by ``tlx profiles calibrate``."""

    runtime: Literal["onnxruntime"]
    precision: Precision
    threads: PositiveInt = Field(description="CPU threads that it was timed with")
    file: Annotated[str, AfterValidator(_plain)] = Field(description="the device model, a file beside the profile", min_length=1)
    sha256: Sha256 = Field(description="of that file")
    date: Date
    cpu: str = Field(description="the processor that was timed, as it calls itself")
    cores: PositiveInt = Field(description="that the process could use")
    version: str = Field(description="of the runtime's library")
    probes: PositiveInt = Field(description="networks whose layers were timed")
    error: float = Field(ge=0, description="median of |predicted / measured - 1| over the probes, each predicted from others")
    within_10: float = Field(ge=0, le=1, description="share of the probes predicted within 10 %")

    @property
    def key(self) -> Key:
        """What it is for."""
        return self.runtime, self.precision, self.threads


class Sharpened(Record):
    """How real runs on the device differed from what was estimated for them: ``[[sharpened]]``."""

    runtime: Literal["onnxruntime", "tensorrt"]
    precision: Precision
    threads: PositiveInt
    factor: float = Field(gt=0, description="measured / estimated, geometric mean over the models")
    n: PositiveInt = Field(description="models that were measured")
    corrects: str = Field(min_length=1, description="what the estimates stood on; for others the factor does not hold")
    date: Date
    measurements: tuple[Sha256, ...] = Field(min_length=1, description="of the files that held the measurements")

    @property
    def key(self) -> Key:
        """What it is for."""
        return self.runtime, self.precision, self.threads

    def applied(self, p50_ms: float, low_ms: float, high_ms: float) -> tuple[float, float, float]:
        """An estimate and its 80 % interval, corrected.

        An estimate's error, a normal variable in logarithms, is taken to be half the device's own, alike for all networks, and
        half each network's. So ``n`` networks with the mean error ``r`` leave for the device's the expectation
        ``r * n / (n + 1)`` and, of its half of the variance, one part in ``n + 1`` (the posterior of a normal mean, Gelman et
        al., Bayesian Data Analysis, section 2.5).
        """
        bias = self.n / (self.n + 1) * math.log(self.factor)
        narrower = math.sqrt((1 + 1 / (self.n + 1)) / 2)  # of standard deviations, and so of the interval's ends in logarithms
        middle = p50_ms * math.exp(bias)
        return middle, middle * (low_ms / p50_ms) ** narrower, middle * (high_ms / p50_ms) ** narrower
