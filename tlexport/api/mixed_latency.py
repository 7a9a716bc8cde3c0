"""Which blocks of an INT8 model stay in float for speed: found by timing on this machine, and remembered for it.

What is quick in INT8 is not what has many MACs: each border between INT8 and float costs conversions, some kernels have no INT8 form or
a slow one, and the best choice is not monotone in how much is left in float. So nothing is assumed; every choice is run.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlexport.api.mixed import Nodes, blocks_of
from tlexport.api.quick_timing import QuickTiming
from tlexport.bench.environment import describe
from tlexport.cache import ArrayCache, cache_folder
from tlexport.ports import Progress

if TYPE_CHECKING:
    import onnx

Quantize = Callable[[Nodes], "onnx.ModelProto"]

FASTER = 0.98  # a choice is kept where it takes at most this share of the time of the best so far, twice: noise is about as large
SLOWER = 1.01  # a block stays in float where the model without it takes at least this share of its time with it, twice
FIRST = 6  # blocks at the input that are tried in float together: few channels, many pixels
TWICE = 2  # how often a choice is timed before it counts
SECONDS = 90.0  # for all; what was found until then is used


def fastest(graph: onnx.ModelProto, quantize: Quantize, how: str, timing: QuickTiming, progress: Progress) -> Nodes:
    """Nodes that stay in float for the shortest latency here.

    Args:
        graph: FP32.
        quantize: gives the INT8 graph in which these nodes stay in float.
        how: what it does, in words: what was found for one form of INT8 does not hold for another.
        timing: how graphs are timed.
        progress: where to tell what happens.
    """
    names = [node.name for node in graph.graph.node]
    cache, key = ArrayCache(cache_folder() / "mixed"), _key(graph, how, timing.threads)
    known = cache.get(key)
    if known is not None and known.shape == (len(names),):
        return frozenset(name for name, kept in zip(names, known, strict=True) if kept)
    kept = _search(list(blocks_of(graph).values()), quantize, timing, progress)
    cache.keep(key, np.array([name in kept for name in names], np.uint8))
    return kept


def _key(graph: onnx.ModelProto, how: str, threads: int | None) -> dict[str, object]:
    """What a choice depends on: the structure of the graph, not its weights; the machine and its runtime."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    nodes = [(n.op_type, [shapes.get(name, name) for name in n.input], [str(a) for a in n.attribute]) for n in graph.graph.node]
    where = describe("cpu")
    return {
        "kind": "blocks in float for speed, each shown twice",
        "quantizer": how,
        "graph": hashlib.sha256(repr(nodes).encode()).hexdigest(),
        "cpu": where.cpu,
        "cores": where.cores,
        "onnxruntime": where.onnxruntime,
        "threads": threads,
    }


def _search(blocks: Sequence[Nodes], quantize: Quantize, timing: QuickTiming, progress: Progress) -> Nodes:
    """What lies at the input, then each block alone: whatever makes it faster stays. Then each must show once more that it does.

    Among dozens of tries noise alone makes one look faster now and then, and float costs the file's size.
    """
    starts = [frozenset().union(*blocks[:count]) for count in range(1, min(FIRST, len(blocks)) + 1)]
    end = time.perf_counter() + SECONDS
    best: Nodes = frozenset()
    runner = timing.open(quantize(best))
    with progress.task("timing what stays in float", len(starts) + 2 * len(blocks)) as advance:
        for tried in [*starts, *blocks]:
            advance(1)
            # a block that is in float already is tried in INT8
            candidate = best - tried if tried <= best else best | tried
            if time.perf_counter() > end:
                continue
            other = timing.open(quantize(candidate))
            if all(timing.ratio(other, runner) < FASTER for _ in range(TWICE)):
                best, runner, other = candidate, other, runner
            other.__exit__(None, None, None)
        for tried in blocks:
            advance(1)
            if tried <= best:
                other = timing.open(quantize(best - tried))
                if not all(timing.ratio(other, runner) >= SLOWER for _ in range(TWICE)):
                    best, runner, other = best - tried, other, runner
                other.__exit__(None, None, None)
    runner.__exit__(None, None, None)
    return best
