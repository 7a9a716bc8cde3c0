"""Time several models in turn, so that disturbances of the machine affect all of them equally."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tlexport.bench.environment import describe_machine
from tlexport.bench.process import BenchRequest
from tlexport.bench.turns import Answer, Turn, players
from tlexport.bench.watching import watching
from tlexport.measurement import Environment, Measurement

TURNS = 20  # of each model

Measure = Callable[[Sequence[BenchRequest]], list[Measurement]]


def measure_in_turn(requests: Sequence[BenchRequest]) -> list[Measurement]:
    """Measure models that are open at the same time in separate processes and run alternately in short turns.

    Args:
        requests: models with real images, all on one device; ``min_runs`` and ``min_seconds`` apply to each.

    Raises:
        TlxError: as for :func:`tlexport.bench.process.measure`.
    """
    environment = describe_machine(requests[0].device)
    taken: list[list[Answer]] = [[] for _ in requests]
    with players(requests) as ready:

        def own_seconds() -> float:
            return time.process_time() + sum(player.cpu_seconds() for player in ready)

        with watching(own_seconds=own_seconds) as watch:
            for _ in range(TURNS):
                for request, player, answers in zip(requests, ready, taken, strict=True):
                    answers.append(player.turn(Turn(runs=-(-request.min_runs // TURNS), seconds=request.min_seconds / TURNS)))
    return [
        _measurement(request, answers, environment).model_copy(update={"watch": watch})
        for request, answers in zip(requests, taken, strict=True)
    ]


def _measurement(request: BenchRequest, answers: Sequence[Answer], environment: Environment) -> Measurement:
    last = answers[-1]
    on_cpu = request.device == "cpu"  # a process's CPU time does not contain GPU time
    return Measurement(
        what=request.what,
        artifact_sha256=request.artifact_sha256,
        precision=request.precision,
        runtime=request.runtime,
        provider=last.provider,
        threads=last.threads,
        batch=request.batch,
        warmup_runs=last.warmup_runs,
        latencies_ns=tuple(ns for answer in answers for ns in answer.latencies_ns),
        shortest_cpu_ns=min(ns for answer in answers for ns in answer.cpu_ns) // last.threads if on_cpu else None,
        load_ns=last.load_ns,
        peak_memory_bytes=last.peak_memory_bytes,
        size_bytes=request.size_bytes,
        environment=environment,
        first_inference_ns=last.first_ns,
        inputs="real images",
    )
