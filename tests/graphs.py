"""A small classifier as a graph, and queries for tests of quantized graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from tlexport.export.ranges import Ranges
from tlexport.export.rewrite import with_kernel_shapes
from tlexport.ports import QuantizeRequest

Nodes = list[onnx.NodeProto]


def request_for(model: onnx.ModelProto, samples: Any, activations: Any = "int8") -> QuantizeRequest:
    return QuantizeRequest(model, Ranges(model, samples).whole, activations)


def small(opset: int = 17) -> onnx.ModelProto:
    """A small untrained classifier with the usual blocks: squeeze-and-excitation, depthwise, residual, linear."""
    draw = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (uint8[batch,8,8,3] image) => (float[batch,5] probabilities) {{
            a = Cast <to=1> (image)  b = Transpose <perm=[0,3,1,2]> (a)  c = Mul (b, scale)  d = Add (c, bias)
            e = Conv <pads=[1,1,1,1]> (d, w1, b1)  f = HardSwish (e)
            s = GlobalAveragePool (f)  t = Conv (s, w2)  u = HardSigmoid (t)  h = Mul (f, u)
            k = Conv <group=16, pads=[1,1,1,1]> (h, w3)  l = Relu (k)  m = Conv (l, w2)  n = Add (m, h)
            o = GlobalAveragePool (n)  p = Flatten (o)  q = Gemm <transB=1> (p, w4, b4)  probabilities = Softmax <axis=1> (q)
        }}"""
    )
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 1, 1), "w3": (16, 1, 3, 3), "w4": (5, 16), "b4": (5,)}
    values = {name: draw.normal(0, 0.3, shape) for name, shape in shapes.items()}
    values |= {"scale": np.full((1, 3, 1, 1), 1 / 64), "bias": np.full((1, 3, 1, 1), -2.0)}
    return completed(model, values)


def completed(model: onnx.ModelProto, values: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """A graph with its constants as float32, names of its nodes, and what the export writes on convolutions; checked."""
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items())
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    model = with_kernel_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def noise(count: int, largest: int = 256) -> Any:
    return np.random.default_rng(1).integers(0, largest, (count, 8, 8, 3)).astype(np.uint8)


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def consumers(model: onnx.ModelProto, name: str) -> Nodes:
    return [node for node in model.graph.node if name in node.input]


def pairs(model: onnx.ModelProto) -> Nodes:
    return [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
