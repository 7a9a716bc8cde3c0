"""A child of ``tlexport.bench.turns`` that makes models slower on purpose: for bench_quality.py and the tests.

A request whose name ends in ``+N%`` gets a model each run of which is followed by a busy wait of N % of its own duration. Everything else
is as it always is: the same process, the same clock, the same statistics.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from time import perf_counter_ns
from types import TracebackType
from typing import Self

from tlexport.bench import turns
from tlexport.bench.process import BenchRequest
from tlexport.ports import Array, Runner


class Slowed:
    """A runner that takes longer."""

    def __init__(self, runner: Runner, fraction: float) -> None:
        self.runner = runner
        self.fraction = fraction
        self.provider, self.inputs, self.outputs = runner.provider, runner.inputs, runner.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        begin = perf_counter_ns()
        found = self.runner.run(feeds)
        end = perf_counter_ns()
        until = end + self.fraction * (end - begin)
        while perf_counter_ns() < until:
            pass
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


def slowed(runner: Runner, request: BenchRequest) -> Runner:
    """The runner of a request, slower by what its name says."""
    planted = re.search(r"\+([0-9.]+)%$", request.what)
    return Slowed(runner, float(planted[1]) / 100) if planted else runner


if __name__ == "__main__":
    sys.exit(turns.main(slowed))
