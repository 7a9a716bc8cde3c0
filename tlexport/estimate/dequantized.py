"""A graph as it was before its precision was lowered: the work that runtimes with fusions of their own see in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.ports import Array

FP32_OR_FP16 = (TensorProto.FLOAT, TensorProto.FLOAT16)
INTEGERS = (TensorProto.UINT8, TensorProto.INT8)


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without Q/DQ pairs, casts between FP16 and FP32, and constants of either kind: the same layers, all in FP32.

    An activation that only the range of a Q does goes with it: fused into its convolution it costs nothing. Left as it was, the graph would
    hold more than it costs: ONNX Runtime's CPU provider takes what it has no FP16 kernel for apart, which no device that has one does.
    Zeros that an INT8 graph for CPUs multiplies by stay: channels, and what the first convolution's filters are filled up with.

    Args:
        model: with fixed shapes; it is not changed. One in FP32 comes back as it is.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    lowered = any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
    if not lowered and all(node.op_type != "DequantizeLinear" for node in graph.node):
        return model
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    same: dict[str, str] = {}  # what a tensor is without what lowers its precision
    pixels = {value.name for value in graph.input if types[value.name] in INTEGERS}  # and what is made of them: no Q gave them
    weights = {
        name: numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name)
        if tensor.data_type == TensorProto.FLOAT16
        else tensor
        for name, tensor in constants.items()
    }
    nodes = []
    for node in graph.node:
        inputs = [same.get(name, name) for name in node.input]
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights[node.output[0]] = numpy_helper.from_array(_dequantized(node, constants), node.output[0])
        elif node.op_type == "DequantizeLinear" and inputs[0] in pixels:
            nodes.append(helper.make_node("Cast", [inputs[0]], [node.output[0]], name=node.name, to=TensorProto.FLOAT))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") or _between_floats(node, types):
            same[node.output[0]] = inputs[0]
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            nodes.append(copy)
            if pixels & set(inputs):
                pixels |= {name for name in node.output if types.get(name) in INTEGERS}
    for value in graph.output:  # one that a cast or a DQ gives keeps its name
        if value.name in same:
            nodes.append(helper.make_node("Identity", [same[value.name]], [value.name], name=f"{value.name}_same"))
    read = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in weights.items() if name in read]
    whole = helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), kept)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.CopyFrom(whole)
    for value in (*result.graph.input, *result.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return result


def _between_floats(node: onnx.NodeProto, types: Mapping[str, int]) -> bool:
    return node.op_type == "Cast" and types.get(node.input[0]) in FP32_OR_FP16 and types.get(node.output[0]) in FP32_OR_FP16


def _dequantized(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Array:
    """A weight as DequantizeLinear gives it (ONNX standard), float32."""
    values, scale, *zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input if name)
    if scale.ndim:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if place == axis % values.ndim else 1 for place in range(values.ndim)]
        scale, zero = scale.reshape(shape), [point.reshape(shape) for point in zero]
    return np.asarray((values - (zero[0] if zero else 0)) * scale, np.float32)
