"""INT8 for TensorRT: explicit QDQ for its parser and fusions. This graph is slow on a CPU."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType

from tlexport.onnx_model.graph import constants, without_unused
from tlexport.ports import TYPED_SCALES, QuantizeRequest
from tlexport.quantizers._half import NORMAL, half, near_overflow, near_zero
from tlexport.quantizers._per_channel import LARGEST
from tlexport.quantizers._static import quantize_int8

PRECISION = "int8"
METHOD = "static, explicit QDQ for TensorRT: symmetric int8, per-channel weights, float bias, quantized skips"

# where ModelOpt 0.47 puts its pairs: on what a convolution, a hard swish and a global pool read, on both factors of a squeeze and
# excitation, and on what a residual sum adds to its convolution. The classifier's Gemm stays in float: a matrix-vector product at batch 1
QUANTIZED = ("Conv", "HardSwish", "GlobalAveragePool", "Mul", "Add")
# TensorRT's parser refuses zero points other than 0 and quantized biases; its fusions want Q/DQ on the inputs of weighted
# layers, nothing between a convolution and its activation, and no quantized outputs (developer guide, explicit quantization)
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": False,  # int8 weights and a DequantizeLinear: a quarter of the file
    "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
    "QDQKeepRemovableActivations": True,
    "DedicatedQDQPair": False,
}
GATES = ("Sigmoid", "HardSigmoid")


def quantize(request: QuantizeRequest) -> onnx.ModelProto:
    """FP32 graph -> convolutions in INT8, with the pairs that let TensorRT fuse the ops around them.

    What is not INT8 is FP16 from opset 19 on, scales included: a strongly typed network takes the type of what is dequantized from its
    scale. Below, where a scale is always FP32, it is FP32, and the builder is allowed to choose.
    """
    model = request.model
    typed = model.opset_import[0].version >= TYPED_SCALES
    in_fp32 = near_zero(model, request.ranges) if typed else set()
    if typed:
        request = replace(request, float_nodes=request.float_nodes | _too_small(request, in_fp32))
    makers = {name: node for node in model.graph.node for name in node.output}
    straight = {node.name: name for node in model.graph.node if (name := _own_result(node, makers, request.float_nodes))}
    float_nodes = [node.name for node in model.graph.node if _stays(node, makers, straight)]
    quantized = _added_as_it_is(quantize_int8(request, QuantType.QInt8, QUANTIZED, OPTIONS, float_nodes, half_scales=typed), straight)
    if request.float_weights:
        quantized = _float_weights(quantized)
    return half(quantized, in_fp32 | near_overflow(model, request.ranges)) if typed else quantized


def _too_small(request: QuantizeRequest, in_fp32: Collection[str]) -> set[str]:
    """Names of the nodes in FP32, and of those that read activations with scales below FP16's smallest normal number.

    Such a scale has few bits, its reciprocal may overflow, and what rounds to 0 the parser refuses ("Scale coefficients must all be
    positive"). A convolution stays in float with the sum that it is fused to.
    """
    nodes = request.model.graph.node
    small = {name for name, (low, high) in request.ranges.items() if 0 < max(-low, high) < LARGEST * NORMAL}
    found = [node for node in nodes if node.output[0] in in_fp32 or small & {*node.input}]
    added = {name for node in found if node.op_type == "Add" for name in node.input}
    return {node.name for node in found} | {node.name for node in nodes if node.op_type == "Conv" and node.output[0] in added}


def _stays(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], straight: dict[str, str]) -> bool:
    """Ops kept in float: non-residual adds, multiplies outside squeeze-and-excitation (such as a swish), hard swish in the classifier."""
    if node.op_type == "HardSwish":
        return node.input[0] not in makers or makers[node.input[0]].op_type != "Conv"
    if node.op_type == "Add":
        return node.name not in straight
    if node.op_type != "Mul":
        return False
    gates = [makers[name] for name in node.input if name in makers and makers[name].op_type in GATES]
    return not gates or gates[0].input[0] in node.input


def _own_result(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], float_nodes: Collection[str]) -> str | None:
    """The input that a residual sum is fused with: the last one that comes directly from an INT8 convolution."""
    if node.op_type != "Add" or any(name not in makers for name in node.input):
        return None
    results = [name for name in node.input if makers[name].op_type == "Conv" and makers[name].name not in float_nodes]
    return max(results, key=list(makers).index, default=None)


def _added_as_it_is(model: onnx.ModelProto, straight: dict[str, str]) -> onnx.ModelProto:
    """Let residual sums read the unquantized result of their convolution, and remove unused pairs. Changes the given graph."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in straight:
            for place, name in enumerate(node.input):
                pair = makers[name]
                if pair.op_type == "DequantizeLinear" and makers[pair.input[0]].input[0] == straight[node.name]:
                    node.input[place] = straight[node.name]
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in read]:
            graph.node.remove(node)
    return without_unused(model)


def _float_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store each INT8 weight as its FP32 values, with a Q before its DQ. Changes the given graph.

    Each value is a multiple of its scale, so every runtime quantizes it to the same integer.
    """
    graph = model.graph
    known = constants(graph)
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            tensor = known[node.input[0]]
            integers, scale = numpy_helper.to_array(tensor), numpy_helper.to_array(known[node.input[1]])
            axis = helper.get_node_attr_value(node, "axis")
            shape = [-1 if place == axis else 1 for place in range(integers.ndim)]
            name = f"{tensor.name}_float"
            graph.initializer.append(numpy_helper.from_array(integers * scale.reshape(shape), name))
            integer = f"{node.output[0]}_quantized"
            nodes.append(helper.make_node("QuantizeLinear", [name, *node.input[1:]], [integer], name=f"{node.name}_quantize", axis=axis))
            node.input[0] = integer
        nodes.append(node)
    whole = helper.make_graph(nodes, graph.name, graph.input, graph.output, graph.initializer)
    model.graph.CopyFrom(whole)
    return without_unused(model)
