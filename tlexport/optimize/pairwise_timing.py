"""How long models take on this machine, as quickly as it can be told: for choices among dozens, not for a report."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport import plugins
from tlexport.bench.environment import default_threads, describe_machine
from tlexport.bench.noise import crowding, throttling
from tlexport.bench.watching import watching
from tlexport.ports import Array, Runner, RunOptions

if TYPE_CHECKING:
    import onnx

HOPELESS = 1.03  # a model is given up where it takes more than this of the other's time after FEW rounds
MIN_ROUNDS, ROUNDS = 2, 6  # in which two are timed in turn
SECONDS = 0.02  # of each in each round; and at least RUNS
RUNS = 3
HELD_UP = 0.9  # CPU time over time: a run computes all the while, so that less means that it had to wait for a core


@dataclass
class PairwiseTiming:
    """Runs graphs on one image.

    A model's time is its shortest run: whatever else the machine does only adds to it, and here two forms of one function are compared,
    which do the same at every run. What a user may expect of a model is another question: see bench/.
    """

    image: Array  # (1, height, width, channel), in the input's type
    threads: int | None  # CPU threads of the runtime
    folder: Path  # for files that are not kept
    _opened: itertools.count[int] = field(default_factory=itertools.count)
    _spent_ns: int = 0  # in runs
    _computed_ns: int = 0  # CPU time of them, over all threads

    def open(self, model: onnx.ModelProto) -> Runner:
        """Opens a graph; the caller enters and leaves the runner with ``with``."""
        path = self.folder / f"timed-{next(self._opened)}.onnx"
        path.write_bytes(model.SerializeToString())
        runner = plugins.runtime("onnxruntime").open_model(path, RunOptions(threads=self.threads, batch=1))
        path.unlink()
        return runner

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Watch the machine while models are timed. What disturbed them stands in the list afterwards; nothing where it was quiet."""
        causes: list[str] = []
        spent, computed = self._spent_ns, self._computed_ns
        with watching() as watch:
            yield causes
        spent, computed = self._spent_ns - spent, self._computed_ns - computed
        threads = self.threads or default_threads()
        causes += [*throttling(watch), *crowding(watch, threads, describe_machine("cpu").cores)]
        if computed < HELD_UP * spent:
            causes.append(f"the runs had a core for {100 * computed / spent:.0f} % of their time")

    def milliseconds(self, model: onnx.ModelProto) -> float:
        """Of one run."""
        with self.open(model) as runner:
            return self._shortest([runner])[0] / 1e6

    def ratio(self, candidate: Runner, best: Runner) -> float:
        """Time of the one over that of the other; not exact where it is hopeless."""
        times = self._shortest([candidate, best])
        return times[0] / times[1]

    def _shortest(self, runners: Sequence[Runner]) -> list[int]:
        found = [self._visit(runner) for runner in runners]
        for done in range(1, ROUNDS):
            if done >= MIN_ROUNDS and found[0] > HOPELESS * found[-1]:
                break
            found = [min(before, self._visit(runner)) for before, runner in zip(found, runners, strict=True)]
        return found

    def _visit(self, runner: Runner) -> int:
        """Shortest of a few runs, ns; the first, after another model's, is not counted."""
        feed = {runner.inputs[0].name: self.image}
        runner.run(feed)
        samples: list[int] = []
        end = time.perf_counter_ns() + SECONDS * 1e9
        while len(samples) < RUNS or time.perf_counter_ns() < end:
            busy, begin = time.process_time_ns(), time.perf_counter_ns()
            runner.run(feed)
            samples.append(time.perf_counter_ns() - begin)
            self._spent_ns += samples[-1]
            self._computed_ns += time.process_time_ns() - busy
        return min(samples)
