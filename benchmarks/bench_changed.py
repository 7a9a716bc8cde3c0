"""A child of ``tlexport.bench.turns`` with modified models, for bench_quality.py and the tests.

If the name of a request ends in ``+N%``, each run is followed by a busy wait of N % of its duration. If it ends in ``+raw``, a bare ONNX
Runtime session with default settings replaces the runner. Process, clock and statistics are those of the normal child.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Self

from tlexport.bench import turns
from tlexport.bench.process import BenchRequest
from tlexport.ports import Array, Runner

RAW = "+raw"


class Changed:
    """A wrapper around a runner."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.provider, self.inputs, self.outputs = runner.provider, runner.inputs, runner.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.runner.run(feeds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class Slowed(Changed):
    """Runs slower by a fraction of each run."""

    def __init__(self, runner: Runner, fraction: float) -> None:
        super().__init__(runner)
        self.fraction = fraction

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        begin = perf_counter_ns()
        found = self.runner.run(feeds)
        end = perf_counter_ns()
        until = end + self.fraction * (end - begin)
        while perf_counter_ns() < until:
            pass
        return found


class Raw(Changed):
    """A bare ONNX Runtime session."""

    def __init__(self, runner: Runner, request: BenchRequest) -> None:
        super().__init__(runner)
        self.session = raw_session(request)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.session.run(None, feeds)
        return {}


def raw_session(request: BenchRequest) -> Any:
    """Open a session with default settings."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = request.threads or 0
    options.inter_op_num_threads = 1
    for name, length in ({"batch": request.batch} | request.axes).items():
        options.add_free_dimension_override_by_name(name, length)
    return ort.InferenceSession(request.path, options, providers=["CPUExecutionProvider"])


def changed(runner: Runner, request: BenchRequest) -> Runner:
    """Wrap the runner of a request as its name requires."""
    if request.what.endswith(RAW):
        return Raw(runner, request)
    planted = re.search(r"\+([0-9.]+)%$", request.what)
    return Slowed(runner, float(planted[1]) / 100) if planted else runner


if __name__ == "__main__":
    sys.exit(turns.main(changed))
