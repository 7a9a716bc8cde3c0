"""Writes one scale for each output channel of a weight where ONNX Runtime's quantizer wrote one for the whole tensor.

It would write them itself, channel by channel: half a second for a small network, of which the search for what stays in float makes
dozens. Here a tensor is quantized at once, to the same values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.onnx_model.graph import constants, copy_of, without_unused
from tlexport.ports import WEIGHTED
from tlexport.quantizers._half import NORMAL, STEP

LARGEST = 127  # weights are symmetric: -128 is not used
BIAS_LIMIT = float(np.iinfo(np.int32).max) / 1.0001  # a bias is 32 bits in units of input scale times weight scale
PARTS = ("quantized", "scale", "zero_point")
Float32Array = npt.NDArray[np.float32]


def per_channel(model: onnx.ModelProto, original: onnx.ModelProto, half_scales: bool = False) -> None:
    """Requantize the weights and biases of a QDQ graph, in place.

    Args:
        model: with INT8 weights that are dequantized with one scale each, biases as 32 bit integers or as floats.
        original: FP32; its weighted nodes have the same names.
        half_scales: the scales are stored in FP16.
    """
    known, values = constants(model.graph), constants(original.graph)
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    before = {node.name: node for node in original.graph.node}
    for node in model.graph.node:
        pair = makers.get(node.input[1]) if node.op_type in WEIGHTED else None
        if pair is None or pair.input[0] not in known:
            continue
        weight = numpy_helper.to_array(values[before[node.name].input[1]])
        axis = _axis(node, weight)
        scale = _in_half_steps(_scale(weight, axis)) if half_scales else _scale(weight, axis)
        biased = makers.get(node.input[2]) if len(node.input) > 2 else None
        if biased is not None:
            bias = numpy_helper.to_array(values[before[node.name].input[2]])
            step = numpy_helper.to_array(known[makers[node.input[0]].input[1]])
            scale = np.maximum(scale, np.abs(bias) / (BIAS_LIMIT * step)).astype(np.float32)
            unit = (step * scale).astype(np.float32)
            _put(known, biased, np.round(bias / unit.astype(np.float64)).astype(np.int32), unit, 0)
        _put(known, pair, _rounded(weight, scale, axis), scale, axis)


def weight_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """FP32 graph -> the same with INT8 weights that are dequantized before use: a quarter of the size, computed in float.

    Covers matrix products and convolutions. Does not change the given graph.
    """
    result = copy_of(model)
    known = constants(result.graph)
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in result.graph.node:
        name = node.input[1] if node.op_type in WEIGHTED else ""
        if name in known and known[name].data_type == TensorProto.FLOAT:
            pair = helper.make_node("DequantizeLinear", [f"{name}_{part}" for part in PARTS], [f"{name}_float"], name=f"{name}_dequantize")
            if name not in done:
                weight = numpy_helper.to_array(known[name])
                axis = _axis(node, weight)
                scale = _scale(weight, axis)
                parts = {part: TensorProto() for part in pair.input}
                _put(parts, pair, _rounded(weight, scale, axis), scale, axis)
                result.graph.initializer.extend(parts.values())
                nodes.append(pair)
                done.add(name)
            node.input[1] = pair.output[0]
        nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return without_unused(result)


def _rounded(weight: Float32Array, scale: Float32Array, axis: int) -> npt.NDArray[np.int8]:
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
    return np.clip(np.round(weight / scale.reshape(shape)), -LARGEST, LARGEST).astype(np.int8)


def _axis(node: onnx.NodeProto, weight: npt.NDArray[np.generic]) -> int:
    """The output-channel axis of a weight."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else weight.ndim - 1


def _scale(weight: Float32Array, axis: int) -> Float32Array:
    """The scale of each channel, (channel,), as in ONNX Runtime's quantizer: 1 for a channel of zeros."""
    largest = np.abs(weight).max(axis=tuple(place for place in range(weight.ndim) if place != axis))
    scale = (2.0 * largest.astype(np.float64) / (2 * LARGEST)).astype(np.float32)
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)


def _in_half_steps(scale: Float32Array) -> Float32Array:
    """Scales below FP16's least normal number, rounded up to multiples of its step there: none becomes 0, and weights are rounded by the
    scale that the graph has. A weight keeps the resolution that it has in FP16, whose step there is the same.
    """
    rounded = (np.ceil(scale / STEP) * STEP).astype(np.float32)
    return np.where(scale < NORMAL, rounded, scale)


def _put(known: dict[str, TensorProto], pair: onnx.NodeProto, quantized: npt.NDArray[np.generic], scale: Float32Array, axis: int) -> None:
    """Values, scales and zero points of a node's dequantized tensor."""
    contents = (quantized, scale.astype(np.float32), np.zeros(len(scale), quantized.dtype))
    for name, content in zip(pair.input, contents, strict=True):
        known[name].CopyFrom(numpy_helper.from_array(content, name))
    del pair.attribute[:]
    pair.attribute.append(helper.make_attribute("axis", axis))
