"""The first convolution on the pixels themselves: they are quantized already, 0..255, so that its INT8 form needs nothing before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.onnx_graph import constants, copy_of, readers_of, without_unused
from tlexport.ports import QuantizeRequest

CHAIN = ("Cast", "Transpose", "Mul", "Add", "Conv")  # from the image on, as the image contract has it in the graph
WHITE = 255


def on_pixels(request: QuantizeRequest) -> QuantizeRequest:
    """``Conv(pixels * scale + bias, W)`` -> ``Conv(framed pixels, W * scale)``, with the bias moved by ``W * bias``.

    The convolution pads with zeros, which before the normalisation are the mean's pixel; a frame of these, rounded to whole ones, goes
    around the image instead. That is half a 255th off at most, and quantizing normalised pixels is off by as much everywhere. The ranges
    of the result say that the convolution reads 0..255: quantizing that is no change, and :func:`without_quantization` takes it out.

    The request comes back as it is where the graph begins otherwise, its image is not of uint8, or that convolution stays in float.
    """
    if not _begins_so(request):
        return request
    model = copy_of(request.model)
    known = constants(model.graph)
    cast, turn, scaled, shifted, conv = _chain(model.graph)
    scale, bias = (numpy_helper.to_array(known[node.input[1]]).reshape(-1) for node in (scaled, shifted))
    weight = numpy_helper.to_array(known[conv.input[1]])
    before = numpy_helper.to_array(known[conv.input[2]]) if len(conv.input) > 2 else np.zeros(len(weight), np.float32)
    moved = before + (weight.astype(np.float64) * bias.reshape(1, -1, 1, 1)).sum((1, 2, 3))
    names = [f"{turn.output[0]}_{kind}" for kind in ("weight", "bias")]
    for name, value in zip(names, (weight * scale.reshape(1, -1, 1, 1), moved), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    colour = np.clip(np.rint(-bias / scale), 0, WHITE).astype(np.uint8)
    frame = _frame(model.graph, colour, _needed(conv, weight.shape[2:], _sides(model.graph)))
    conv.input[:] = [turn.output[0], *names]
    for attribute in conv.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0, 0, 0, 0]
    if frame:
        cast.input[0] = frame[-1].output[0]
    nodes = [*frame, *(node for node in model.graph.node if node not in (scaled, shifted))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
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
    """These nodes from the image on, whatever frame is around it; each is read by the next alone. Nothing where there are others."""
    readers = readers_of(graph)
    tensor = graph.input[0].name
    while [node.op_type for node in readers.get(tensor, [])][:1] == ["Concat"] or _asks_shape(readers.get(tensor, [])):
        tensor = next(node for node in readers[tensor] if node.op_type == "Concat").output[0]
    found: list[onnx.NodeProto] = []
    for operator in operators:
        following = readers.get(tensor, [])
        if [node.op_type for node in following] != [operator] or following[0].input[0] != tensor:
            return []
        found.append(following[0])
        tensor = following[0].output[0]
    return found


def _asks_shape(nodes: Sequence[onnx.NodeProto]) -> bool:
    return {node.op_type for node in nodes} == {"Shape", "Concat"}


def _begins_so(request: QuantizeRequest) -> bool:
    graph = request.model.graph
    chain = _chain(graph)
    if not chain or graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8 or request.activations != "uint8":
        return False
    conv, known = chain[-1], constants(graph)
    constant = all(name in known for node in chain for name in node.input[1:])
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    plain = values.get("auto_pad", b"NOTSET") == b"NOTSET" and set(values.get("dilations", [1])) == {1}
    return constant and plain and conv.name not in request.kept and all(_sides(graph))


def _sides(graph: onnx.GraphProto) -> tuple[int, int]:
    """Height and width of the image, pixels; 0 where one is free."""
    axes = [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim]
    return axes[1], axes[2]


def _needed(conv: onnx.NodeProto, kernel: Sequence[int], sides: Sequence[int]) -> tuple[int, int, int, int]:
    """Padding at the top, left, bottom and right that a convolution reads: with a stride, not always the last rows and columns."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    pads, strides = values.get("pads", [0] * 4), values.get("strides", [1, 1])
    ends = []
    for axis, length in enumerate(sides):
        steps = (length + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis]
        ends.append(max(0, steps * strides[axis] + kernel[axis] - length - pads[axis]))
    return pads[0], pads[1], ends[0], ends[1]


def _frame(graph: onnx.GraphProto, colour: npt.NDArray[np.uint8], pads: tuple[int, int, int, int]) -> list[onnx.NodeProto]:
    """Nodes that put a frame around images uint8 (image, height, width, channel); their constants go into the graph.

    Args:
        graph: its first input is the images.
        colour: of the frame, uint8 (channel,).
        pads: pixels at the top, left, bottom, right.
    """
    if not any(pads):
        return []
    image, (height, width), (top, left, bottom, right) = graph.input[0].name, _sides(graph), pads

    def constant(name: str, value: npt.ArrayLike) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    ends = [constant(f"frame_{end}", np.array([end], np.int64)) for end in (0, 1)]
    nodes = [
        helper.make_node("Shape", [image], ["frame_shape"], name="frame_shape"),
        helper.make_node("Slice", ["frame_shape", *ends], ["frame_images"], name="frame_images"),
    ]

    def strip(side: str, rows: int, columns: int) -> list[str]:
        if not rows * columns:
            return []
        name, shape = f"frame_{side}", np.array([rows, columns, len(colour)], np.int64)
        pixels = constant(f"{name}_pixels", np.broadcast_to(colour, (1, *shape)).copy())
        of_all = helper.make_node("Concat", ["frame_images", constant(f"{name}_sides", shape)], [f"{name}_of"], name=f"{name}_of", axis=0)
        nodes.extend((of_all, helper.make_node("Expand", [pixels, f"{name}_of"], [name], name=name)))
        return [name]

    rows = [*strip("top", top, width), image, *strip("bottom", bottom, width)]
    nodes.append(helper.make_node("Concat", rows, ["frame_rows"], name="frame_rows", axis=1))
    height += top + bottom
    columns = [*strip("left", height, left), "frame_rows", *strip("right", height, right)]
    nodes.append(helper.make_node("Concat", columns, ["frame_columns"], name="frame_columns", axis=2))
    return nodes
