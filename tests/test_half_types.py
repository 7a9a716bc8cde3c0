"""FP16 graphs: the image contract stays in FP32, and so do numbers that FP16 would round to 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from exports import run
from graphs import constants, consumers, noise, pairs, producers, request_for, small
from onnx import TensorProto, numpy_helper

from tlexport.export.compact import compact
from tlexport.export.tensorrt_graph import RuledGraph
from tlexport.export.tensorrt_rules import check_tensorrt
from tlexport.onnx_model.precision import precision_of
from tlexport.ports import QuantizeRequest
from tlexport.quantizers import fp16, int8_tensorrt

ORIN = (10, 3, 0)
STEP = float(np.finfo(np.float16).smallest_subnormal)
NORMAL = float(np.finfo(np.float16).smallest_normal)
Quantize = Callable[[QuantizeRequest], onnx.ModelProto]
QUANTIZERS = pytest.mark.parametrize("quantize", [fp16.quantize, int8_tensorrt.quantize], ids=["fp16", "int8"])


def scaled(opset: int = 20, **factors: float | np.ndarray) -> onnx.ModelProto:
    """The small classifier with constants multiplied."""
    model = small(opset)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            values = (numpy_helper.to_array(tensor) * factors[tensor.name]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


@QUANTIZERS
@pytest.mark.parametrize("opset", [19, 20])
def test_pixels_are_normalised_in_fp32(quantize: Quantize, opset: int) -> None:
    """Cast, Transpose, Mul and Add of the image contract come first; one cast to FP16 follows them."""
    model = compact(quantize(request_for(small(opset), noise(4))))
    graph = RuledGraph(model, ORIN)
    [node] = consumers(model, "image")
    kinds = [node.op_type]
    while graph.types[node.output[0]] == TensorProto.FLOAT:
        [node] = consumers(model, node.output[0])
        kinds.append(node.op_type)
    assert kinds == ["Cast", "Transpose", "Mul", "Add", "Cast"]
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 3  # from uint8, to FP16, back to FP32


def test_scales_of_channels_that_are_next_to_nothing() -> None:
    """Channels of the first weight that are 0, or that FP16 rounds to 0 or to a few steps, beside normal ones."""
    sizes = np.ones((16, 1, 1, 1))
    sizes[:4, 0, 0, 0] = 0, 1e-12, 1e-6, 1e-4
    model = scaled(w1=sizes)
    quantized = int8_tensorrt.quantize(request_for(model, noise(8)))
    check_tensorrt(quantized, ORIN)
    known, weights = constants(quantized), constants(model)
    for node in pairs(quantized):
        assert (known[node.input[1]] > 0).all(), node.name
    [conv] = [node for node in quantized.graph.node if node.name == "node_e"]
    weight = producers(quantized)[conv.input[1]]
    integers, scale = known[weight.input[0]].astype(np.float64), known[weight.input[1]].astype(np.float64)
    error = np.abs(integers * scale.reshape(-1, 1, 1, 1) - weights["w1"]).reshape(16, -1).max(axis=1)
    assert (error[:4] <= scale[:4] / 2 + 1e-12).all()  # by the scales that the graph has
    assert error[0] == 0
    assert scale[1] == STEP
    np.testing.assert_allclose(run(quantized, noise(8), as_written=True), run(model, noise(8)), atol=0.1)


@QUANTIZERS
@pytest.mark.parametrize("shrunk", [1e-3, 1e-5, 1e-8])
def test_activations_that_half_cannot_hold_stay_in_fp32(quantize: Quantize, shrunk: float) -> None:
    """The first convolution makes its images tiny and the classifier large again: what is between may not be lost."""
    model = scaled(w1=shrunk, b1=shrunk, b4=0, w4=1 / shrunk)
    made = quantize(request_for(model, noise(8)))
    check_tensorrt(made, ORIN)
    expected = run(model, noise(8))
    assert expected.std(axis=0).max() > 1e-4  # the images do get through
    np.testing.assert_allclose(run(made, noise(8), as_written=True), expected, atol=0.02)
    activations = [constants(made)[node.input[1]] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert all(scale >= NORMAL for scale in activations)


@QUANTIZERS
def test_a_layer_scale_of_a_millionth(quantize: Quantize) -> None:
    model = small()
    for node in model.graph.node:  # the residual sum adds its branch times a millionth
        if node.name == "node_n":
            node.input[0] = "scaled"
    at = [node.name for node in model.graph.node].index("node_n")
    model.graph.node.insert(at, onnx.helper.make_node("Mul", ["m", "gamma"], ["scaled"], name="node_scaled"))
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 16, 1, 1), 1e-6, np.float32), "gamma"))
    onnx.checker.check_model(model, full_check=True)
    made = quantize(request_for(model, noise(8)))
    check_tensorrt(made, ORIN)
    np.testing.assert_allclose(run(made, noise(8), as_written=True), run(model, noise(8)), atol=0.1)
    assert constants(made)["gamma"].dtype == np.float32


@QUANTIZERS
def test_a_network_that_lets_nothing_through(quantize: Quantize) -> None:
    """Weights of 0: every activation behind them is 0, which every type holds."""
    model = scaled(w1=0, b1=0)
    made = quantize(request_for(model, noise(4)))
    check_tensorrt(made, ORIN)
    np.testing.assert_allclose(run(made, noise(4), as_written=True), run(model, noise(4)), atol=0.01)
    assert precision_of(made, "it").stored == ("fp16" if quantize is fp16.quantize else "int8")
