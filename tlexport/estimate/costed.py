"""A graph with its costs, each computed on first access."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx

from tlexport.estimate.cost import GraphCost, cost_of
from tlexport.estimate.dequantized import in_fp32
from tlexport.estimate.graph import fused


class Graph:
    """A graph with fixed shapes. Each cost is computed once, on first access."""

    def __init__(self, model: onnx.ModelProto, size_bytes: int, what: str = "the graph") -> None:
        self.model, self.size_bytes, self._what = model, size_bytes, what

    @cached_property
    def portable(self) -> tuple[GraphCost, int]:
        """Cost and number of nodes, with the layer fusion common to all machines."""
        return self._cost(layout=False)

    @cached_property
    def native(self) -> tuple[GraphCost, int]:
        """Cost and number of nodes, with the layer fusion and layout of this kind of machine."""
        return self._cost(layout=True)

    @cached_property
    def plain(self) -> GraphCost:
        """Cost of the same layers in FP32, with the layer fusion common to all machines."""
        model = in_fp32(self.model)
        return (self.portable if model is self.model else Graph(model, self.size_bytes, self._what).portable)[0]

    def _cost(self, layout: bool) -> tuple[GraphCost, int]:
        graph = fused(self.model, layout=layout, what=self._what)
        return cost_of(graph), len(graph.graph.node)


@dataclass(frozen=True)
class Costs:
    """The same figures without the graph, computed in a child process."""

    portable: tuple[GraphCost, int]
    native: tuple[GraphCost, int]
    plain: GraphCost
    size_bytes: int
