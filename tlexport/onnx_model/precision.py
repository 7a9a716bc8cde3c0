"""The precision that a graph computes in, as its weights and its quantization show it."""

from __future__ import annotations

from collections import Counter
from typing import cast

import onnx
from onnx import TensorProto

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import Unsupported
from tlexport.onnx_model.tensors import type_name

# which input of a node holds its weights
WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "FusedConv": 1, "FusedGemm": 1, "FusedMatMul": 1}
WEIGHT_INPUT |= dict.fromkeys(("LSTM", "GRU", "RNN"), 1)
INTEGER_WEIGHT_INPUT = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
# what tensors go through before they are computed with
PASSING = ("DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Reshape", "Cast")


def precision_of(model: onnx.ModelProto, where: str) -> tuple[Precision, str]:
    """Precision that most of the weighted layers of a graph compute in, and a note where not all of them do.

    A layer computes in INT8 where both its weights and its input are integers, and in float where its weights alone are.

    Raises:
        Unsupported: weights of another type, such as BFLOAT16.
    """
    constants = {i.name: i.data_type for i in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    constants |= {
        node.output[0]: node.attribute[0].t.data_type
        for node in model.graph.node
        if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].HasField("t")
    }

    def origin(name: str) -> tuple[str, bool]:
        """Where a tensor comes from, and whether it was an integer on the way."""
        quantized = False
        while name in makers and makers[name].op_type in PASSING and makers[name].input:
            quantized = quantized or makers[name].op_type == "DequantizeLinear"
            name = makers[name].input[0]
        return name, quantized

    kinds = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8", TensorProto.UINT8: "int8"}
    counted: Counter[str] = Counter()
    for node in model.graph.node:
        place = WEIGHT_INPUT.get(node.op_type) or INTEGER_WEIGHT_INPUT.get(node.op_type)
        if place is None or len(node.input) <= place:
            continue
        source, quantized = origin(node.input[place])
        if source not in constants:
            continue  # a product of two activations
        kind = kinds.get(constants[source])
        if node.op_type in WEIGHT_INPUT and (quantized or kind == "int8"):
            kind = "int8" if quantized and origin(node.input[0])[1] else "fp32"
        if kind is None:
            raise Unsupported(
                f"{where} has weights of type {type_name(constants[source])}", f"estimates exist for models in {', '.join(PRECISIONS)}"
            )
        counted[kind] += 1
    return _most(counted)


def _most(counted: Counter[str]) -> tuple[Precision, str]:
    if not counted:
        return "fp32", ""
    kind, layers = counted.most_common(1)[0]
    others = ", ".join(f"{count} in {name}" for name, count in counted.items() if name != kind)
    note = f"{layers} of the {counted.total()} layers with weights compute in {kind}, {others}: it is taken for {kind}" if others else ""
    return cast(Precision, kind), note
