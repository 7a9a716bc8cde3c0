"""Rewrites into the form in which ONNX Runtime's INT8 kernels are fast. Each computes the same function and does not change its input.

What each gains was measured with ONNX Runtime 1.31 on AVX512-VNNI, one thread (benchmarks/quantization.py).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tlexport.onnx_model.graph import ChannelGroups, Channels, constants, copy_of, readers_of, shapes_of, without_unused

BLOCK = 16  # channels that its INT8 depthwise kernel computes at once; remaining channels are three to four times slower
VENDOR = "com.microsoft"  # domain of the operators of ONNX Runtime
# operators with one input and one output activation that treat each channel separately
CHANNELWISE = (
    "Relu",
    "Clip",
    "LeakyRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "QuickGelu",
    "GlobalAveragePool",
    "AveragePool",
    "MaxPool",
)


def normalise_in_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """``planes * scale + bias`` with one value for each channel -> ``BatchNormalization`` of mean 0 and variance 1, which is the same.

    ONNX Runtime moves the transposition to channels-last of an INT8 convolution up through products and sums, and then multiplies
    pixel by pixel, three values at a time: 0.4 of 3 ms in a ResNet-18 at 96 px. It does not move it through this operator.
    """
    result = copy_of(model)
    known = constants(result.graph)
    readers = readers_of(result.graph)
    for scaled in list(result.graph.node):
        shifted = readers.get(scaled.output[0], [])
        if scaled.op_type != "Mul" or [reader.op_type for reader in shifted] != ["Add"]:
            continue
        scale, bias = (_of_channels(node, known) for node in (scaled, shifted[0]))
        if scale is None or bias is None or len(scale) != len(bias):
            continue
        planes = next(name for name in scaled.input if name not in known)
        values = {"scale": scale, "bias": bias, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
        names = [f"{shifted[0].output[0]}_normalisation_{kind}" for kind in values]
        result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in zip(names, values.values(), strict=True))
        whole = helper.make_node("BatchNormalization", [planes, *names], list(shifted[0].output), name=shifted[0].name, epsilon=0.0)
        shifted[0].CopyFrom(whole)
        result.graph.node.remove(scaled)
    return without_unused(result)


def _of_channels(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> npt.NDArray[np.float32] | None:
    """The constant that a node reads, if it has one value per channel: (channel,)."""
    found = [numpy_helper.to_array(known[name]) for name in node.input if name in known]
    fits = len(found) == 1 and found[0].ndim == 4 and found[0].size == found[0].shape[1]
    return found[0].reshape(-1) if fits else None


def swish_in_one(model: onnx.ModelProto, among: Container[str] | None = None) -> onnx.ModelProto:
    """``x * Sigmoid(x)`` -> ONNX Runtime's ``QuickGelu`` with alpha 1, which is the same (its contrib operators' documentation).

    As two nodes, a quantized swish is a table and a product; in float, it is two kernels that each dequantize ``x``.

    Args:
        model: FP32.
        among: names of the products to rewrite; None: all.
    """
    result = copy_of(model)
    readers = readers_of(result.graph)
    swishes = {}
    for gate in result.graph.node:
        read_by = readers.get(gate.output[0], [])
        if gate.op_type != "Sigmoid" or [reader.op_type for reader in read_by] != ["Mul"]:
            continue
        if set(read_by[0].input) == {gate.input[0], gate.output[0]} and (among is None or read_by[0].name in among):
            swishes[gate.output[0]] = read_by[0].output[0]
    for node in list(result.graph.node):
        if node.op_type == "Sigmoid" and node.output[0] in swishes:
            result.graph.node.remove(node)
        elif node.op_type == "Mul" and (gate_name := next((name for name in node.input if name in swishes), None)):
            x = next(name for name in node.input if name != gate_name)
            node.CopyFrom(helper.make_node("QuickGelu", [x], list(node.output), name=node.name, domain=VENDOR, alpha=1.0))
    if swishes and all(known.domain != VENDOR for known in result.opset_import):
        result.opset_import.append(helper.make_opsetid(VENDOR, 1))
    return result


def pad_depthwise(model: onnx.ModelProto, block: int = BLOCK) -> onnx.ModelProto:
    """Pad the channels of depthwise convolutions, and of the layers that share them, to a multiple of ``block``.

    The filters that give the new channels are zero, and so are those that read them: whatever an activation between makes of
    zero, it does not count. Left as they are: channels that something other than a convolution gives or takes.
    """
    result = copy_of(model)
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    for group in _groups(result):
        channels = weights[group.depthwise[0].input[1]].dims[0] if group.depthwise else 0
        extra = -channels % block
        if group.fixed or not extra:
            continue
        for node in (*group.makers, *group.depthwise):
            for place in range(1, len(node.input)):
                node.input[place] = _widened(result.graph, weights, node.input[place], 0, extra)
        for node in group.depthwise:
            for attribute in node.attribute:
                if attribute.name == "group":
                    attribute.i = channels + extra
        for node in group.readers:
            node.input[1] = _widened(result.graph, weights, node.input[1], 1, extra)
    del result.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(without_unused(result))


def _groups(model: onnx.ModelProto) -> Sequence[Channels]:
    """All activations, grouped by shared channels."""
    graph = model.graph
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    shapes = shapes_of(graph)
    found = ChannelGroups(graph)
    for node in graph.node:
        activations = [name for name in node.input if name and name not in weights]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        wide = weights.get(node.input[1], [0])[0] if node.op_type == "Conv" else 0
        if node.op_type == "Conv" and len(activations) == 1 and groups == 1:
            found.join(activations[0]).readers.append(node)
            found.join(node.output[0]).makers.append(node)
        elif node.op_type == "Conv" and len(activations) == 1 and groups == wide == shapes.get(activations[0], [0, 0])[1]:
            found.join(activations[0], node.output[0]).depthwise.append(node)
        elif node.op_type in CHANNELWISE and len(activations) == 1:
            found.join(activations[0], node.output[0])
        elif node.op_type in ("Add", "Mul") and len({tuple(shapes.get(name, ())[1:2]) or name for name in node.input}) == 1:
            found.join(*activations, node.output[0])
        else:
            found.fix((*activations, *node.output))
    return found.all()


def _widened(graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto], name: str, axis: int, extra: int) -> str:
    """Name of a copy of a weight with ``extra`` zeros at the end of an axis."""
    array = numpy_helper.to_array(weights[name])
    widths = [(0, extra if place == axis else 0) for place in range(array.ndim)]
    new = f"{name}_{'in' if axis else 'out'}{array.shape[axis] + extra}"
    weights[new] = numpy_helper.from_array(np.pad(array, widths), new)
    if all(tensor.name != new for tensor in graph.initializer):
        graph.initializer.append(weights[new])
    return new
