"""Peak activation memory of a graph: the tensors that are alive at the worst moment, in the best order of execution."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from tlexport.estimate.operator_shapes import TensorInfo

STATES = 50_000  # sets of finished nodes looked at between two bottlenecks, before the order of the file is taken as it is
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")  # their output is their input's bytes, seen otherwise


@dataclass(frozen=True)
class _Step:
    """A node, as far as memory is concerned: the numbers of the tensors that it makes and takes."""

    makes: frozenset[int]
    takes: frozenset[int]


def peak_bytes(model: onnx.ModelProto, tensors: Mapping[str, TensorInfo]) -> int:
    """Largest sum of live activations, bytes, over the best order in which the nodes can run.

    A tensor lives from the node that makes it to the last one that takes it; inputs and outputs of the graph count; while a
    node runs, what it takes and what it makes both live. Weights are not counted, and neither is a runtime's scratch memory.

    The least peak is found by searching sets of finished nodes, smallest peak first (Dijkstra's algorithm with the maximum in
    place of the sum). Where one tensor alone is alive the graph is cut, which loses nothing: all that follows needs that
    tensor. Where a stretch between two cuts has more than ``STATES`` such sets, the order of the file is taken for it, and
    the figure is an upper bound.
    """
    steps, sizes, kept = _steps(model, tensors)
    last = {t: index for index, step in enumerate(steps) for t in (*step.makes, *step.takes)} | dict.fromkeys(kept, len(steps))
    peak, begin = 0, 0
    alive: frozenset[int] = frozenset()
    for end, left in _cuts(steps, last):
        peak = max(peak, _stretch(steps[begin:end], alive, left, sizes))
        begin, alive = end, left
    return peak


def _steps(model: onnx.ModelProto, tensors: Mapping[str, TensorInfo]) -> tuple[list[_Step], list[int], frozenset[int]]:
    """The nodes in the order of the file, the bytes of each tensor, and the tensors that live to the end."""
    numbers: dict[str, int] = {}
    sizes: list[int] = []

    def known(names: Sequence[str]) -> frozenset[int]:
        return frozenset(numbers[name] for name in names if name in numbers)

    def new(names: Sequence[str]) -> frozenset[int]:
        for name in names:
            if name and not tensors[name].constant:
                numbers[name] = len(sizes)
                sizes.append(tensors[name].bytes)
        return known(names)

    steps = [_Step(new([value.name for value in model.graph.input]), frozenset())]
    for node in model.graph.node:
        takes = known(node.input)
        if node.op_type in VIEWS and takes:
            numbers[node.output[0]] = numbers[node.input[0]]
        elif makes := new(node.output):
            steps.append(_Step(makes, takes))
    return steps, sizes, known([value.name for value in model.graph.output])


def _cuts(steps: Sequence[_Step], last: Mapping[int, int]) -> list[tuple[int, frozenset[int]]]:
    """Where the graph can be cut: the number of steps before the cut, and what is alive there; the last one is the end."""
    alive: set[int] = set()
    cuts = []
    for index, step in enumerate(steps):
        alive = {t for t in alive | step.makes if last[t] > index}
        if len(alive) <= 1 or index == len(steps) - 1:
            cuts.append((index + 1, frozenset(alive)))
    return cuts


def _stretch(steps: Sequence[_Step], entering: frozenset[int], leaving: frozenset[int], sizes: Sequence[int]) -> int:
    """The least peak over the orders of a stretch, bytes."""
    takers: dict[int, int] = dict.fromkeys((*entering, *(t for step in steps for t in step.makes)), 0)
    for index, step in enumerate(steps):
        for t in step.takes:
            takers[t] |= 1 << index
    makers = {t: index for index, step in enumerate(steps) for t in step.makes}
    before = [_bits({makers[t] for t in step.takes if t in makers}) for step in steps]
    made = [sum(sizes[t] for t in step.makes) for step in steps]

    def after(done: int, index: int, live: int) -> int:
        """Live bytes once a node more has run."""
        now = done | 1 << index
        gone = sum(sizes[t] for t in steps[index].takes | steps[index].makes if t not in leaving and takers[t] & ~now == 0)
        return live + made[index] - gone

    whole = (1 << len(steps)) - 1
    start = sum(sizes[t] for t in entering)
    heap = [(start, 0, start)]
    seen: set[int] = set()
    while heap:
        peak, done, live = heapq.heappop(heap)
        if done == whole:
            return peak
        if done in seen:
            continue
        seen.add(done)
        if len(seen) > STATES:
            break
        for index in range(len(steps)):
            if not done >> index & 1 and before[index] & ~done == 0:
                heapq.heappush(heap, (max(peak, live + made[index]), done | 1 << index, after(done, index, live)))
    peak, done, live = start, 0, start
    for index in range(len(steps)):
        peak, live, done = max(peak, live + made[index]), after(done, index, live), done | 1 << index
    return peak


def _bits(indices: set[int]) -> int:
    return sum(1 << index for index in indices)
