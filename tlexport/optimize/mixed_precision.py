"""Mixed precision: the blocks that INT8 harms most go back to float, until the accuracy is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlexport.artifact import Mixed, Sensitivity, Tried
from tlexport.ports import WEIGHTED, Progress

if TYPE_CHECKING:
    import onnx

Nodes = frozenset[str]  # names

MOST = 0.5  # share of the blocks that may go back: beyond it the model is a float one with conversions in it


@dataclass(frozen=True)
class Evaluated:
    """An INT8 graph with some nodes in float, and how good it is on training images kept for the choice."""

    model: onnx.ModelProto
    tried: Tried


def blocks_of(graph: onnx.ModelProto) -> dict[str, Nodes]:
    """A graph's nodes from each weighted one up to the next, by that one's name. The contract and the softmax are in none."""
    blocks: dict[str, set[str]] = {}
    last = ""
    for node in graph.graph.node:
        if node.op_type in WEIGHTED:
            last = node.name
        if last and node.op_type != "Softmax":
            blocks.setdefault(last, set()).add(node.name)
    return {name: frozenset(block) for name, block in blocks.items()}


def back_to_float(
    graph: onnx.ModelProto, evaluate: Callable[[Nodes], Evaluated], already: Nodes, least_top1: float, progress: Progress
) -> tuple[Evaluated, Nodes, Mixed] | None:
    """As few blocks in float as it takes.

    Args:
        graph: FP32.
        evaluate: makes and evaluates the INT8 graph in which these nodes stay in float.
        already: nodes that are in float for another reason.
        least_top1: what is to be reached.
        progress: where to tell what happens.

    Returns:
        The first graph that reaches it, its nodes in float, and the ranking that led there; None where not even half of the blocks in
        float do.
    """
    blocks = blocks_of(graph)
    everything: Nodes = frozenset().union(*blocks.values())
    with progress.task("ranking blocks by what INT8 does to them", len(blocks)) as advance:
        harm = {}
        for name, block in blocks.items():
            harm[name] = evaluate(everything - block).tried.divergence  # this block alone in INT8
            advance(1)
    ranking = tuple(Sensitivity(block=name, divergence=harm[name]) for name in sorted(harm, key=lambda name: -harm[name]))
    most = int(MOST * len(blocks))
    with progress.task("blocks back to float", most) as advance:
        float_nodes = already
        for count, worst in enumerate(ranking[:most], 1):
            float_nodes |= blocks[worst.block]
            evaluated = evaluate(float_nodes)
            if evaluated.tried.top1 >= least_top1:
                return (
                    evaluated,
                    float_nodes,
                    Mixed(ranking=ranking, kept=tuple(found.block for found in ranking[:count]), top1=evaluated.tried.top1),
                )
            advance(1, f"top-1 {100 * evaluated.tried.top1:.2f} %")
    return None
