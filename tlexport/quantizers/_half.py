"""Assigns types: FP16 where its range suffices, FP32 elsewhere, with a cast at each border."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.errors import StepFailed
from tlexport.onnx_model.graph import without_unused
from tlexport.ports import WEIGHTED, Range

LARGEST = float(np.finfo(np.float16).max)
NORMAL = float(np.finfo(np.float16).smallest_normal)  # 2**-14; smaller values have fewer than 11 bits, and their reciprocals may overflow
STEP = float(np.finfo(np.float16).smallest_subnormal)  # 2**-24
NEAR = LARGEST / 2  # a margin for images outside the calibration set
QDQ_OPERATORS = ("QuantizeLinear", "DequantizeLinear")
STARTS = (*WEIGHTED, *QDQ_OPERATORS)
FACTORS = (*WEIGHTED, "Mul")  # multiply by a constant: if all of it is below NORMAL, rounding changes the whole product


def near_overflow(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> set[str]:
    """First outputs of the nodes that stay in FP32 because their values are near FP16's largest."""
    large = {name for name, (low, high) in ranges.items() if max(-low, high) > NEAR}
    return _beside(model, large)


def near_zero(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> set[str]:
    """First outputs of the nodes that stay in FP32 because all values of a tensor are below FP16's smallest normal number."""
    largest = {name: max(-low, high) for name, (low, high) in ranges.items()}
    factors = {name for node in model.graph.node if node.op_type in FACTORS for name in node.input[:2]}
    for tensor in model.graph.initializer:
        if tensor.name in factors and tensor.data_type == TensorProto.FLOAT:
            largest[tensor.name] = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
    return _beside(model, {name for name, value in largest.items() if 0 < value < NORMAL})


def _beside(model: onnx.ModelProto, tensors: set[str]) -> set[str]:
    return {node.output[0] for node in _inside(model) if tensors & {*node.input, *node.output}}


def half(model: onnx.ModelProto, float_nodes: Collection[str] = ()) -> onnx.ModelProto:
    """FP32 graph, with or without Q/DQ pairs -> FP16 from the first weighted node up to the softmax; inputs and outputs keep their types.

    Args:
        model: not changed.
        float_nodes: first outputs of other nodes that stay in FP32, besides those at the borders.

    Raises:
        StepFailed: a weight is not finite or exceeds FP16's range, or an operator has no FP16 form.
    """
    result = onnx.shape_inference.infer_shapes(model)
    graph = result.graph
    halved = {node.output[0] for node in _inside(result)} - set(float_nodes)
    values = (*graph.value_info, *graph.input, *graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    types: dict[str, int] = {}  # of float activations, as produced
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        wanted = TensorProto.FLOAT16 if node.output[0] in halved else TensorProto.FLOAT
        for place, name in enumerate(node.input):
            if name in weights and wanted == TensorProto.FLOAT16:
                node.input[place] = _halved(graph, weights[name])
            elif name in floats and types.get(name, TensorProto.FLOAT) != wanted:
                node.input[place] = cast = f"{name}_{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
                if cast not in types:
                    nodes.append(helper.make_node("Cast", [name], [cast], name=f"{cast}_cast", to=wanted))
                    types[cast] = wanted
        types |= dict.fromkeys((name for name in node.output if name in floats), wanted)
        nodes.append(node)
    whole = helper.make_graph(nodes, graph.name, graph.input, graph.output, graph.initializer)
    result.graph.CopyFrom(whole)
    result = without_unused(result)
    try:
        return onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise StepFailed(f"the graph cannot be expressed in FP16: {str(error).strip().splitlines()[0]}") from error


def _inside(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that quantize or dequantize a weight, and those from the first weighted or quantized activation to the softmax.

    The order of a graph's nodes may put the pairs of its weights before the image contract, which stays in FP32.
    """
    nodes = list(model.graph.node)
    of_weights = {tensor.name for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type in QDQ_OPERATORS and node.input[0] in of_weights:
            of_weights.add(node.output[0])
    first = next((i for i, node in enumerate(nodes) if node.op_type in STARTS and node.output[0] not in of_weights), None)
    last = next((i for i, node in enumerate(nodes) if node.op_type == "Softmax" and node.output[0] == model.graph.output[0].name), None)
    if first is None or last is None:
        raise StepFailed("the graph is not a classifier of ours: no weighted node, or no softmax at its output")
    return [node for i, node in enumerate(nodes) if first <= i < last or node.output[0] in of_weights]


def _halved(graph: onnx.GraphProto, tensor: TensorProto) -> str:
    """Name of the FP16 copy of a constant."""
    name = f"{tensor.name}_fp16"
    if all(known.name != name for known in graph.initializer):
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
            raise StepFailed(f"{tensor.name} holds values that FP16 cannot hold (largest is {LARGEST:.0f})", "export with --precision fp32")
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
    return name
