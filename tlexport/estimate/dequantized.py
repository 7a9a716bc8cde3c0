"""Restores the FP32 form of a graph of lower precision: the layers that a runtime with its own fusions works on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.ports import Array

FP32_OR_FP16 = (TensorProto.FLOAT, TensorProto.FLOAT16)
INTEGERS = (TensorProto.UINT8, TensorProto.INT8)


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same layers in FP32, without Q/DQ pairs and casts between FP16 and FP32; constants are converted.

    An activation that a Q implements by its range alone disappears with the Q: fused into its convolution, it costs nothing. The
    original graph would be overestimated: ONNX Runtime's CPU provider decomposes operators without an FP16 kernel. Zero padding in
    the weights of an INT8 graph for CPUs (channels, filters of the first convolution) stays.

    Args:
        model: a graph with fixed shapes; it is not changed. An FP32 graph is returned unchanged.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    lowered = any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
    if not lowered and all(node.op_type != "DequantizeLinear" for node in graph.node):
        return model
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    same: dict[str, str] = {}  # tensor name -> name of its FP32 equivalent
    pixels = {
        value.name for value in graph.input if types[value.name] in INTEGERS
    }  # constants and tensors computed from them: no Q produced them
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
    for value in graph.output:  # an output of a cast or a DQ keeps its name
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
    """A dequantized weight, computed as by DequantizeLinear (ONNX standard), float32."""
    values, scale, *zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input if name)
    if scale.ndim:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if place == axis % values.ndim else 1 for place in range(values.ndim)]
        scale, zero = scale.reshape(shape), [point.reshape(shape) for point in zero]
    return np.asarray((values - (zero[0] if zero else 0)) * scale, np.float32)
