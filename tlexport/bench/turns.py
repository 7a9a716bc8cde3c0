"""Run several models in turns, each in its own process that stays alive for one round.

Separate processes, as in :mod:`tlexport.bench.process` and on a device: models in one process share its memory allocator and threads.
All processes are alive at the same time, so turns alternate within tenths of a second and disturbances affect all models. Each round
starts new processes, because the memory layout of a process changes its speed by about 1 % for its whole lifetime.

The child, ``python -m tlexport.bench.turns``, reads a request from the first line of standard input, then one line per turn, and writes
one line of JSON for each.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter_ns, process_time_ns
from typing import IO, TYPE_CHECKING

import psutil
from pydantic import Field, TypeAdapter, ValidationError

from tlexport import plugins
from tlexport.bench.compare import Samples, Turns
from tlexport.bench.process import BenchRequest, feeds_for, follow_parent, open_for, run_options
from tlexport.child import Failure, command, death, environment
from tlexport.device.board.environment import peak_memory_bytes
from tlexport.device.timing import warm_up
from tlexport.errors import TlxError
from tlexport.record import Record

if TYPE_CHECKING:
    from tlexport.ports import Array, Runner

# start of a turn: until the caches no longer hold the other model's data and its threads have stopped spinning
SETTLE_NS = 20_000_000
SETTLE_ALONE_NS = 2_000_000  # with one thread
SETTLE_RUNS = 1  # at least


class Turn(Record):
    """A turn, as requested from a child."""

    runs: int = Field(ge=1, description="at least")
    seconds: float = Field(ge=0, description="at least")


class Answer(Record):
    """Answer of a child: ready (no samples), or the runs of a turn."""

    provider: str
    threads: int
    latencies_ns: tuple[int, ...] = ()
    cpu_ns: tuple[int, ...] = Field((), description="CPU time of each run, over all threads")
    load_ns: int = Field(0, description="opening the model")
    first_ns: int = Field(0, description="the first run")
    warmup_runs: int = 0
    peak_memory_bytes: int = 0


_ANSWER: TypeAdapter[Answer | Failure] = TypeAdapter(Answer | Failure)


class Player:
    """Parent side of a model in its own process."""

    def __init__(self, request: BenchRequest, module: str = "tlexport.bench.turns", cores: Collection[int] = ()) -> None:
        self.what = request.what
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # an unread pipe would fill up and block the child
        self._child = subprocess.Popen(
            command(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment(), encoding="utf-8"
        )
        if cores:
            os.sched_setaffinity(self._child.pid, cores)
        self._say(request.absolute())

    def ready(self) -> Answer:
        """Wait until the model is open and warmed up. Raises the error of the process."""
        return self._hear()

    def turn(self, turn: Turn) -> Answer:
        """Run one turn."""
        self._say(turn)
        return self._hear()

    def cpu_seconds(self) -> float:
        """CPU time of the process so far; 0 if it has ended, which the next answer reports."""
        try:
            times = psutil.Process(self._child.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.communicate()
        self._log.close()

    def _say(self, record: Record) -> None:
        with contextlib.suppress(BrokenPipeError):  # the process has ended; the next answer reports how
            if self._child.stdin:
                print(record.model_dump_json(), file=self._child.stdin, flush=True)

    def _hear(self) -> Answer:
        line = self._child.stdout.readline() if self._child.stdout else ""
        try:
            answer = _ANSWER.validate_json(line)
        except ValidationError:
            raise self._death() from None
        if isinstance(answer, Failure):
            raise answer.as_error()
        return answer

    def _death(self) -> TlxError:
        self._child.kill()
        code = self._child.wait()
        self._log.seek(0)
        return death(f"measuring {self.what}", code, self._log.read().decode(errors="replace"))


@contextmanager
def players(requests: Sequence[BenchRequest], module: str = "tlexport.bench.turns", cores: Collection[int] = ()) -> Iterator[list[Player]]:
    """The models of a round, opened and warmed up one after the other. ``cores`` restricts their CPU affinity."""
    started: list[Player] = []
    try:
        for request in requests:
            started.append(Player(request, module, cores))
            started[-1].ready()
        yield started
    finally:
        for player in started:
            player.close()


def play_round(requests: Sequence[BenchRequest], turns: int, turn: Turn, number: int, module: str = "tlexport.bench.turns") -> list[Turns]:
    """Start the models in new processes and run them in turn: A, B, A, B, ...

    Args:
        requests: the models.
        turns: turns per model.
        turn: length of each turn.
        number: index of the round. The order of the models is reversed in every other round.
        module: module that the child runs.

    Returns:
        The turns of each model.
    """
    taken: list[list[Samples]] = [[] for _ in requests]
    with players(requests, module, shared_core(requests, number)) as ready:
        order = list(enumerate(ready))[:: -1 if number % 2 else 1]
        for _ in range(turns):
            for place, player in order:
                taken[place].append(player.turn(turn).latencies_ns)
    return [tuple(turns_of) for turns_of in taken]


def shared_core(requests: Sequence[BenchRequest], number: int) -> tuple[int, ...]:
    """The core shared by all single-threaded models of a round, because cores differ in speed and load. It changes every two rounds.
    Empty if a model has several threads or the system does not support CPU affinity."""
    if any(request.threads != 1 for request in requests) or not hasattr(os, "sched_setaffinity"):
        return ()
    usable = sorted(os.sched_getaffinity(0))
    return (usable[number // 2 % len(usable)],)


def main(change: Callable[[Runner, BenchRequest], Runner] = lambda runner, request: runner) -> int:
    """The child. ``change`` wraps the open model: benchmarks add a slowdown there. Returns the exit code."""
    orders = follow_parent()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # output of libraries goes to standard error
        try:
            for answer in _answers(iter(orders.get, None), change):
                print(answer.model_dump_json(), file=answers, flush=True)
        except TlxError as error:
            print(Failure.of(error).model_dump_json(), file=answers, flush=True)
    return 0


def _answers(orders: Iterator[str | None], change: Callable[[Runner, BenchRequest], Runner]) -> Iterator[Answer]:
    request = BenchRequest.model_validate_json(next(orders) or "")
    runtime = plugins.runtime(request.runtime)
    options = run_options(request, runtime)
    with open_for(request, runtime, options) as (opened, load_ns):
        runner = change(opened, request)
        turns = itertools.cycle(feeds_for(request, opened.inputs)[0])
        settle_ns = SETTLE_ALONE_NS if options.threads == 1 else SETTLE_NS
        gc.collect()
        gc.disable()
        begin = perf_counter_ns()
        runner.run(next(turns))
        first_ns = perf_counter_ns() - begin
        ready = Answer(
            provider=opened.provider,
            threads=options.threads or 1,
            load_ns=load_ns,
            first_ns=first_ns,
            warmup_runs=warm_up(runner.run, turns, request.warmup_seconds),
        )
        yield ready
        for order in orders:
            turn = Turn.model_validate_json(order or "")
            latencies, cpu = _run(runner, turns, turn, settle_ns)
            yield ready.model_copy(update={"latencies_ns": latencies, "cpu_ns": cpu, "peak_memory_bytes": peak_memory_bytes()})


def _run(runner: Runner, turns: Iterator[Mapping[str, Array]], turn: Turn, settle_ns: int) -> tuple[Samples, Samples]:
    """Duration and CPU time of each run, ns. The CPU clock is read outside the timed section, because it takes a system call."""
    begin, settled = perf_counter_ns(), 0
    while settled < SETTLE_RUNS or perf_counter_ns() - begin < settle_ns:
        runner.run(next(turns))
        settled += 1
    samples: list[int] = []
    cpu: list[int] = []
    begin = perf_counter_ns()
    while len(samples) < turn.runs or perf_counter_ns() - begin < turn.seconds * 1e9:
        feed = next(turns)
        busy = process_time_ns()
        start = perf_counter_ns()
        _ = runner.run(feed)
        samples.append(perf_counter_ns() - start)
        cpu.append(process_time_ns() - busy)
    return tuple(samples), tuple(cpu)


if __name__ == "__main__":
    sys.exit(main())
