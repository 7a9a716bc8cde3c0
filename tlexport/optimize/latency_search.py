"""Which form of an INT8 model is fastest, and which of its blocks stay in float: found by timing on this machine, and remembered for it.

What is quick in INT8 is not what has many MACs: each border between INT8 and float costs conversions, some kernels have no INT8 form or
a slow one, and the best choice is not monotone in how much is left in float. So nothing is assumed; every choice is run. What was
timed on a busy machine is neither used nor remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import TYPE_CHECKING, Self

import numpy as np

from tlexport.bench.environment import describe_machine
from tlexport.optimize.mixed_precision import Nodes, blocks_of
from tlexport.optimize.pairwise_timing import PairwiseTiming
from tlexport.ports import Progress, Task
from tlexport.storage.cache import ArrayCache, cache_folder

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Int8Config:
    """What an INT8 graph is made like."""

    variant: str  # of the quantizer
    float_nodes: Nodes  # stay in float


Quantize = Callable[[Int8Config], "onnx.ModelProto"]

FASTER = 0.98  # a choice is kept where it takes at most this share of the time of the best so far, twice: noise is about as large
SLOWER = 1.01  # a block stays in float where the model without it takes at least this share of its time with it, twice
FIRST = 6  # blocks at the input that are tried in float together: few channels, many pixels
TWICE = 2  # how often blocks in float are timed before they count
LOOKS = 9  # at a variant, of which the middle one counts; it costs no size, so that it need not be faster by as much
SECONDS = 90.0  # for all; what was found until then is used


def fastest(
    graph: onnx.ModelProto, variants: Sequence[str], quantize: Quantize, how: str, timing: PairwiseTiming, progress: Progress
) -> Int8Config:
    """What has the shortest latency here; where the machine was not quiet meanwhile, the first variant with nothing in float.

    Args:
        graph: FP32.
        variants: of the quantizer.
        quantize: gives the INT8 graph.
        how: what it does, in words: what was found for one form of INT8 does not hold for another.
        timing: how graphs are timed.
        progress: where to tell what happens.
    """
    names = [node.name for node in graph.graph.node]
    cache, key = ArrayCache(cache_folder() / "mixed"), _key(graph, f"{how}: {variants}", timing.threads)
    known = cache.get(key)  # (node + 1,): whether each is kept, and the place of the variant
    if known is not None and known.shape == (len(names) + 1,):
        return Int8Config(variants[known[-1]], frozenset(name for name, in_float in zip(names, known[:-1], strict=True) if in_float))
    plain = Int8Config(variants[0], frozenset())
    blocks = list(blocks_of(graph).values())
    total = len(variants) + 2 * len(blocks)
    with (
        _Search(quantize, timing, plain) as search,
        progress.task("timing what stays in float", total) as advance,
        timing.watched() as causes,
    ):
        search.run(variants, blocks, advance)
    if causes:
        progress.note(
            f"INT8 has its plain form, since the machine was too busy to time others: {' and '.join(causes)}; "
            "export again when it is quiet for one that may be faster"
        )
        return plain
    found = search.best
    cache.keep(key, np.array([*(name in found.float_nodes for name in names), variants.index(found.variant)], np.uint8))
    return found


def _key(graph: onnx.ModelProto, how: str, threads: int | None) -> dict[str, object]:
    """What a choice depends on: the structure of the graph, not its weights; the machine and its runtime."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    nodes = [(n.op_type, [shapes.get(name, name) for name in n.input], [str(a) for a in n.attribute]) for n in graph.graph.node]
    where = describe_machine("cpu")
    return {
        "kind": "the fastest variant in nine looks, and blocks in float, each shown twice, on a quiet machine",
        "quantizer": how,
        "graph": hashlib.sha256(repr(nodes).encode()).hexdigest(),
        "cpu": where.cpu,
        "cores": where.cores,
        "onnxruntime": where.onnxruntime,
        "threads": threads,
    }


class _Search:
    """The best so far, and what is tried against it until the time is over."""

    def __init__(self, quantize: Quantize, timing: PairwiseTiming, start: Int8Config) -> None:
        self.best = start
        self._quantize, self._timing = quantize, timing
        self._opened = contextlib.ExitStack()  # holds the runner of the best
        self._runner = self._opened.enter_context(timing.open(quantize(start)))
        self._end = time.perf_counter() + SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def run(self, variants: Sequence[str], blocks: Sequence[Nodes], advance: Task) -> None:
        """The variants; what lies at the input; each block alone: whatever is faster stays. Then each must show once more that it is.

        Among dozens of tries noise alone makes one look faster now and then, and float costs the file's size.
        """
        for variant in variants[1:]:
            self._look(replace(self.best, variant=variant))
            advance(1)
        for count in range(1, min(FIRST, len(blocks)) + 1):
            self._try(replace(self.best, float_nodes=frozenset().union(*blocks[:count])))
        advance(1)
        for block in blocks:
            # a block that is in float already is tried in INT8
            in_float = self.best.float_nodes
            self._try(replace(self.best, float_nodes=in_float - block if block <= in_float else in_float | block))
            advance(1)
        for block in blocks:
            if block <= self.best.float_nodes:
                self._doubt(replace(self.best, float_nodes=self.best.float_nodes - block))
            advance(1)

    def _look(self, candidate: Int8Config) -> None:
        """Another variant becomes the best where it is faster; a network may have nothing that they differ in."""
        model = self._quantize(candidate)
        if model != self._quantize(self.best):
            self._meet(candidate, model, lambda ratios: statistics.median(islice(ratios, LOOKS)) < 1 / SLOWER)

    def _try(self, candidate: Int8Config) -> None:
        """It becomes the best where it is faster, both times."""
        if time.perf_counter() < self._end:
            self._meet(candidate, self._quantize(candidate), lambda ratios: all(ratio < FASTER for ratio in islice(ratios, TWICE)))

    def _doubt(self, candidate: Int8Config) -> None:
        """It becomes the best unless it is slower, both times."""
        self._meet(candidate, self._quantize(candidate), lambda ratios: not all(ratio >= SLOWER for ratio in islice(ratios, TWICE)))

    def _meet(self, candidate: Int8Config, model: onnx.ModelProto, wins: Callable[[Iterator[float]], bool]) -> None:
        """A candidate is opened, and becomes the best where the ratios of its time to that of the best say so."""
        with contextlib.ExitStack() as opened:
            other = opened.enter_context(self._timing.open(model))
            if wins(self._timing.ratio(other, self._runner) for _ in repeat(None)):
                self._opened.close()
                self.best, self._runner, self._opened = candidate, other, opened.pop_all()
