"""ONNX graphs of the kinds that external tools write, parsed from text: functions, cycles, nested bodies, recurrences."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

X = "float[1,4] x"
LOOP_CYCLE = "c = Constant<value_int=1>()\nn = Constant<value_int=3>()\np = Add(q, x)\nq = Identity(p)\ny = Identity(q)"
BODY = "<then_branch = t () => (float[1,4] o) { o = Abs(x) }, else_branch = e () => (float[1,4] p) { p = Neg(x) }>"


def parsed(inputs: str, body: str, outputs: str = "float[1,4] y", functions: str = "", opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": {opset}, "local": 1]>\nnet ({inputs}) => ({outputs}) {{\n{body}\n}}\n{functions}'
    return onnx.parser.parse_model(text)


def function(name: str, body: str) -> str:
    return f'<domain: "local", opset_import: ["": 17, "local": 1]> {name} (a) => (b) {{ {body} }}\n'


def recurrent(operator: str, gates: int) -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    arrays = {"w": (1, gates * 8, 4), "r": (1, gates * 8, 8)}
    weights = [numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), name) for name, shape in arrays.items()]
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=8)
    values = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [20, 1, 4]), ("y", [20, 1, 1, 8]))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
