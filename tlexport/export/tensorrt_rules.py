"""The rules of TensorRT for a graph. Each rule names the nodes that break it.

Two kinds. What the parser refuses: the importers of onnx-tensorrt, releases 8.5, 8.6 and 10.1, and its docs/operators.md.
What keeps layers from running fused in INT8: NVIDIA's developer guide, "Working with quantized types", and where ModelOpt puts its pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tlexport.errors import VerificationFailed
from tlexport.export.tensorrt_graph import FLOAT_TYPES, RuledGraph, Version
from tlexport.hardware.profile import INT8_CONSTANTS
from tlexport.ports import TYPED_SCALES

QOPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
FUSED = ("Relu", "Clip", "LeakyRelu", "Sigmoid")  # activations that run inside the convolution before them


@dataclass(frozen=True)
class Breach:
    """A node that breaks a rule."""

    rule: str
    node: str
    text: str


def check_tensorrt(model: onnx.ModelProto, tensorrt: Version = INT8_CONSTANTS) -> None:
    """Raise VerificationFailed, with nodes and rules, if the graph breaks a rule.

    Args:
        model: in any precision.
        tensorrt: the version that parses it, such as ``(10, 3, 0)``.
    """
    found = breaches(model, tensorrt)
    if found:
        shown = "".join(f"\n  {breach.node}: {breach.text} ({breach.rule})" for breach in found[:10])
        more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
        version = ".".join(map(str, tensorrt))
        raise VerificationFailed(f"the graph breaks rules of TensorRT {version} at {len(found)} places:{shown}{more}")


def breaches(model: onnx.ModelProto, tensorrt: Version = INT8_CONSTANTS) -> list[Breach]:
    """Every breach of every rule, in the order of the rules."""
    graph = RuledGraph(model, tensorrt)
    found = ((rule.__name__.strip("_").replace("_", "-"), node, text) for rule in RULES for node, text in rule(graph))
    return [Breach(rule, node.name or node.output[0], text) for rule, node, text in found]


Broken = Iterator[tuple[onnx.NodeProto, str]]


def _standard_operators(graph: RuledGraph) -> Broken:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield node, f"{node.domain}.{node.op_type} is an operator of another vendor"
        elif node.op_type in QOPERATORS:
            yield node, f"{node.op_type} is not read; quantization is written as Q/DQ pairs"


def _constant_scales(graph: RuledGraph) -> Broken:
    for node in graph.pairs:
        if any(name not in graph.constants for name in node.input[1:] if name):
            yield node, "its scale or zero point is not a constant"
            continue
        scale = numpy_helper.to_array(graph.constants[node.input[1]])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield node, f"a scale is {scale.min():g}; scales are positive"


def _signed_8_bit(graph: RuledGraph) -> Broken:
    for node in graph.pairs:
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        if node.op_type == "QuantizeLinear" and (zero is None or zero.data_type != TensorProto.INT8):
            yield node, "it gives uint8; activations are int8"  # the standard's default without a zero point is uint8
        data = graph.constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if data is not None and data.data_type != TensorProto.INT8:
            yield node, f"it reads {TensorProto.DataType.Name(data.data_type)}; weights are int8"


def _uint8_image_through_cast(graph: RuledGraph) -> Broken:
    """UINT8 is allowed only for network inputs and outputs, with a Cast from or to a float."""
    for node in graph.nodes:
        read = [name for name in node.input if graph.types.get(name) == TensorProto.UINT8 and name not in graph.constants]
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        if read and (node.op_type != "Cast" or to not in FLOAT_TYPES):
            yield node, f"it reads {read[0]}, which is uint8; a Cast to a float must come first"
        if any(graph.types.get(name) == TensorProto.UINT8 and name not in graph.outputs for name in node.output):
            yield node, "it gives uint8 inside the graph"


def _one_float_type(graph: RuledGraph) -> Broken:
    """A strongly typed network does not convert between FP16 and FP32 implicitly."""
    for node in graph.nodes:
        found = sorted({graph.types.get(name, 0) for name in node.input} & {*FLOAT_TYPES})
        if len(found) > 1:
            yield node, f"its inputs are {' and '.join(TensorProto.DataType.Name(kind) for kind in found)}; one type is expected"


def _kernel_shape(graph: RuledGraph) -> Broken:
    """If the weight is not a constant, the parser reads the kernel size from the attribute (convMultiInput)."""
    for node in graph.nodes:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        written = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"), None)
        weight = graph.constants.get(node.input[1])
        if weight is None and written is None:
            yield node, "its kernel_shape is not written, and its weight comes from a node"
        weight = graph.weight_of(graph.makers[node.input[1]]) if graph.made_by(node.input[1], "DequantizeLinear") else weight
        if weight is not None and written is not None and written != list(weight.dims[2:]):
            yield node, f"its kernel_shape is {written}; its weight is {list(weight.dims)}"


def _written_zero_points(graph: RuledGraph) -> Broken:
    """TensorRT before 9 refuses a DequantizeLinear without its third input."""
    for node in graph.pairs:
        if graph.tensorrt < (9, 0) and node.op_type == "DequantizeLinear" and (len(node.input) < 3 or not node.input[2]):
            yield node, "its zero point is not written"


def _float_constants(graph: RuledGraph) -> Broken:
    """TensorRT before 10 may refuse INT8 constants ("invalid weights type of Int8": NVIDIA/TensorRT#2163)."""
    for node in graph.pairs:
        if graph.tensorrt < INT8_CONSTANTS and node.op_type == "DequantizeLinear" and node.input[0] in graph.constants:
            yield node, "it reads a constant; a Q/DQ pair on a float weight is expected"


def _zero_points_are_0(graph: RuledGraph) -> Broken:
    for node in graph.pairs:
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None:
            continue
        values = numpy_helper.to_array(zero)
        if values.any():
            yield node, f"a zero point is {int(values[values != 0].flat[0])}"
        scale = graph.constants.get(node.input[1])
        if scale is not None and values.size != numpy_helper.to_array(scale).size:
            yield node, f"{values.size} zero points for {numpy_helper.to_array(scale).size} scales"


def _float_bias(graph: RuledGraph) -> Broken:
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2 and graph.made_by(node.input[2], "DequantizeLinear"):
            yield node, "its bias is quantized"


def _per_channel_weights_alone(graph: RuledGraph) -> Broken:
    for node in graph.pairs:
        scale = graph.constants.get(node.input[1])
        if scale is None or not scale.dims:
            continue
        weight = graph.weight_of(node)
        if weight is None:
            if numpy_helper.to_array(scale).size > 1:
                yield node, "an activation has more than one scale"
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
        if axis is None:
            yield node, "the axis of its scales is not written; the standard takes 1, TensorRT 10.1 and before 0, newer importers 1"
            continue
        for reader in graph.readers.get(node.output[0], []):
            expected = _axis(reader)
            if expected is not None and axis != expected:
                yield node, f"its scales lie along axis {axis}; those of {reader.op_type} along {expected}"
        if not 0 <= axis < len(weight.dims) or weight.dims[axis] != numpy_helper.to_array(scale).size:
            yield node, f"{numpy_helper.to_array(scale).size} scales for a weight of {list(weight.dims)} along axis {axis}"


def _axis(node: onnx.NodeProto) -> int | None:
    """The output-channel axis of a node's weight; None without a weight."""
    if node.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


def _scale_types(graph: RuledGraph) -> Broken:
    for node in graph.pairs:
        scale = graph.constants.get(node.input[1])
        if scale is not None and scale.data_type == TensorProto.FLOAT16 and graph.opset < TYPED_SCALES:
            yield node, f"its scale is FP16, which is read from opset {TYPED_SCALES} on; the graph has {graph.opset}"
        elif scale is not None and scale.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            yield node, f"its scale is {TensorProto.DataType.Name(scale.data_type)}"


def _both_inputs(graph: RuledGraph) -> Broken:
    """A weighted layer runs in INT8 if both its inputs come from a DQ."""
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            found = [graph.made_by(name, "DequantizeLinear") for name in node.input[:2]]
            if any(found) and not all(found):
                yield node, f"its {'input' if found[0] else 'weight'} alone is quantized"


def _nothing_before_an_activation(graph: RuledGraph) -> Broken:
    for node in graph.nodes:
        if node.op_type not in FUSED or not graph.made_by(node.input[0], "DequantizeLinear"):
            continue
        quantize = graph.makers.get(graph.makers[node.input[0]].input[0])
        if quantize is not None and graph.made_by(quantize.input[0], "Conv"):
            yield node, f"between it and {graph.makers[quantize.input[0]].name} lies a Q/DQ pair, so they are not fused"


def _float_outputs(graph: RuledGraph) -> Broken:
    for node in graph.pairs:
        if node.output[0] in graph.outputs:
            yield node, "it gives an output of the graph"


def _residual_skip(graph: RuledGraph) -> Broken:
    """Conv + Add fuse if the convolution's result is added unquantized and the other input comes from a DQ."""
    for node in graph.nodes:
        if node.op_type != "Add" or any(name in graph.constants for name in node.input):
            continue
        quantized = [graph.made_by(name, "DequantizeLinear") for name in node.input]
        straight = [_int8_conv(graph, name) for name in node.input]
        if all(quantized) and any(_int8_conv(graph, _behind(graph, name)) for name in node.input):
            yield node, "both its inputs are quantized; the one that comes from a convolution is added as it is"
        elif any(straight) and not any(quantized):
            yield node, "the skip input of this residual sum is not quantized"


def _int8_conv(graph: RuledGraph, name: str) -> bool:
    return graph.made_by(name, "Conv") and graph.made_by(graph.makers[name].input[0], "DequantizeLinear")


def _behind(graph: RuledGraph, name: str) -> str:
    """The input of the Q/DQ pair that produces a tensor."""
    quantize = graph.makers.get(graph.makers[name].input[0])
    return quantize.input[0] if quantize is not None else name


RULES: tuple[Callable[[RuledGraph], Broken], ...] = (
    _standard_operators,
    _uint8_image_through_cast,
    _one_float_type,
    _kernel_shape,
    _constant_scales,
    _signed_8_bit,
    _written_zero_points,
    _float_constants,
    _zero_points_are_0,
    _float_bias,
    _per_channel_weights_alone,
    _scale_types,
    _both_inputs,
    _nothing_before_an_activation,
    _float_outputs,
    _residual_skip,
)
