"""Precision of a graph, read from its weights and its Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import Unsupported
from tlexport.onnx_model.tensors import type_name

# operator -> index of the input that holds its weights
WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "FusedConv": 1, "FusedGemm": 1, "FusedMatMul": 1}
WEIGHT_INPUT |= dict.fromkeys(("LSTM", "GRU", "RNN"), 1)
INTEGER_WEIGHT_INPUT = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
# operators between a stored tensor and the layer that computes with it
PASSING = ("DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Reshape", "Cast")
KINDS: dict[int, Precision] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}


@dataclass(frozen=True)
class GraphPrecision:
    """Precision of a graph. Products of two activations, such as those of attention, have no weights and do not count."""

    computed: Precision  # of most layers with weights
    stored: Precision  # the lowest of any weight; "int8" also if anything is dequantized. An exported file is declared with it
    note: str = ""  # states how many layers compute in another precision; empty if none do


def precision_of(model: onnx.ModelProto, where: str) -> GraphPrecision:
    """Read the precision of a graph from its layers with weights.

    A layer computes in INT8 if both its weights and its input are integers, and in float if only its weights are.

    Args:
        model: the graph, in float or quantized.
        where: the user's name of the model, for the error message.

    Raises:
        Unsupported: weights of another type, such as BFLOAT16.
    """
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t.data_type
        for node in model.graph.node
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t")
    }
    makers = {name: node for node in model.graph.node for name in node.output}

    def source_of(name: str) -> tuple[str, bool]:
        """The tensor that a chain of PASSING operators starts from, and whether the chain dequantizes it."""
        dequantized = False
        while name in makers and makers[name].op_type in PASSING and makers[name].input:
            dequantized = dequantized or makers[name].op_type == "DequantizeLinear"
            name = makers[name].input[0]
        return name, dequantized

    computed: Counter[Precision] = Counter()
    stored: set[Precision] = {"int8"} if any(node.op_type == "DequantizeLinear" for node in model.graph.node) else set()
    for node in model.graph.node:
        index = WEIGHT_INPUT.get(node.op_type) or INTEGER_WEIGHT_INPUT.get(node.op_type)
        if index is None or len(node.input) <= index:
            continue
        source, dequantized = source_of(node.input[index])
        if source not in constants:
            continue  # a product of two activations
        kind = KINDS.get(constants[source])
        integers = dequantized or kind == "int8"
        if node.op_type in WEIGHT_INPUT and integers:
            kind = "int8" if dequantized and source_of(node.input[0])[1] else "fp32"
        if kind is None:
            raise Unsupported(
                f"{where} has weights of type {type_name(constants[source])}", f"estimates exist for models in {', '.join(PRECISIONS)}"
            )
        computed[kind] += 1
        stored.add("int8" if integers else kind)
    lowest: Precision = next((kind for kind in reversed(PRECISIONS) if kind in stored), "fp32")
    if not computed:
        return GraphPrecision("fp32", lowest)
    most, layers = computed.most_common(1)[0]
    others = ", ".join(f"{count} in {kind}" for kind, count in computed.items() if kind != most)
    note = f"{layers} of the {computed.total()} layers with weights compute in {most}, {others}: treated as {most}" if others else ""
    return GraphPrecision(most, lowest, note)
