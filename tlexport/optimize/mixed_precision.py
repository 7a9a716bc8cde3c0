"""Mixed precision: moves the blocks that INT8 harms most back to float, until the accuracy target is reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlexport.artifact import Mixed, Sensitivity, Tried
from tlexport.ports import WEIGHTED, Progress

if TYPE_CHECKING:
    import onnx

Nodes = frozenset[str]  # names

MAX_FLOAT_SHARE = 0.5  # largest share of the blocks in float; beyond it, the model is a float model with conversions


@dataclass(frozen=True)
class Evaluated:
    """An INT8 graph with some nodes in float, and its accuracy on the selection images."""

    model: onnx.ModelProto
    tried: Tried


def blocks_of(graph: onnx.ModelProto) -> dict[str, Nodes]:
    """Map each weighted node to its block: itself and the nodes up to the next weighted one. Normalisation and softmax are in none."""
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
    """Find the fewest blocks in float that reach the accuracy target.

    Args:
        graph: FP32.
        evaluate: makes and evaluates the INT8 graph with these nodes in float.
        already: nodes that stay in float for another reason.
        least_top1: the accuracy target, 0 to 1.
        progress: receives the progress.

    Returns:
        The first graph that reaches the target, its float nodes, and the ranking of the blocks; None if half of the blocks in float do not
        suffice.
    """
    blocks = blocks_of(graph)
    everything: Nodes = frozenset().union(*blocks.values())
    with progress.task("ranking blocks by their sensitivity to INT8", len(blocks)) as advance:
        harm = {}
        for name, block in blocks.items():
            harm[name] = evaluate(everything - block).tried.divergence  # only this block in INT8
            advance(1)
    ranking = tuple(Sensitivity(block=name, divergence=harm[name]) for name in sorted(harm, key=lambda name: -harm[name]))
    most = int(MAX_FLOAT_SHARE * len(blocks))
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
