"""A graph prepared for the rules of TensorRT: types, constants, and the producers and readers of each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import onnx
from onnx import TensorProto

from tlexport.onnx_model.graph import constants, readers_of

QDQ_OPERATORS = ("QuantizeLinear", "DequantizeLinear")
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
Version = tuple[int, ...]


class RuledGraph:
    """A graph, and the version of TensorRT that parses it."""

    def __init__(self, model: onnx.ModelProto, tensorrt: Version) -> None:
        self._model, self.tensorrt = model, tensorrt
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.constants = constants(model.graph)
        self.makers = {name: node for node in self.nodes for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Nodes that read each tensor."""
        return readers_of(self._model.graph)

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of each tensor: as stated by a Cast, Q or DQ, otherwise the type of the node's input."""
        found = {name: tensor.data_type for name, tensor in self.constants.items()}
        found |= {value.name: value.type.tensor_type.elem_type for value in self._model.graph.input}
        for node in self.nodes:
            found |= dict.fromkeys(node.output, _given(node, found))
        return found

    @property
    def pairs(self) -> Iterator[onnx.NodeProto]:
        """Every Q and DQ."""
        return (node for node in self.nodes if node.op_type in QDQ_OPERATORS)

    def made_by(self, name: str, *kinds: str) -> bool:
        """Whether a node of one of these kinds produces a tensor."""
        return name in self.makers and self.makers[name].op_type in kinds

    def weight_of(self, node: onnx.NodeProto) -> TensorProto | None:
        """The constant that a DQ (or the Q before it) reads; None for an activation."""
        source = node.input[0]
        if self.made_by(source, "QuantizeLinear"):
            source = self.makers[source].input[0]
        return self.constants.get(source)


def _given(node: onnx.NodeProto, types: Mapping[str, int]) -> int:
    """Element type of a node's output; 0 if unknown."""
    read = [types.get(name, 0) for name in node.input]
    if node.op_type == "Cast":
        return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
    if node.op_type == "QuantizeLinear":  # the standard's default without a zero point is uint8
        return read[2] if len(read) > 2 else TensorProto.UINT8
    if node.op_type == "DequantizeLinear":
        return read[1]
    if node.op_type in ("Shape", "Size"):
        return TensorProto.INT64
    return next((kind for kind in read if kind in FLOAT_TYPES), next(iter(read), 0))
