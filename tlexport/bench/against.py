"""``bench --against``: compare a model with an earlier measurement."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tlexport.bench.compare import CONFIDENCE, unpaired
from tlexport.errors import InvalidFile, OverBudget, UsageError
from tlexport.measurement import Environment, Interval, Measurement
from tlexport.storage.untrusted import read_json


def read_previous(path: Path) -> list[Measurement]:
    """Read measurements from the output of ``tlx bench --json``, or one Measurement.

    Raises:
        InvalidFile: it holds no measurements.
    """
    found = read_json(path, f"write it with: tlx bench WHAT --json > {path}")
    rows = found if isinstance(found, list) else [found]
    measurements = [_measurement(path, row) for row in rows]
    if not measurements:
        raise InvalidFile(f"{path} holds no measurement")
    return measurements


def _measurement(path: Path, row: Any) -> Measurement:
    if not isinstance(row, dict) or "latencies_ns" not in row:
        raise InvalidFile(f"{path} is not what tlx bench --json writes: it has no latencies_ns")
    data = {key: value for key, value in row.items() if key in Measurement.model_fields}
    if "load_ns" not in data and isinstance(row.get("load_ms"), int | float):  # before 0.3 the JSON contained only milliseconds
        data["load_ns"] = max(1, round(row["load_ms"] * 1e6))
    return Measurement.parse(data, str(path))


@dataclass(frozen=True)
class Regression:
    """A measurement and an earlier one."""

    now: Measurement
    before: Measurement
    differs: tuple[str, ...]  # differences between the machines

    @cached_property
    def interval(self) -> Interval:
        """Ratio of the new latency to the earlier one."""
        return unpaired(self.before.latencies_ns, self.now.latencies_ns)

    def in_words(self) -> str:
        """The ratio with its interval, and both medians."""
        found, then, now = self.interval, self.before.percentile_ms(50), self.now.percentile_ms(50)
        return (
            f"takes {found.ratio:.3f} times as long as before ({found.low:.3f} to {found.high:.3f}; p50 was {then:.3f} ms, is {now:.3f} ms)"
        )

    def to_json(self) -> dict[str, Any]:
        """For ``--json``, under the key ``against``."""
        found = self.interval
        figures = {"ratio": round(found.ratio, 4), "low": round(found.low, 4), "high": round(found.high, 4), "confidence": CONFIDENCE}
        return {**figures, "p50_ms_before": round(self.before.percentile_ms(50), 4), "environment_differs": list(self.differs)}


def against(measurements: Sequence[Measurement], previous: Path) -> list[Regression]:
    """Find the earlier measurement of each.

    Raises:
        InvalidFile: see :func:`read_previous`.
        UsageError: the file has no measurement of a model with the same settings.
    """
    earlier = read_previous(previous)
    return [
        Regression(now, before, differences(before.environment, now.environment))
        for now in measurements
        for before in [_then(now, earlier, previous)]
    ]


def _then(now: Measurement, earlier: Sequence[Measurement], previous: Path) -> Measurement:
    """Find the same model with the same settings by file name; a single measurement matches any name."""
    alike = [then for then in earlier if _settings(then) == _settings(now)]
    named = [then for then in alike if os.path.basename(then.what) == os.path.basename(now.what)]  # noqa: PTH119  # paths of either system
    if found := named or (alike if len(alike) == 1 else []):
        return found[-1]
    has = "; ".join(f"{then.what}: {_settings(then)}" for then in earlier)
    raise UsageError(f"{previous} has no measurement of {now.what} with {_settings(now)}", f"it has {has}")


def _settings(m: Measurement) -> str:
    return f"{m.precision}, {m.runtime} on {m.provider}, {m.threads} threads, batch {m.batch}"


def differences(before: Environment, now: Environment) -> tuple[str, ...]:
    """Differences between two machines in words, except for their load."""
    then, here = before.model_dump(exclude={"load_1min", "board"}), now.model_dump(exclude={"load_1min", "board"})
    pairs = [(key, then[key], here[key]) for key in then if key != "versions"]
    pairs += [(name, before.versions.get(name), now.versions.get(name)) for name in sorted(before.versions | now.versions)]
    return tuple(f"{name} was {a}, is {b}" for name, a, b in pairs if a != b)


def expect_no_regression(regressions: Sequence[Regression], allowed: float) -> None:
    """Fail if a model is significantly slower: the lower end of its interval exceeds the limit.

    Args:
        regressions: see :func:`against`.
        allowed: a fraction; 0.05 is 5 %.

    Raises:
        OverBudget: names each.
    """
    worse = [r for r in regressions if r.interval.low > 1 + allowed]
    if worse:
        told = "; ".join(f"{r.now.what} {r.in_words()}" for r in worse)
        machines = sorted({text for r in worse for text in r.differs})
        hint = f"the machines differ: {'; '.join(machines)}" if machines else "allow more with --max-regression, or measure again"
        raise OverBudget(f"slower by more than {allowed:.1%}: {told}", hint)
