"""Applies the first INT8 convolution to the raw pixels, which are already quantized (0..255)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.onnx_model.graph import constants, copy_of, readers_of, without_unused
from tlexport.ports import QuantizeRequest
from tlexport.quantizers._frame import BLOCKS, FRAMED, sides_of, without_padding

CHAIN = ("Cast", "Transpose", "Mul", "Add", "Conv")  # the image contract in the graph, from the image on
WHITE = 255


def on_pixels(request: QuantizeRequest) -> QuantizeRequest:
    """``Conv(pixels * scale + bias, W)`` -> ``Conv(framed pixels, W * scale)``, with the bias moved by ``W * bias``.

    The convolution pads with zeros, which before the normalisation are the mean's pixel; a frame of these, rounded to whole ones, goes
    around the image instead. That is half a 255th off at most, and quantizing normalised pixels is off by as much everywhere. The ranges
    of the result say that the convolution reads 0..255: quantizing that is no change, and :func:`without_quantization` takes it out.

    Returns the request unchanged if the graph begins otherwise, its image is not uint8, or the convolution stays in float.
    """
    if not _begins_so(request):
        return request
    model = copy_of(request.model)
    graph, known = model.graph, constants(model.graph)
    cast, turn, scaled, shifted, conv = _chain(graph)
    scale, bias = (numpy_helper.to_array(known[node.input[1]]).reshape(-1) for node in (scaled, shifted))
    weight = numpy_helper.to_array(known[conv.input[1]])
    before = numpy_helper.to_array(known[conv.input[2]]) if len(conv.input) > 2 else np.zeros(len(weight), np.float32)
    moved = before + (weight.astype(np.float64) * bias.reshape(1, -1, 1, 1)).sum((1, 2, 3))
    colour = np.clip(np.rint(-bias / scale), 0, WHITE).astype(np.uint8)
    nodes, weight, strides = without_padding(graph, colour, conv, weight * scale.reshape(1, -1, 1, 1))
    names = [f"{turn.output[0]}_{kind}" for kind in ("weight", "bias")]
    for name, value in zip(names, (weight, moved), strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    inputs, shape = [turn.output[0], *names], weight.shape[2:]
    conv.CopyFrom(helper.make_node("Conv", inputs, list(conv.output), conv.name, kernel_shape=shape, strides=strides))
    if nodes:
        cast.input[0] = nodes[-1].output[0]
    nodes += [node for node in graph.node if node not in (scaled, shifted)]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(without_unused(model))
    return replace(request, model=inferred, ranges={**request.ranges, turn.output[0]: (0.0, float(WHITE))})


def without_quantization(model: onnx.ModelProto) -> onnx.ModelProto:
    """``Cast``, ``Transpose`` and ``QuantizeLinear`` of scale 1 and zero point 0 from uint8 pixels on -> ``Transpose`` alone."""
    result = copy_of(model)
    known = constants(result.graph)
    chain = _chain(result.graph, ("Cast", "Transpose", "QuantizeLinear"))
    if not chain or result.graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return result
    cast, turn, quantized = chain
    scale, zero = (numpy_helper.to_array(known[name]) for name in quantized.input[1:3])
    if scale == 1 and zero == 0 and zero.dtype == np.uint8:
        turn.input[0], turn.output[0] = cast.input[0], quantized.output[0]
        for node in (cast, quantized):
            result.graph.node.remove(node)
        del result.graph.value_info[:]
    return without_unused(result)


def _chain(graph: onnx.GraphProto, operators: Sequence[str] = CHAIN) -> list[onnx.NodeProto]:
    """The chain of these nodes from the pixels on, with or without padding and blocks; empty if the graph differs."""
    readers = readers_of(graph)
    tensor = next((name for name in (BLOCKS, FRAMED) if name in readers), graph.input[0].name)
    found: list[onnx.NodeProto] = []
    for operator in operators:
        following = readers.get(tensor, [])
        if [node.op_type for node in following] != [operator] or following[0].input[0] != tensor:
            return []
        found.append(following[0])
        tensor = following[0].output[0]
    return found


def _begins_so(request: QuantizeRequest) -> bool:
    graph = request.model.graph
    chain = _chain(graph)
    if not chain or graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8 or request.activations != "uint8":
        return False
    conv, known = chain[-1], constants(graph)
    constant = all(name in known for node in chain for name in node.input[1:])
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    plain = values.get("auto_pad", b"NOTSET") == b"NOTSET" and set(values.get("dilations", [1])) == {1} and values.get("group", 1) == 1
    return constant and plain and conv.name not in request.float_nodes and all(sides_of(graph))
