"""Searches for the fastest form of an INT8 model on this machine: the quantizer's variant and the blocks that stay in float.

The number of MACs does not predict which blocks benefit from INT8. Each border between INT8 and float adds conversions, and some kernels
have a slow INT8 form or none. Latency is not monotone in the number of float blocks either, so every candidate is timed. The result is
cached for this machine. Timings from a busy machine are neither used nor cached.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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
    """Form of an INT8 graph."""

    variant: str  # one of the quantizer's
    float_nodes: Nodes  # names of nodes that stay in float


Quantize = Callable[[Int8Config], "onnx.ModelProto"]

FASTER = 0.98  # a candidate is accepted if both timings are at most this share of the best one's; noise is about as large
SLOWER = 1.01  # a block stays in float if the model without it is at least this much slower in both timings
FIRST = 6  # number of blocks at the input that are tried in float together: they have few channels and many pixels
BLOCK_TIMINGS = 2  # timings of a candidate with other blocks in float
VARIANT_TIMINGS = 9  # timings of a variant; the median counts. A variant does not enlarge the file, so a smaller gain suffices
SECONDS = 90.0  # time limit of the search; the best form found until then is used


def fastest(
    graph: onnx.ModelProto, variants: Sequence[str], quantize: Quantize, how: str, timing: PairwiseTiming, progress: Progress
) -> Int8Config:
    """The fastest form on this machine; the first variant with no extra float nodes if the machine was busy.

    Args:
        graph: FP32.
        variants: the quantizer's variants.
        quantize: makes the INT8 graph of a form.
        how: description of the quantizer, part of the cache key.
        timing: times pairs of graphs.
        progress: receives the search's progress.
    """
    names = [node.name for node in graph.graph.node]
    cache, key = ArrayCache(cache_folder() / "mixed"), _key(graph, f"{how}: {variants}", timing.threads)
    known = cache.get(key)  # (node + 1,): 1 for each node in float, then the index of the variant
    if known is not None and known.shape == (len(names) + 1,):
        return Int8Config(variants[known[-1]], frozenset(name for name, in_float in zip(names, known[:-1], strict=True) if in_float))
    plain = Int8Config(variants[0], frozenset())
    blocks = list(blocks_of(graph).values())
    total = len(variants) + 2 * len(blocks)
    with (
        _Search(quantize, timing, plain) as search,
        progress.task("timing INT8 with blocks in float", total) as advance,
        timing.watched() as causes,
    ):
        search.run(variants, blocks, advance)
    if causes:
        progress.note(
            f"INT8 uses its default form, because the machine was too busy to time others: {' and '.join(causes)}; "
            "export again on a quiet machine to search for a faster form"
        )
        return plain
    found = search.best
    cache.keep(key, np.array([*(name in found.float_nodes for name in names), variants.index(found.variant)], np.uint8))
    return found


def _key(graph: onnx.ModelProto, how: str, threads: int | None) -> dict[str, object]:
    """Cache key of a form: the structure of the graph without its weights, the machine and its runtime."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    nodes = [(n.op_type, [shapes.get(name, name) for name in n.input], [str(a) for a in n.attribute]) for n in graph.graph.node]
    where = describe_machine("cpu")
    return {
        # part of the key: another text would invalidate cached results
        "kind": "the fastest variant in nine looks, and blocks in float, each shown twice, on a quiet machine",
        "quantizer": how,
        "graph": hashlib.sha256(repr(nodes).encode()).hexdigest(),
        "cpu": where.cpu,
        "cores": where.cores,
        "onnxruntime": where.onnxruntime,
        "threads": threads,
    }


class _Search:
    """The best form so far, and the candidates timed against it until the time limit."""

    def __init__(self, quantize: Quantize, timing: PairwiseTiming, start: Int8Config) -> None:
        self.best = start
        self._quantize, self._timing = quantize, timing
        self._opened = ExitStack()  # closes the best form's runner
        self._runner = self._opened.enter_context(timing.open(quantize(start)))
        self._end = time.perf_counter() + SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run(self, variants: Sequence[str], blocks: Sequence[Nodes], advance: Task) -> None:
        """Try the variants, then float blocks at the input, then each block; finally test each float block again.

        Among dozens of candidates, noise makes some appear faster, and float blocks enlarge the file.
        """
        for variant in variants[1:]:
            self._try_variant(replace(self.best, variant=variant))
            advance(1)
        for count in range(1, min(FIRST, len(blocks)) + 1):
            self._try_blocks(replace(self.best, float_nodes=frozenset().union(*blocks[:count])))
        advance(1)
        for block in blocks:
            # a block that is in float already is tried in INT8
            in_float = self.best.float_nodes
            self._try_blocks(replace(self.best, float_nodes=in_float - block if block <= in_float else in_float | block))
            advance(1)
        for block in blocks:
            if block <= self.best.float_nodes:
                self._retest(replace(self.best, float_nodes=self.best.float_nodes - block))
            advance(1)

    def _try_variant(self, candidate: Int8Config) -> None:
        """Accept another variant if its median is faster. Variants of a network may give the same graph."""
        model = self._quantize(candidate)
        if model != self._quantize(self.best):
            self._compare(candidate, model, lambda ratios: statistics.median(islice(ratios, VARIANT_TIMINGS)) < 1 / SLOWER)

    def _try_blocks(self, candidate: Int8Config) -> None:
        """Accept a form if both timings are faster."""
        if time.perf_counter() < self._end:
            model = self._quantize(candidate)
            self._compare(candidate, model, lambda ratios: all(ratio < FASTER for ratio in islice(ratios, BLOCK_TIMINGS)))

    def _retest(self, candidate: Int8Config) -> None:
        """Accept a form unless both timings are slower."""
        model = self._quantize(candidate)
        self._compare(candidate, model, lambda ratios: not all(ratio >= SLOWER for ratio in islice(ratios, BLOCK_TIMINGS)))

    def _compare(self, candidate: Int8Config, model: onnx.ModelProto, wins: Callable[[Iterator[float]], bool]) -> None:
        """Time a form against the best one, and accept it if the ratios of their times satisfy ``wins``."""
        with ExitStack() as opened:
            other = opened.enter_context(self._timing.open(model))
            if wins(self._timing.ratio(other, self._runner) for _ in repeat(None)):
                self._opened.close()
                self.best, self._runner, self._opened = candidate, other, opened.pop_all()
