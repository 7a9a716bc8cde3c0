"""Rewrites for ONNX Runtime's INT8 kernels: equivalent, and the input graph is not modified."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from exports import run
from onnx import numpy_helper

from tlexport.quantizers._cpu_form import BLOCK, normalise_in_one, pad_depthwise, swish_in_one


def graph(body: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A graph from ``x``, float (batch, 3, 6, 6), to ``y``; the weights are drawn."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[batch,3,6,6] x) => (float[batch,c,h,w] y) {{ {body} }}'
    )
    draw = np.random.default_rng(0)
    values = {name: draw.normal(0, 0.5, shape).astype(np.float32) for name, shape in weights.items()}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


PLANES = np.random.default_rng(1).normal(0, 2, (3, 3, 6, 6)).astype(np.float32)
EXPANDED = {"w1": (20, 3, 1, 1), "b1": (20,), "w2": (20, 1, 3, 3), "b2": (20,), "w3": (5, 20, 1, 1)}


def depthwise_channels(model: onnx.ModelProto) -> list[int]:
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [dims[node.input[1]][0] for node in convolutions if dims[node.input[1]][1] == 1 and dims[node.input[1]][0] > 1]


# one of each thing that may stand between the two convolutions around a depthwise one
BETWEEN = {
    "nothing": "e = Identity (d)",
    "relu": "e = Relu (d)",
    "swish": "s = Sigmoid (d) e = Mul (d, s)",
    "squeeze and excitation": (
        "p = GlobalAveragePool (d) q = Conv (p, w4) r = Relu (q) s = Conv (r, w5) t = HardSigmoid (s) e = Mul (d, t)"
    ),
    "a sum": "s = Relu (d) e = Add (s, b)",
    "pooling": "e = MaxPool <kernel_shape=[2,2]> (d)",
}


@pytest.mark.parametrize("between", [name for name in BETWEEN if name != "nothing"])
def test_padding_computes_the_same(between: str) -> None:
    weights = EXPANDED | ({"w4": (6, 20, 1, 1), "w5": (20, 6, 1, 1)} if "excitation" in between else {})
    body = f"a = Conv (x, w1, b1) b = HardSwish (a) d = Conv <group=20, pads=[1,1,1,1]> (b, w2, b2) {BETWEEN[between]} y = Conv (e, w3)"
    model = graph(body, **weights)
    before = model.SerializeToString(deterministic=True)
    padded = pad_depthwise(model)
    assert depthwise_channels(padded) == [32]
    onnx.checker.check_model(padded, full_check=True)
    np.testing.assert_allclose(run(padded, PLANES), run(model, PLANES), atol=1e-5)
    assert model.SerializeToString(deterministic=True) == before


def test_channels_that_fill_blocks_stay() -> None:
    weights = {"w1": (BLOCK, 3, 1, 1), "w2": (BLOCK, 1, 3, 3), "w3": (5, BLOCK, 1, 1)}
    model = graph(f"a = Conv (x, w1) d = Conv <group={BLOCK}> (a, w2) y = Conv (d, w3)", **weights)
    assert depthwise_channels(pad_depthwise(model)) == [BLOCK]


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv (x, w1, b1) d = Conv <group=20> (a, w2, b2) y = Relu (d)",  # they are the answer
        "a = Conv (x, w1, b1) d = Conv <group=20> (a, w2, b2) e = Softmax <axis=1> (d) y = Conv (e, w3)",  # depends on all channels
        "a = Conv (x, w1, b1) d = Conv <group=20> (a, w2, b2) c = Concat <axis=1> (d, d) e = Slice (c, from, to, axes) y = Conv (e, w3)",
        "a = Conv (x, w1, b1) d = Conv <group=20> (a, w2, b2) e = Mul (d, k) y = Conv (e, w3)",  # a factor of each channel
    ],
)
def test_channels_that_others_see_stay(body: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[batch,3,6,6] x) => (float[batch,c,h,w] y) {{ {body} }}'
    )
    draw = np.random.default_rng(0)
    constants: dict[str, Any] = {name: draw.normal(0, 0.5, shape).astype(np.float32) for name, shape in EXPANDED.items()}
    constants |= {"k": draw.normal(size=(1, 20, 1, 1)).astype(np.float32)}
    constants |= {name: np.array([value], np.int64) for name, value in (("from", 0), ("to", 20), ("axes", 1))}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items() if name in body)
    model = onnx.shape_inference.infer_shapes(model)
    padded = pad_depthwise(model)
    assert depthwise_channels(padded) == [20]
    np.testing.assert_array_equal(run(padded, PLANES), run(model, PLANES))


@pytest.mark.parametrize("order", ["Mul (x, s)", "Mul (s, x)"])
def test_a_swish_is_one_node(order: str) -> None:
    model = graph(f"s = Sigmoid (x) y = {order}")
    one = swish_in_one(model)
    assert [(node.domain, node.op_type) for node in one.graph.node] == [("com.microsoft", "QuickGelu")]
    np.testing.assert_allclose(run(one, PLANES), run(model, PLANES), atol=1e-6)
    assert [node.op_type for node in model.graph.node] == ["Sigmoid", "Mul"]


def test_of_several_swishes_only_those_that_are_asked_for_are_one_node() -> None:
    model = graph("s = Sigmoid (x) a = Mul (x, s) t = Sigmoid (a) y = Mul (a, t)")
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    one = swish_in_one(model, {"node_y", "node_t"})
    assert [node.op_type for node in one.graph.node] == ["Sigmoid", "Mul", "QuickGelu"]
    np.testing.assert_allclose(run(one, PLANES), run(model, PLANES), atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid (x) z = Relu (x) y = Mul (z, s)",  # a gate, but of something else
        "s = Sigmoid (x) z = Mul (x, s) y = Add (z, s)",  # the gate is read again
        "s = Sigmoid (x) y = Mul (s, s)",
    ],
)
def test_other_gates_stay(body: str) -> None:
    model = graph(body)
    one = swish_in_one(model)
    assert [node.op_type for node in one.graph.node] == [node.op_type for node in model.graph.node]
    np.testing.assert_array_equal(run(one, PLANES), run(model, PLANES))


CHANNELS = {"k": (1, 3, 1, 1), "l": (1, 3, 1, 1)}


@pytest.mark.parametrize("body", ["a = Mul (x, k) y = Add (a, l)", "a = Mul (k, x) y = Add (l, a)"])
def test_a_normalisation_is_one_node(body: str) -> None:
    model = graph(body, **CHANNELS)
    one = normalise_in_one(model)
    assert [node.op_type for node in one.graph.node] == ["BatchNormalization"]
    onnx.checker.check_model(one, full_check=True)
    np.testing.assert_allclose(run(one, PLANES), run(model, PLANES), atol=1e-6)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Add"]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("a = Mul (x, k) y = Add (a, x)", {"k": (1, 3, 1, 1)}),  # nothing constant is added
        ("a = Mul (x, k) y = Add (a, l)", {"k": (1, 1, 1, 6), "l": (1, 3, 1, 1)}),  # a factor of each column
        ("a = Mul (x, k) y = Add (a, l)", {"k": (1, 1, 1, 1), "l": (1, 3, 1, 1)}),  # one for all
        ("a = Mul (x, k) b = Add (a, l) y = Mul (a, b)", CHANNELS),  # the product is read again
    ],
)
def test_other_products_and_sums_stay(body: str, weights: dict[str, tuple[int, ...]]) -> None:
    model = graph(body, **weights)
    one = normalise_in_one(model)
    assert [node.op_type for node in one.graph.node] == [node.op_type for node in model.graph.node]
    np.testing.assert_array_equal(run(one, PLANES), run(model, PLANES))
