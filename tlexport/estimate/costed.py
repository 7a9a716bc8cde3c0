"""A graph and what it costs, each way of counting computed when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx

from tlexport.estimate.cost import GraphCost, cost_of
from tlexport.estimate.dequantized import in_fp32
from tlexport.estimate.graph import fused


class Graph:
    """A graph with fixed shapes. What it costs is computed when it is first asked for, and once."""

    def __init__(self, model: onnx.ModelProto, size_bytes: int, what: str = "the graph") -> None:
        self.model, self.size_bytes, self._what = model, size_bytes, what

    @cached_property
    def portable(self) -> tuple[GraphCost, int]:
        """Cost and number of nodes, with the layers as every machine fuses them."""
        return self._cost(layout=False)

    @cached_property
    def native(self) -> tuple[GraphCost, int]:
        """Cost and number of nodes, with the layers as this kind of machine runs them."""
        return self._cost(layout=True)

    @cached_property
    def plain(self) -> GraphCost:
        """Cost of the same layers in FP32, as every machine fuses them."""
        model = in_fp32(self.model)
        return (self.portable if model is self.model else Graph(model, self.size_bytes, self._what).portable)[0]

    def _cost(self, layout: bool) -> tuple[GraphCost, int]:
        graph = fused(self.model, layout=layout, what=self._what)
        return cost_of(graph), len(graph.graph.node)


@dataclass(frozen=True)
class Costs:
    """The same figures without the graph, as a child process counts them."""

    portable: tuple[GraphCost, int]
    native: tuple[GraphCost, int]
    plain: GraphCost
    size_bytes: int
