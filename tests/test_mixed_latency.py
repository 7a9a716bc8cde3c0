"""Selection of float blocks for speed. Only the clock is replaced, where the result must be known in advance."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from exports import Notes
from graphs import noise, request_for, small

from tlexport.contract import image_input
from tlexport.optimize.latency_search import Int8Config, fastest
from tlexport.optimize.mixed_precision import Nodes, blocks_of
from tlexport.optimize.pairwise_timing import PairwiseTiming
from tlexport.ports import Progress, QuantizeRequest, Runner, Silent
from tlexport.quantizers import int8_onnxruntime

BLOCKS = list(blocks_of(small()).values())


@dataclass
class Opened:
    """An opened graph with a known cost."""

    cost: float
    luck: list[float]
    left: bool = False

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True


@dataclass
class Clock:
    """Returns known costs: one per block, and one per border between INT8 and float."""

    in_float: list[float]
    border: float
    threads: int | None = 1
    opened: list[Opened] = field(default_factory=list)
    # which model, in the order they are opened -> what share of its time it seems to take the first times that it is tried
    noise: dict[int, list[float]] = field(default_factory=dict)
    variants: dict[str, float] = field(default_factory=lambda: {"": 0.0})  # what each adds
    causes: list[str] = field(default_factory=list)  # why the machine is not quiet

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        yield self.causes

    def cost(self, choice: Int8Config) -> float:
        floats = [block <= choice.float_nodes for block in BLOCKS]
        borders = sum(a != b for a, b in zip([True, *floats], [*floats, True], strict=True))
        blocks = sum(cost if is_float else 1.0 for cost, is_float in zip(self.in_float, floats, strict=True))
        return blocks + self.border * borders + self.variants[choice.variant]

    def open(self, choice: Int8Config) -> Opened:
        self.opened.append(Opened(self.cost(choice), list(self.noise.get(len(self.opened), ()))))
        return self.opened[-1]

    def ratio(self, candidate: Opened, best: Opened) -> float:
        return (candidate.luck.pop(0) if candidate.luck else 1.0) * candidate.cost / best.cost


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))


def chosen(clock: Clock, how: str = "as now", progress: Progress | None = None) -> Int8Config:
    choose: Callable[[Int8Config], Any] = lambda choice: choice  # noqa: E731 -- the clock is told the choice itself
    return fastest(small(), list(clock.variants), choose, how, cast(PairwiseTiming, clock), progress or Silent())


def search(clock: Clock, how: str = "as now") -> Nodes:
    return chosen(clock, how).float_nodes


def test_what_is_slow_in_int8_stays_in_float() -> None:
    for slow in range(len(BLOCKS)):
        costs = [0.3 if place == slow else 2.0 for place in range(len(BLOCKS))]
        assert search(Clock(costs, 0.0, threads=slow + 1)) == BLOCKS[slow]


def test_borders_count() -> None:
    """A block in the middle that gains less than two conversions stays in INT8; two at the input together go to float."""
    middle = [2.0] * len(BLOCKS)
    middle[2] = 0.8
    assert search(Clock(middle, 0.3)) == frozenset()
    start = [0.9, 0.6] + [2.0] * (len(BLOCKS) - 2)
    assert search(Clock(start, 0.0, threads=2)) == BLOCKS[0] | BLOCKS[1]


def test_a_gain_as_small_as_noise_is_none() -> None:
    assert search(Clock([0.99] + [2.0] * (len(BLOCKS) - 1), 0.0)) == frozenset()


def test_what_only_looked_faster_is_in_int8_after_all() -> None:
    """All other choices are slower than what was taken for faster, so that only a second look at it can tell."""
    lucky = 1 + min(6, len(BLOCKS)) + 2  # after that with nothing in float and those at the input
    costs = [1.0] * len(BLOCKS)
    costs[0] = 0.5
    assert search(Clock(costs, 0.0, noise={lucky: [0.9, 0.9]}, threads=3)) == BLOCKS[0]


def test_nor_does_bad_luck_of_one_look_keep_it_in_float() -> None:
    """Taken for faster, and then once for slower without it; once is not enough."""
    starts = min(6, len(BLOCKS))
    lucky, second_look = 1 + starts + 2, 1 + starts + len(BLOCKS) + 1  # of blocks 2 and 0, the first of which is looked at last
    costs = [1.0] * len(BLOCKS)
    costs[0] = 0.5
    assert search(Clock(costs, 0.0, noise={lucky: [0.9, 0.9], second_look: [1.05]}, threads=4)) == BLOCKS[0]


def test_is_found_once_for_a_structure_a_form_of_int8_and_a_number_of_threads() -> None:
    costs = [0.3] + [2.0] * (len(BLOCKS) - 1)
    first, again, threads = Clock(costs, 0.0), Clock(costs, 0.0), Clock(costs, 0.0, threads=2)
    other = Clock(costs, 0.0)
    assert search(first) == search(again) == search(threads) == search(other, "in another form") == BLOCKS[0]
    assert [bool(clock.opened) for clock in (first, again, threads, other)] == [True, False, True, True]
    assert all(opened.left for opened in first.opened)


def test_what_was_timed_on_a_busy_machine_is_neither_used_nor_remembered() -> None:
    costs, variants = [0.3] + [2.0] * (len(BLOCKS) - 1), {"first": 1.0, "second": 0.0}
    busy, notes = Clock(costs, 0.0, variants=variants, causes=["other programs took all"]), Notes()
    assert chosen(busy, progress=notes) == Int8Config("first", frozenset())
    assert "other programs took all" in " ".join(notes.texts)
    assert chosen(Clock(costs, 0.0, variants=variants)) == Int8Config("second", BLOCKS[0])


def test_runs_that_wait_for_a_core_are_called_disturbed(tmp_path: Path) -> None:
    """A sleeping process has no core, like one that waits for its turn."""

    class Sleeper:
        inputs = (image_input(8, "float32"),)

        def run(self, feed: object) -> None:
            time.sleep(0.002)

    timing, sleeper = PairwiseTiming(noise(1), 1, tmp_path), cast(Runner, Sleeper())
    with timing.watched() as causes:
        timing.ratio(sleeper, sleeper)
    assert re.search(r"the runs had a core for \d\d? % of their time", causes[-1])


@pytest.mark.parametrize(("second", "expected"), [(-1.0, "second"), (-0.01, "first"), (1.0, "first")])
def test_the_variant_that_is_faster_is_taken_and_blocks_are_tried_in_it(second: float, expected: str) -> None:
    costs = [0.3] + [2.0] * (len(BLOCKS) - 1)
    clock = Clock(costs, 0.0, variants={"first": 1.0, "second": 1.0 + second})
    assert chosen(clock) == Int8Config(expected, BLOCKS[0])
    again = Clock(costs, 0.0, variants={"first": 1.0, "second": 1.0 + second})
    assert chosen(again) == Int8Config(expected, BLOCKS[0])
    assert not again.opened


@pytest.mark.parametrize(("looks", "second"), [([1.5] * 4, -1.0), ([0.5] * 4, 0.5)])
def test_four_looks_of_nine_do_not_decide_about_a_variant(looks: list[float], second: float) -> None:
    """Bad luck does not leave it, nor good luck take it."""
    clock = Clock([2.0] * len(BLOCKS), 0.0, noise={1: looks}, variants={"first": 1.0, "second": 1.0 + second})
    assert chosen(clock).variant == ("second" if second < 0 else "first")


def test_a_variant_that_changes_nothing_is_not_timed() -> None:
    clock = Clock([2.0] * len(BLOCKS), 0.0, variants={"first": 0.0, "second": 0.0})
    choose: Callable[[Int8Config], Any] = lambda choice: Int8Config("first", choice.float_nodes)  # noqa: E731 -- the clock is told the choice itself
    assert fastest(small(), list(clock.variants), choose, "as now", cast(PairwiseTiming, clock), Silent()).variant == "first"
    blocks = len(BLOCKS)
    assert len(clock.opened) == 1 + min(6, blocks) + blocks


def test_with_a_real_clock_the_answer_is_a_choice_of_blocks_that_runs(tmp_path: Path) -> None:
    request = request_for(small(), noise(4), "uint8")

    def quantize(choice: Int8Config) -> onnx.ModelProto:
        return int8_onnxruntime.quantize(QuantizeRequest(request.model, request.ranges, "uint8", choice.float_nodes, choice.variant))

    timing = PairwiseTiming(noise(1), 1, tmp_path)
    found = fastest(small(), int8_onnxruntime.VARIANTS, quantize, "as now", timing, Silent())
    assert all(block <= found.float_nodes or not block & found.float_nodes for block in BLOCKS)
    assert 0 < timing.milliseconds(quantize(found)) < 1000
    assert not list(tmp_path.glob("*.onnx"))


def test_a_model_that_computes_more_takes_longer(tmp_path: Path) -> None:
    """The same convolution ten times over, against once: a difference that no noise hides."""

    def convolutions(count: int) -> onnx.ModelProto:
        steps = " ".join(f"x{n + 1} = Conv <pads=[1,1,1,1]> (x{n}, w)" for n in range(count))
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g (float[1,32,64,64] x0) => (float[1,32,64,64] x{count}) {{ {steps} }}'
        )
        weight = np.random.default_rng(0).normal(0, 0.05, (32, 32, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
        return model

    timing = PairwiseTiming(np.zeros((1, 32, 64, 64), np.float32), 1, tmp_path)
    with timing.open(convolutions(10)) as slow, timing.open(convolutions(1)) as fast:
        assert timing.ratio(slow, fast) > 2
        assert timing.ratio(fast, slow) < 0.5
