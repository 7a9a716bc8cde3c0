"""Peak activation memory of a graph: the largest sum of live tensors, in the best order of execution."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from tlexport.estimate.operator_shapes import TensorInfo

STATES = 50_000  # sets of finished nodes to search between two bottlenecks; beyond that, the file's order is used
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")  # their output reinterprets the bytes of their input


@dataclass(frozen=True)
class _Step:
    """A node with the indices of the tensors that it writes and reads."""

    makes: frozenset[int]
    takes: frozenset[int]


def peak_bytes(model: onnx.ModelProto, tensors: Mapping[str, TensorInfo]) -> int:
    """Largest sum of live activations, bytes, over the best order in which the nodes can run.

    A tensor is live from the node that writes it to the last node that reads it. Inputs and outputs of the graph count. While a
    node runs, its inputs and outputs are both live. Weights and a runtime's scratch memory are not counted.

    The search explores sets of finished nodes, smallest peak first (Dijkstra's algorithm with the maximum in place of the sum).
    The graph is cut wherever a single tensor is live; this is exact, because all later nodes depend on that tensor. A section
    between two cuts with more than ``STATES`` such sets uses the order of the file, and the result is an upper bound.
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
    """The cuts of the graph: the number of steps before each cut, and the live tensors there. The last cut is the end."""
    alive: set[int] = set()
    cuts = []
    for index, step in enumerate(steps):
        alive = {t for t in alive | step.makes if last[t] > index}
        if len(alive) <= 1 or index == len(steps) - 1:
            cuts.append((index + 1, frozenset(alive)))
    return cuts


def _stretch(steps: Sequence[_Step], entering: frozenset[int], leaving: frozenset[int], sizes: Sequence[int]) -> int:
    """The smallest peak over all orders of a section, bytes."""
    takers: dict[int, int] = dict.fromkeys((*entering, *(t for step in steps for t in step.makes)), 0)
    for index, step in enumerate(steps):
        for t in step.takes:
            takers[t] |= 1 << index
    makers = {t: index for index, step in enumerate(steps) for t in step.makes}
    before = [_bits({makers[t] for t in step.takes if t in makers}) for step in steps]
    made = [sum(sizes[t] for t in step.makes) for step in steps]

    def after(done: int, index: int, live: int) -> int:
        """Live bytes after one more node has run."""
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
