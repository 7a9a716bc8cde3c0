"""The model fitted by benchmarks/fit_boards.py: nanoseconds per unit of work of each kind on each board, with partial pooling.

    ln ms(row) = ln Σ_kind amount(network, kind) * ns(unit, kind)  + an error with heavy tails
    ns(unit, kind) = least(unit, kind) + exp(effects)

A unit is a board with a runtime, a precision and a number of threads. ``least`` is the minimum given by the hardware's peak rate and memory
bandwidth if they are known, else 0. The effects are a sum of terms, each with a normal prior around 0: the cost of the kind in the runtime;
the change by precision; the effect of MLPerf's tuning; the speed of the board; its speed in this precision; and the unit's deviation per
kind. A board with few rows therefore stays close to the runtime's behaviour on other boards.

The launch cost of a layer is the same in every precision. The six networks published in INT8 cannot separate it from their other work: in
an unconstrained fit, an INT8 launch cost up to 15 times an FP32 launch, and MobileNetV3-Small took four times its FP32 latency. The errors
follow Student's t-distribution: two sources of the same figure differ by a factor of 1.3 to 2.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from tlexport.artifact import Precision
from tlexport.estimate.boards import LAUNCHES, gain
from tlexport.hardware.board_rates import Conditions, Rates

Floats = npt.NDArray[np.float64]
KINDS = (*Rates.model_fields, LAUNCHES)
GUESS = (0.1, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 2e4)  # ns per unit of each kind, on the hardware below
REFERENCE = Conditions(mhz=1000, tops=1, bandwidth_gb_s=25)
NOISE, TAIL = 0.12, 4.0  # of one row: scale (natural logarithm) and degrees of freedom
STEPS = 40
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
WINOGRAD = 2.25  # fewer multiplications for a 3x3 convolution with stride 1 (Lavin and Gray, 2015, F(2x2, 3x3))
Amounts = Mapping[str, Mapping[str, float]]  # network -> kind -> amount of work


@dataclass(frozen=True)
class Unit:
    """A board, runtime, precision and number of threads: the key of a set of figures."""

    device: str  # as published
    runtime: str
    precision: Precision
    threads: int | None
    cores: str = ""  # "little": pinned to the small cores
    tuned: bool = False  # a submission to MLPerf's closed division, tuned for that network


@dataclass(frozen=True)
class Row:
    """One published latency."""

    unit: Unit
    network: str  # name of its ONNX file
    ms: float
    source: str  # document


@dataclass(frozen=True)
class Effect:
    """A term of ln_ns: units and kinds with the same key share one number, normal with this standard deviation."""

    deviation: float
    key: Callable[[Unit, str], Hashable]  # None: the term does not apply


EFFECTS = (
    Effect(5.0, lambda unit, kind: unit.runtime),
    Effect(1.5, lambda unit, kind: (unit.runtime, kind)),
    Effect(0.5, lambda unit, kind: None if kind == LAUNCHES else (unit.runtime, unit.precision, kind)),
    Effect(0.7, lambda unit, kind: (unit.runtime, kind) if unit.tuned else None),
    Effect(2.0, lambda unit, kind: (unit.device, unit.runtime, unit.threads, unit.cores)),
    Effect(0.3, lambda unit, kind: None if kind == LAUNCHES else unit),
    Effect(0.3, lambda unit, kind: (replace(unit, precision="fp32") if kind == LAUNCHES else unit, kind)),
)


class Model:
    """The fitted numbers of all units."""

    def __init__(self, units: Sequence[Unit], hardware: Mapping[Unit, Conditions]) -> None:
        """Args: units: to fit. hardware: of the units whose hardware is known; their figures are relative to it."""
        self.units = tuple(units)
        self._at = {unit: index for index, unit in enumerate(self.units)}
        keys: dict[Hashable, int] = {}
        deviations: list[float] = []
        where: list[tuple[int, int]] = []
        cells = 0
        for unit in self.units:
            for kind in KINDS:
                for number, effect in enumerate(EFFECTS):
                    found = effect.key(unit, kind)
                    if found is None:
                        continue
                    key = (number, found)
                    if key not in keys:
                        keys[key] = len(keys)
                        deviations.append(effect.deviation)
                    where.append((cells, keys[key]))
                cells += 1
        self._effects = scipy.sparse.csr_matrix((np.ones(len(where)), np.array(where).T), shape=(cells, len(keys)))
        self._precision = np.array(deviations) ** -2.0
        speed = [[gain(kind, REFERENCE, hardware.get(unit, REFERENCE)) for kind in KINDS] for unit in self.units]
        self._start = (np.log(GUESS) - np.log(speed)).ravel()
        self._least = np.array([[_least(unit, kind, hardware.get(unit, Conditions())) for kind in KINDS] for unit in self.units])
        self._values = np.zeros(len(keys))

    @property
    def ns(self) -> Floats:
        """(unit, kind): nanoseconds per unit of work."""
        whole: Floats = self._above(self._values) + self._least
        return whole

    def _above(self, values: Floats) -> Floats:
        above: Floats = np.exp(self._start + self._effects @ values).reshape(-1, len(KINDS))
        return above

    def of(self, unit: Unit) -> Floats:
        """(kind,): nanoseconds per unit of work."""
        ns: Floats = self.ns[self._at[unit]]
        return ns

    def predict(self, rows: Sequence[Row], amounts: Amounts) -> Floats:
        """(row,): ms."""
        return np.asarray((self.ns[self._units(rows)] * table(rows, amounts)).sum(1)) / 1e6

    def _units(self, rows: Sequence[Row]) -> npt.NDArray[np.intp]:
        return np.array([self._at[row.unit] for row in rows], dtype=np.intp)

    def fit(self, rows: Sequence[Row], amounts: Amounts) -> Model:
        """Fit to rows from the current parameters: damped Newton steps with iterated weights (Levenberg-Marquardt)."""
        units, work = self._units(rows), table(rows, amounts) / 1e6
        truth = np.log([row.ms for row in rows])
        cells = (units[:, None] * len(KINDS) + np.arange(len(KINDS))).ravel()
        first = np.repeat(np.arange(len(rows)), len(KINDS))

        def parts(values: Floats) -> tuple[Floats, Floats, float]:
            above = self._above(values)
            costs = above[units] * work
            whole = ((above + self._least)[units] * work).sum(1)
            error = np.log(whole) - truth
            loss = (TAIL + 1) * np.log1p((error / NOISE) ** 2 / TAIL).sum() + (values**2 * self._precision).sum()
            return costs / whole[:, None], error, float(loss)

        values, damping = self._values.copy(), 1e-2
        shares, error, loss = parts(values)
        for _ in range(STEPS):
            weights = (TAIL + 1) / (TAIL + (error / NOISE) ** 2) / NOISE**2
            slopes = scipy.sparse.csr_matrix((shares.ravel(), (first, cells)), shape=(len(rows), self._effects.shape[0])) @ self._effects
            downhill = -(slopes.T @ (weights * error) + values * self._precision)
            curvature = (slopes.T @ scipy.sparse.diags(weights) @ slopes).toarray() + np.diag(self._precision)
            before = loss
            while damping < 1e6:
                step = scipy.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill, assume_a="pos")
                tried = parts(values + np.clip(step, -2, 2))
                if tried[2] <= loss:
                    values, (shares, error, loss), damping = values + np.clip(step, -2, 2), tried, max(damping / 10, 1e-6)
                    break
                damping *= 10
            if before - loss < 1e-3:
                break
        self._values = values
        return self


def _least(unit: Unit, kind: str, hardware: Conditions) -> float:
    """Minimum ns per unit of a kind: at the peak rate (a MAC is two operations), reading every weight from memory."""
    if kind == "weights":
        return BYTES[unit.precision] / hardware.bandwidth_gb_s if hardware.bandwidth_gb_s else 0.0
    if kind in ("activations", LAUNCHES) or not hardware.tops:
        return 0.0
    return 2 / (1e3 * hardware.tops) / (WINOGRAD if kind == "conv3x3" else 1)


def table(rows: Sequence[Row], amounts: Amounts) -> Floats:
    """(row, kind): amounts of work."""
    return np.array([[amounts[row.network].get(kind, 0.0) for kind in KINDS] for row in rows])


def fit_without(
    rows: Sequence[Row], units: Sequence[Unit], amounts: Amounts, hardware: Mapping[Unit, Conditions], by: Callable[[Row], str]
) -> dict[str, Model]:
    """For each value of ``by``: a model fitted without the rows of that value."""
    found = {}
    for out in sorted({by(row) for row in rows}):
        found[out] = Model(units, hardware).fit([row for row in rows if by(row) != out], amounts)
    return found
