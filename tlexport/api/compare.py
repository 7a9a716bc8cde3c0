"""``bench --compare``: which of two models is faster, and whether the difference is significant."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tlexport.artifact import Precision
from tlexport.bench.compare import CONFIDENCE, Samples, Turns, paired
from tlexport.bench.environment import describe_machine
from tlexport.bench.process import BenchRequest
from tlexport.bench.turns import Turn, play_round
from tlexport.loading.bench_request import BenchSettings, requests_for
from tlexport.loading.model import LoadedModel, load
from tlexport.measurement import Environment, Interval
from tlexport.ports import Progress, Silent
from tlexport.storage.files import temporary_folder

PlayRound = Callable[[Sequence[BenchRequest], int, Turn, int], list[Turns]]


@dataclass(frozen=True)
class Schedule:
    """How the models take turns. Two outliers among ten rounds do not move the interval of the median beyond the other rounds.

    Turns are short because other load on a machine changes within tenths of a second. On a shared virtual machine, the ratio of a model to
    itself varied five times as much from round to round with six turns of 50 ms as with these.
    """

    rounds: int = 10  # each starts the models again
    turns: int = 40  # of each model in a round
    seconds: float = 0.01  # of a turn, at least

    def turn(self, settings: BenchSettings) -> Turn:
        """One turn. All turns of a model together are as long as the settings ask."""
        count = self.rounds * self.turns
        return Turn(runs=max(1, -(-settings.min_runs // count)), seconds=max(self.seconds, settings.min_seconds / count))


@dataclass(frozen=True)
class Comparison:
    """Two models, timed in turn."""

    what: str
    other: str
    rounds: tuple[tuple[Turns, Turns], ...]  # turns of ``what`` and of ``other``
    environment: Environment  # when the first round began

    @cached_property
    def interval(self) -> Interval:
        """The ratio of ``other``'s time to ``what``'s."""
        return paired(self.rounds)

    def runs_ns(self) -> tuple[Samples, Samples]:
        """All runs of ``what`` and of ``other``, in order."""
        one, other = (tuple(ns for pair in self.rounds for turn in pair[side] for ns in turn) for side in (0, 1))
        return one, other

    def to_json(self) -> dict[str, Any]:
        """For ``--json``, with the raw runs."""
        found = self.interval
        medians = [statistics.median(runs) / 1e6 for runs in self.runs_ns()]
        return {
            "other": self.other,
            "ratio": round(found.ratio, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "confidence": CONFIDENCE,
            "real": found.real,
            "verdict": found.in_words(),
            "p50_ms": [round(ms, 4) for ms in medians],
            "rounds": self.rounds,
        }


def to_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All comparisons, for ``--json``."""
    first = comparisons[0]
    return {
        "what": first.what,
        "environment": first.environment.model_dump(mode="json"),
        "compared": [one.to_json() for one in comparisons],
    }


def compare(
    what: Path | LoadedModel,
    others: Sequence[Path | LoadedModel],
    settings: BenchSettings,
    *,
    precision: Precision | None = None,
    progress: Progress | None = None,
    schedule: Schedule = Schedule(),  # immutable
    play: PlayRound = play_round,
) -> list[Comparison]:
    """Time models in turn, and compare each one with the first.

    Args:
        what: a checkpoint, a bundle (its chosen model, unless ``precision`` names another), any .onnx file, or an engine.
        others: the same.
        settings: how to measure; ``min_runs`` and ``min_seconds`` are totals of each model over all rounds.
        precision: which of the bundles' models.
        progress: receives progress and notes.
        schedule: how they take turns.
        play: runs one round; benchmarks replace it to plant a slowdown.

    Raises:
        TlxError: see errors.py.
    """
    progress = progress or Silent()
    with temporary_folder("tlx-compare-") as folder:
        requests = [_one(each, settings, precision, progress, folder / str(at)) for at, each in enumerate((what, *others))]
        rounds, environment = [], describe_machine(requests[0].device)
        with progress.task("comparing", schedule.rounds) as advance:
            for number in range(schedule.rounds):
                rounds.append(play(requests, schedule.turns, schedule.turn(settings), number))
                advance(1)
    return [
        Comparison(requests[0].what, request.what, tuple((taken[0], taken[place]) for taken in rounds), environment)
        for place, request in enumerate(requests[1:], 1)
    ]


def _one(what: Path | LoadedModel, settings: BenchSettings, precision: Precision | None, progress: Progress, folder: Path) -> BenchRequest:
    """One model of WHAT: the requested one, or the chosen one of a bundle."""
    model = load(what)
    if precision is None and model.precisions:
        precision = model.bundle().model().artifact.precision
    folder.mkdir()
    [request] = requests_for(model, settings, [precision] if precision else None, progress, folder)
    return request
