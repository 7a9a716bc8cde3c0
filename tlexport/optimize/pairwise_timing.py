"""Quick timing of models on this machine: for choices between dozens of candidates, not for reports."""

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

GIVE_UP_RATIO = 1.03  # a model is dropped if it takes more than this share of the other's time after MIN_ROUNDS
MIN_ROUNDS, ROUNDS = 2, 6  # rounds in which two models are timed in turn
SECONDS = 0.02  # shortest duration of one model's runs in a round
RUNS = 3  # fewest runs of one model in a round
MIN_CPU_SHARE = 0.9  # CPU time over wall time; a run computes throughout, so a lower share means that it waited for a core


@dataclass
class PairwiseTiming:
    """Runs graphs on one image.

    A model's time is its shortest run, because other work on the machine only adds time. This compares two forms of one function. The
    latency that users can expect is measured in bench/.
    """

    image: Array  # (1, height, width, channel), in the dtype of the model's input
    threads: int | None  # CPU threads of the runtime
    folder: Path  # for temporary files
    _opened: itertools.count[int] = field(default_factory=itertools.count)
    _spent_ns: int = 0  # wall time of all runs
    _computed_ns: int = 0  # CPU time of all runs, summed over threads

    @contextmanager
    def open(self, model: onnx.ModelProto) -> Iterator[Runner]:
        """Open a graph for timing."""
        path = self.folder / f"timed-{next(self._opened)}.onnx"
        path.write_bytes(model.SerializeToString())
        runtime = plugins.runtime("onnxruntime")
        with runtime.open_model(path, RunOptions(threads=self.threads, batch=1)) as runner:
            path.unlink()
            yield runner

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Watch the machine while models are timed. At the end, the list names the disturbances; it is empty if there were none."""
        causes: list[str] = []
        spent, computed = self._spent_ns, self._computed_ns
        with watching() as watch:
            yield causes
        spent, computed = self._spent_ns - spent, self._computed_ns - computed
        threads = self.threads or default_threads()
        causes += [*throttling(watch), *crowding(watch, threads, describe_machine("cpu").cores)]
        if computed < MIN_CPU_SHARE * spent:
            causes.append(f"the runs had a core for {100 * computed / spent:.0f} % of their time")

    def milliseconds(self, model: onnx.ModelProto) -> float:
        """Duration of one run in ms."""
        with self.open(model) as runner:
            return self._shortest([runner])[0] / 1e6

    def ratio(self, candidate: Runner, best: Runner) -> float:
        """Time of the candidate divided by that of the best model; approximate if the candidate was dropped early."""
        times = self._shortest([candidate, best])
        return times[0] / times[1]

    def _shortest(self, runners: Sequence[Runner]) -> list[int]:
        found = [self._visit(runner) for runner in runners]
        for done in range(1, ROUNDS):
            if done >= MIN_ROUNDS and found[0] > GIVE_UP_RATIO * found[-1]:
                break
            found = [min(before, self._visit(runner)) for before, runner in zip(found, runners, strict=True)]
        return found

    def _visit(self, runner: Runner) -> int:
        """Shortest of a few runs in ns. The first run is discarded, because another model ran before it."""
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
