"""Precision of a graph: read from its weights, whatever products of activations it has beside them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tlexport.errors import Unsupported
from tlexport.onnx_model.precision import precision_of

# two products of activations and two linear layers, as in a transformer's block
ATTENTION = """<ir_version: 9, opset_import: ["": 19]> g (float[1,4,8] x) => (float[1,4,8] y) {
    x1 = QuantizeLinear (x, s, z)  x2 = DequantizeLinear (x1, s, z)
    w2 = DequantizeLinear (w, s, z)
    q = MatMul (INPUT, WEIGHT)
    k = Transpose <perm=[0,2,1]> (q)
    scores = MatMul (q, k)  weights = Softmax <axis=-1> (scores)
    mixed = MatMul (weights, q)
    c = Cast <to=CAST> (mixed)  o = MatMul (c, v)  y = Cast <to=1> (o)
}"""


def attention(first: str, last: type) -> onnx.ModelProto:
    """Its first linear layer reads these two tensors; its last one has weights of this type."""
    activation, weight = first.split(",")
    cast = str(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(last)))
    model = onnx.parser.parse_model(ATTENTION.replace("INPUT", activation).replace("WEIGHT", weight).replace("CAST", cast))
    values = {"w": np.ones((8, 8), np.int8), "f": np.ones((8, 8), np.float32), "v": np.ones((8, 8), last)}
    values |= {"s": np.asarray(np.float32(0.01)), "z": np.asarray(np.int8(0))}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return model


def float_attention(last: type) -> onnx.ModelProto:
    model = attention("x,f", last)
    for node in [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]:
        model.graph.node.remove(node)
    return model


@pytest.mark.parametrize(
    ("model", "computed", "stored", "note"),
    [
        (float_attention(np.float32), "fp32", "fp32", ""),
        (float_attention(np.float16), "fp32", "fp16", "1 of the 2 layers with weights compute in fp32, 1 in fp16: treated as fp32"),
        (attention("x2,w2", np.float16), "int8", "int8", "1 of the 2 layers with weights compute in int8, 1 in fp16: treated as int8"),
        (attention("x,w2", np.float32), "fp32", "int8", ""),  # INT8 weights, float activations
    ],
)
def test_products_of_activations_do_not_count(model: onnx.ModelProto, computed: str, stored: str, note: str) -> None:
    onnx.checker.check_model(model, full_check=True)
    found = precision_of(model, "it")
    assert (found.computed, found.stored, found.note) == (computed, stored, note)


def test_a_graph_of_activations_alone_is_fp32() -> None:
    model = float_attention(np.float32)
    for node in [node for node in model.graph.node if node.input[1:2] in (["f"], ["v"])]:
        model.graph.node.remove(node)
    assert precision_of(model, "it").stored == "fp32"


def test_weights_of_another_type_are_named() -> None:
    model = float_attention(np.float64)
    with pytest.raises(Unsupported, match="it has weights of type DOUBLE"):
        precision_of(model, "it")
