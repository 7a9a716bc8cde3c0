"""Errors of the boards' figures for networks left out of the fit, and the intervals derived from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from board_model import KINDS, Amounts, Floats, Model, Row, Unit, table
from board_rows import origin_of

from tlexport.estimate.boards import gain
from tlexport.hardware.board_rates import Conditions

LEVEL = 0.8  # of the intervals
NARROWEST = 1.3  # smallest interval: two sources of the same latency differ by a factor of 1.3 to 2, which rows of one source do not show
FEW = 3  # with fewer rows of other networks on a board, its figures come mostly from other boards


@dataclass(frozen=True)
class Scored:
    """Rows of one runtime with their prediction errors."""

    rows: Sequence[Row]
    errors: Floats  # (row,): ln(predicted / published)


def joined(parts: Sequence[Scored]) -> Scored:
    """Concatenate several sets of rows."""
    return Scored([row for part in parts for row in part.rows], np.concatenate([part.errors for part in parts]))


def group(unit: Unit) -> tuple[str, str]:
    """Units that share an interval."""
    return unit.runtime, unit.precision


def reach(errors: Iterable[float]) -> float:
    """Half-width of an 80 % interval (natural logarithm) from errors: the quantile that covers one more error of their kind."""
    sizes = sorted(abs(error) for error in errors)
    return sizes[min(math.ceil((len(sizes) + 1) * LEVEL), len(sizes)) - 1]


def score(rows: Sequence[Row], models: Mapping[str, Model], amounts: Amounts, by: Callable[[Row], str]) -> Scored:
    """Predict each row with the model fitted without its network."""
    predicted = np.array([float(models[by(row)].predict([row], amounts)[0]) for row in rows])
    return Scored(rows, np.log(predicted) - np.log([row.ms for row in rows]))


def well_known(rows: Sequence[Row]) -> list[bool]:
    """(row,): whether its board has enough rows of other networks in its runtime for figures of its own."""
    boards = Counter((row.unit.device, row.unit.runtime) for row in rows)
    same = Counter((row.unit.device, row.unit.runtime, origin_of(row.network)) for row in rows)
    keys = [(row.unit.device, row.unit.runtime) for row in rows]
    return [boards[key] - same[(*key, origin_of(row.network))] >= FEW for row, key in zip(rows, keys, strict=True)]


def intervals(scored: Scored, without: str | None = None) -> dict[tuple[str, str], float]:
    """(runtime, precision) -> factor of the 80 % interval, from the errors of all networks but one."""
    found: dict[tuple[str, str], list[float]] = {}
    for row, error, known in zip(scored.rows, scored.errors, well_known(scored.rows), strict=True):
        if known and origin_of(row.network) != without:
            found.setdefault(group(row.unit), []).append(float(error))
    return {kind: max(math.exp(reach(errors)), NARROWEST) for kind, errors in found.items()}


def covered(scored: Scored) -> list[bool]:
    """(row,): whether the published figure is within the interval from the *other* networks' errors."""
    by_origin = {origin: intervals(scored, origin) for origin in {origin_of(row.network) for row in scored.rows}}
    pairs = zip(scored.rows, scored.errors, strict=True)
    return [bool(abs(error) <= math.log(by_origin[origin_of(row.network)][group(row.unit)])) for row, error in pairs]


def summary(scored: Scored, inside: Sequence[bool]) -> dict[str, Any]:
    """Number of rows, median absolute error and coverage."""
    return {
        "rows": len(scored.rows),
        "median_error": round(float(np.median(np.abs(np.expm1(scored.errors)))), 3),
        "coverage": round(float(np.mean(inside)), 3),
    }


def table_of(scored: Scored, inside: Sequence[bool], key: Callable[[Row], Hashable]) -> dict[Any, dict[str, Any]]:
    """Summaries of the rows of each key."""
    found = {}
    for value in sorted({key(row) for row in scored.rows}, key=str):
        kept = [index for index, row in enumerate(scored.rows) if key(row) == value]
        found[value] = summary(Scored([scored.rows[index] for index in kept], scored.errors[kept]), [inside[index] for index in kept])
    return found


def borrowed(
    rows: Sequence[Row],
    models: Mapping[str, Model],
    amounts: Amounts,
    hardware: Mapping[Unit, Conditions],
    lender: Callable[[Unit], Unit | None],
) -> Scored:
    """Predict rows with the figures of another unit, scaled to their hardware if both are known.

    ``models`` has one model for each network left out, and optionally, under ``""``, one for all other networks.
    """
    kept, errors = [], []
    for row in rows:
        other = lender(row.unit)
        model = models.get(origin_of(row.network), models.get(""))
        if other is None or model is None or other not in model.units:
            continue
        old, new = hardware.get(other, Conditions()), hardware.get(row.unit, Conditions())
        gains = np.array([gain(kind, old, new) for kind in KINDS])
        kept.append(row)
        errors.append(math.log(float(table([row], amounts)[0] @ (model.of(other) / gains)) / 1e6 / row.ms))
    return Scored(kept, np.array(errors))


def spread(scored: Scored) -> dict[str, float]:
    """Bias and absolute error of borrowed figures."""
    return {
        "rows": len(scored.rows),
        "median_ratio": round(float(np.exp(np.median(scored.errors))), 2),
        "factor_80": round(math.exp(reach(scored.errors)), 2),
    }


def excess(whole: Iterable[float], own: Iterable[float]) -> float:
    """Factor by which a second cause of error widens intervals, from errors with and without it."""
    return math.exp(math.sqrt(max(reach(whole) ** 2 - reach(own) ** 2, 0.0)))
