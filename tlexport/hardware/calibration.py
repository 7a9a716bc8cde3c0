"""CalibratedModel and Sharpened: the data behind a profile's estimates, from measurements on the device."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from tlexport.artifact import Precision
from tlexport.record import Record, Sha256

Z80 = 1.2816  # half-width of the central 80 % interval of a normal distribution, in standard deviations


def _plain(name: str) -> str:
    if name.startswith(".") or any(mark in name for mark in "/\\:\0"):
        raise ValueError("must be the name of a file beside the profile, without a folder")
    return name


Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Key = tuple[str, str, int]  # runtime, precision, threads: unique among the tables of a kind


class CalibratedModel(Record):
    """Reference to the layer times of a device: ``[[calibration]]``, written by ``tlx profiles calibrate``."""

    runtime: Literal["onnxruntime"]
    precision: Precision
    threads: PositiveInt = Field(description="CPU threads of the measurements")
    file: Annotated[str, AfterValidator(_plain)] = Field(description="the device model, a file beside the profile", min_length=1)
    sha256: Sha256 = Field(description="of that file")
    date: Date
    cpu: str = Field(description="name of the measured processor")
    cores: PositiveInt = Field(description="cores that the process could use")
    version: str = Field(description="of the runtime's library")
    probes: PositiveInt = Field(description="networks whose layers were timed")
    error: float = Field(ge=0, description="median of |predicted / measured - 1| over the probes, each predicted from others")
    within_10: float = Field(ge=0, le=1, description="share of the probes predicted within 10 %")

    @property
    def key(self) -> Key:
        """Runtime, precision and threads of the table."""
        return self.runtime, self.precision, self.threads


class Sharpened(Record):
    """Correction of estimates by measurements on the device: ``[[sharpened]]``."""

    runtime: Literal["onnxruntime", "tensorrt"]
    precision: Precision
    threads: PositiveInt
    factor: float = Field(gt=0, description="measured / estimated, geometric mean over the models")
    n: PositiveInt = Field(description="number of measured models")
    corrects: str = Field(min_length=1, description="basis of the corrected estimates; the factor applies to no other basis")
    date: Date
    measurements: tuple[Sha256, ...] = Field(min_length=1, description="of the files with the measurements")

    @property
    def key(self) -> Key:
        """Runtime, precision and threads of the table."""
        return self.runtime, self.precision, self.threads

    def applied(self, p50_ms: float, low_ms: float, high_ms: float) -> tuple[float, float, float]:
        """An estimate and its 80 % interval, corrected.

        The logarithm of an estimate's error is modelled as normal: half its variance is common to all networks on the device, half
        is specific to each network. After ``n`` networks with mean error ``r``, the common part has the posterior mean
        ``r * n / (n + 1)``, and its variance is divided by ``n + 1`` (posterior of a normal mean, Gelman et al., Bayesian Data
        Analysis, section 2.5).
        """
        bias = self.n / (self.n + 1) * math.log(self.factor)
        narrower = math.sqrt((1 + 1 / (self.n + 1)) / 2)  # factor for the standard deviation, and for the logarithms of the interval's ends
        middle = p50_ms * math.exp(bias)
        return middle, middle * (low_ms / p50_ms) ** narrower, middle * (high_ms / p50_ms) ** narrower
