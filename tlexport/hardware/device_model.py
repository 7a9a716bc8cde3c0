"""DeviceModel: the result of a calibration for one machine, runtime, precision and number of threads."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from tlexport.measurement import Environment
from tlexport.record import Record


class LayerModel(Record):
    """The time of layers of one kind: a linear function of their costs, and a smooth correction. See estimate/fit.py."""

    line: tuple[float, float, float, float] = Field(description="µs: start, per 10^6 MACs, per MB of activations, per MB of weights")
    scales: tuple[float, ...] = Field(description="length of each feature over which times are alike, in powers of two")
    spread: float = Field(ge=0, description="standard deviation of the correction, natural logarithm")
    noise: float = Field(ge=0, description="of one timed layer, likewise")
    points: tuple[tuple[float, ...], ...] = Field(description="(layer, feature): the timed layers")
    weights: tuple[float, ...] = Field(description="(layer,): of the correction")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.points) != len(self.weights):
            raise ValueError(f"{len(self.points)} points have {len(self.weights)} weights")
        if any(len(point) != len(self.scales) for point in self.points):
            raise ValueError(f"a point has another number of features than the {len(self.scales)} scales")
        return self


class DeviceModel(Record):
    """The file beside a profile that ``tlx profiles calibrate`` writes."""

    format: Literal[1] = 1
    runtime: str
    precision: str
    threads: PositiveInt
    kinds: dict[str, LayerModel]
    whole: tuple[float, float, float] = Field(description="factor of the summed layers, µs for each node, µs for each run")
    low: float = Field(gt=0, le=1, description="ends of the 80 % interval, as factors of the prediction")
    high: float = Field(ge=1)
    error: float = Field(ge=0, description="median of |predicted / measured - 1| over the probes, each predicted from others")
    within_10: float = Field(ge=0, le=1, description="share of the probes predicted within 10 %")
    probes: PositiveInt
    environment: Environment
