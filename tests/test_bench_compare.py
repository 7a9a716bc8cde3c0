"""Comparisons: the statistics on samples with a known result, and whole comparisons through real processes."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest
from bench_requests import CLASSIFIER, request
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tlexport.api.compare import Schedule, compare
from tlexport.bench.compare import CONFIDENCE, Turns, paired, round_ratio, unpaired
from tlexport.bench.turns import Player, Turn, play_round, players, shared_core
from tlexport.errors import InvalidFile, StepFailed
from tlexport.loading.bench_request import BenchSettings
from tlexport.measurement import SMALLEST

Rounds = list[tuple[Turns, Turns]]


def rounds(seed: int, slower: float, count: int = 10, own: float = 0.01, shared: float = 0.2) -> Rounds:
    """Rounds as a machine gives them: what disturbs a round is shared by both, what differs between two starts is each model's own."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        machine = 1 + shared * draw.random()
        starts = [1e6 * machine * factor * draw.normal(1, own) for factor in (1.0, 1 + slower)]
        one, other = (tuple(turn(start * draw.normal(1, 0.02, 10)) for _ in range(4)) for start in starts)
        found.append((one, other))
    return found


def turn(runs: npt.NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(runs.round().astype(int).tolist())


def test_a_slowdown_is_found_and_none_is_not() -> None:
    """The law of the interval: with nothing there it leaves 1 out once in a hundred times, with 10 % there always."""
    trials = range(200)
    assert all(paired(rounds(seed, 0.1)).real for seed in trials)
    called_real = sum(paired(rounds(seed, 0.0)).real for seed in trials)
    assert called_real <= 8  # four times what the confidence promises: the binomial's upper end at 1 in 10,000
    inside = sum(paired(rounds(seed, 0.1)).low <= 1.1 <= paired(rounds(seed, 0.1)).high for seed in trials)
    assert inside >= 192
    assert CONFIDENCE == 0.99


def test_what_the_machine_does_to_both_does_not_widen_the_interval() -> None:
    calm, wild = paired(rounds(3, 0.1, shared=0.0)), paired(rounds(3, 0.1, shared=3.0))
    assert wild.high - wild.low == pytest.approx(calm.high - calm.low, rel=0.5)


def test_what_comes_and_goes_from_turn_to_turn_is_shared_by_neighbours() -> None:
    """A machine that is twice as slow for most of the one model's turns, but for all of a pair's when it is for one."""
    slow = (1, 2, 2, 1, 2)
    one, other = (tuple((round(1e6 * factor * machine),) * 3 for machine in slow) for factor in (1.0, 1.1))
    assert round_ratio(one, other) == pytest.approx(1.1)
    assert round_ratio(one, (*other[:-1], tuple(5 * ns for ns in other[-1]))) == pytest.approx(1.1)


def test_one_odd_round_does_not_make_a_difference() -> None:
    found = rounds(5, 0.0, own=0.002)
    found[4] = (found[4][0], tuple(tuple(5 * ns for ns in runs) for runs in found[4][1]))
    assert not paired(found).real


def test_a_difference_that_is_certain_and_tiny_is_not_worth_a_word() -> None:
    same = [(((1_000_000,) * 9,), ((round(1_000_000 * (1 + SMALLEST / 2)),) * 9,))] * 10
    assert paired(same).low > 1
    assert not paired(same).real


@given(st.integers(0, 1000), st.floats(-0.3, 0.3))
def test_intervals_hold_their_ratio_and_come_out_the_same_again(seed: int, slower: float) -> None:
    pairs = rounds(seed, slower)
    found = paired(pairs)
    assert found.low <= found.ratio <= found.high
    assert paired(pairs) == found
    turned = paired([(two, one) for one, two in pairs])
    assert turned.ratio == pytest.approx(1 / found.ratio, rel=0.02)


def test_drift_within_a_measurement_widens_the_unpaired_interval() -> None:
    draw = np.random.default_rng(0)
    steady = tuple(draw.normal(1e6, 1e4, 1000).round().astype(int).tolist())
    drifting = tuple(round(ns * (1 + place / 1000)) for place, ns in enumerate(steady))  # to twice the time
    assert unpaired(steady, steady).high - unpaired(steady, steady).low < 0.01
    assert unpaired(steady, drifting).high - unpaired(steady, drifting).low > 0.2
    assert unpaired(steady, tuple(round(1.1 * ns) for ns in steady)).low > 1.08
    assert unpaired((7,), (14,)).ratio == 2  # the ratio of two single runs


# --- in processes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(CLASSIFIER.replace("8,8,3", "128,128,3")).SerializeToString())
    return path


def test_models_take_turns_in_processes_that_stay(classifier: Path) -> None:
    with players([request(classifier), request(classifier)]) as [one, two]:
        lengths = [len(player.turn(Turn(runs=runs, seconds=0)).latencies_ns) for runs, player in ((3, one), (5, two), (2, one))]
        assert lengths == [3, 5, 2]
        assert one._child.pid != two._child.pid
        assert one._child.poll() is two._child.poll() is None
    assert one._child.returncode is not None and two._child.returncode is not None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its cores")
def test_models_of_one_thread_share_a_core_in_every_round(classifier: Path) -> None:
    alone, wide = request(classifier, threads=1), request(classifier, threads=2)
    usable = sorted(os.sched_getaffinity(0))
    assert [shared_core([alone, alone], number) for number in range(4)] == [(usable[at % len(usable)],) for at in (0, 0, 1, 1)]
    assert shared_core([alone, wide], 0) == ()
    cores = shared_core([alone, alone], 2)
    with players([alone, alone], cores=cores) as ready:
        assert [os.sched_getaffinity(player._child.pid) for player in ready] == [set(cores)] * 2
        assert ready[0].turn(Turn(runs=3, seconds=0))


def test_a_planted_slowdown_is_found_through_the_whole_way(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 %, so that a busy machine does not hide it; benchmarks/bench_quality.py plants 10 % on a quiet one."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    play = functools.partial(play_round, module="bench_changed")
    pair = [request(classifier, what="as it is"), request(classifier, what="slowed+100%")]
    taken = [play(pair, 4, Turn(runs=15, seconds=0), number) for number in (0, 1)]
    assert all([len(runs) for runs in turns] == [15] * 4 for pair_taken in taken for turns in pair_taken)
    found = paired([(one, two) for one, two in taken])
    assert 1.5 < found.ratio < 3


def test_compare_names_models_and_keeps_every_run(classifier: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(classifier.read_bytes())
    settings = BenchSettings(device="cpu", threads=1, min_runs=12, min_seconds=0)
    [found] = compare(classifier, [other], settings, schedule=Schedule(rounds=1, turns=2, seconds=0))
    assert (found.what, found.other) == (str(classifier), str(other))
    assert [[len(runs) for runs in turns] for pair in found.rounds for turns in pair] == [[6, 6], [6, 6]]
    assert [len(runs) for runs in found.runs_ns()] == [12, 12]
    data = found.to_json()
    assert data["rounds"] == found.rounds
    assert data["low"] <= data["ratio"] <= data["high"]
    assert data["real"] is found.interval.real


@pytest.mark.parametrize(("other", "words"), [(125, "25.0% slower"), (80, "20.0% faster"), (100, "no real difference")])
def test_a_difference_in_words(other: int, words: str) -> None:
    assert paired([(((100,) * 3,), ((other,) * 3,))] * 5).in_words() == words


def test_what_a_model_meets_is_told_and_nobody_stays_behind(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    started: list[Player] = []
    with (
        pytest.raises(InvalidFile, match=re.escape("broken.onnx")),
        players([request(classifier), request(tmp_path / "broken.onnx")]) as ready,
    ):
        started += ready
    assert started == []  # the round did not begin


def test_a_player_that_dies_is_reported_with_how(classifier: Path) -> None:
    with pytest.raises(StepFailed, match="signal 9"), players([request(classifier)]) as [player]:
        player._child.kill()
        player._child.wait()
        player.turn(Turn(runs=1, seconds=0))
