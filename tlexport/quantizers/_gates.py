"""Computes hard sigmoids and hard swishes in integers. ONNX Runtime has no kernels for them.

``HardSigmoid(x) = clip(alpha x + beta, 0, 1)`` is what quantizing does: a scale, a shift, and saturation at both ends. So ``x`` is
quantized with the scale 1 / (255 alpha) and the zero point 255 beta, and the integers are read as if their scale were 1/255 and their
zero point 0 (on ARM, whose integers are signed, 128 less for both). Where a convolution gives ``x`` for this alone, that costs nothing:
it rounds its sums with these in place of its own. Measured with ONNX Runtime 1.31: benchmarks/quantization.py.

And gates of channels in the shape that it multiplies by fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlexport.onnx_model.graph import constants, copy_of, readers_of, shapes_of, without_unused
from tlexport.ports import WEIGHTED

STEPS = 255.0  # of 8 bits, between 0 and 1
MANY = 1000  # pixels from which repeating a gate saves time


def integer_gates(model: onnx.ModelProto) -> onnx.ModelProto:
    """A QDQ graph without hard sigmoids and hard swishes between quantized values. Does not change the given graph."""
    result = copy_of(model)
    graph = _Graph(result)
    for node in list(result.graph.node):
        pair = graph.makers.get(node.input[0]) if node.op_type in ("HardSigmoid", "HardSwish") else None
        readers = graph.readers.get(node.output[0], [])
        if pair is None or pair.op_type != "DequantizeLinear" or [reader.op_type for reader in readers] != ["QuantizeLinear"]:
            continue
        if node.op_type == "HardSwish":
            graph.multiply(node, pair)
        elif graph.alone(pair) and _saturates(node):
            graph.saturate(node, pair, readers[0])
    return without_unused(result)


def gates_in_rows(model: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """``x * gate`` with one value of the gate for each channel -> the gate repeated for a row of pixels, which computes the same.

    ONNX Runtime has the channels last, and takes such a product apart into one for each pixel. With rows it is one for each row: of 32
    channels of 112 x 112 pixels, half the time.

    Args:
        model: the QDQ graph.
        before: the FP32 graph, with the shapes of its activations, (image, channel, row, column).
    """
    result = copy_of(model)
    graph = result.graph
    makers = {name: node for node in graph.node for name in node.output}
    shapes = shapes_of(before.graph)
    for node in [node for node in graph.node if node.op_type == "Mul"]:
        rows, columns = (*shapes.get(node.output[0], ()), 0, 0, 0, 0)[2:4]
        pairs = [makers[name] for name in node.input if name in makers and makers[name].op_type == "DequantizeLinear"]
        if rows * columns < MANY or len(pairs) != 2:
            continue
        for place, pair in enumerate(pairs):
            quantize = makers.get(pair.input[0])
            if quantize is not None and shapes.get(quantize.input[0], [])[2:] == [1, 1]:
                node.input[place] = _in_rows(graph, node, pair, columns)
    return without_unused(result)


def _in_rows(graph: onnx.GraphProto, product: onnx.NodeProto, pair: onnx.NodeProto, columns: int) -> str:
    """Repeat a quantized gate along the rows before a product. Returns the name of the dequantized result."""
    name = f"{product.name}_gate_in_rows"
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1, columns], np.int64), f"{name}_repeats"))
    nodes = [
        helper.make_node("Tile", [pair.input[0], f"{name}_repeats"], [f"{name}_8bit"], name=f"{name}_8bit"),
        helper.make_node("DequantizeLinear", [f"{name}_8bit", *pair.input[1:]], [name], name=name),
    ]
    _put_before(graph, product, nodes)
    return name


def _put_before(graph: onnx.GraphProto, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
    place = list(graph.node).index(node)
    for offset, new in enumerate(nodes):
        graph.node.insert(place + offset, new)


def _line(node: onnx.NodeProto) -> tuple[float, float]:
    """Slope and offset of the ONNX standard."""
    options = {attribute.name: attribute.f for attribute in node.attribute}
    return (1 / 6, 0.5) if node.op_type == "HardSwish" else (options.get("alpha", 0.2), options.get("beta", 0.5))


def _saturates(node: onnx.NodeProto) -> bool:
    """Whether zero point and scale can express it: a rising line with a value between 0 and 1 at 0."""
    alpha, beta = _line(node)
    return alpha > 0 and 0 <= beta <= 1


class _Graph:
    """A QDQ graph under modification."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.known = constants(model.graph)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers = readers_of(model.graph)

    def alone(self, pair: onnx.NodeProto) -> bool:
        """Whether this node is the only reader of a dequantized value that comes from a weighted node."""
        quantize = self.makers[pair.input[0]]
        single = len(self.readers[pair.output[0]]) == 1 and len(self.readers[pair.input[0]]) == 1
        return single and quantize.input[0] in self.makers and self.makers[quantize.input[0]].op_type in WEIGHTED

    def saturate(self, node: onnx.NodeProto, pair: onnx.NodeProto, after: onnx.NodeProto) -> None:
        """The weighted node's own quantization computes the hard sigmoid."""
        quantize = self.makers[pair.input[0]]
        (scale, zero), outside, _ = self._gate(node, pair)
        quantize.input[1], quantize.input[2] = scale, zero
        for reader in self.readers[after.output[0]]:
            reader.input[0], reader.input[1], reader.input[2] = quantize.output[0], *outside
        for gone in (pair, node, after):
            self.graph.node.remove(gone)

    def multiply(self, node: onnx.NodeProto, pair: onnx.NodeProto) -> None:
        """``x`` times its hard sigmoid. A sum requantizes ``x``: of what ORT knows in integers the quickest that saturates.

        What is added is how far the zero point had to be rounded.
        """
        (scale, zero), outside, left = self._gate(node, pair)
        name = node.name
        nodes = [
            helper.make_node("DequantizeLinear", left, [f"{name}_over"], name=f"{name}_over"),
            helper.make_node("DequantizeLinear", list(pair.input), [f"{name}_in"], name=f"{name}_in"),
            helper.make_node("Add", [f"{name}_in", f"{name}_over"], [f"{name}_sum"], name=f"{name}_sum"),
            helper.make_node("QuantizeLinear", [f"{name}_sum", scale, zero], [f"{name}_gate_8bit"], name=f"{name}_gate_quantize"),
            helper.make_node("DequantizeLinear", [f"{name}_gate_8bit", *outside], [f"{name}_gate"], name=f"{name}_gate"),
            helper.make_node("Mul", [node.input[0], f"{name}_gate"], list(node.output), name=name),
        ]
        _put_before(self.graph, node, nodes)
        self.graph.node.remove(node)

    def _gate(self, node: onnx.NodeProto, pair: onnx.NodeProto) -> tuple[tuple[str, str], tuple[str, str], list[str]]:
        """Scale and zero point that saturate, those for the reader, and the rounding rest of the zero point as a constant."""
        alpha, beta = _line(node)
        dtype, lowest = (np.int8, -128) if self.known[pair.input[2]].data_type == TensorProto.INT8 else (np.uint8, 0)
        zero, scale = int(np.ceil(STEPS * beta)), 1 / (STEPS * alpha)
        over = (zero - STEPS * beta) * scale
        name = f"gate_{alpha:.6g}_{beta:.6g}"
        inside = self._constant(f"{name}_scale", np.float32(scale)), self._constant(f"{name}_zero", dtype(zero + lowest))
        outside = self._constant("gate_scale", np.float32(1 / STEPS)), self._constant("gate_lowest", dtype(lowest))
        left = (("over", dtype(0)), ("over_scale", np.float32(over or 1)), ("over_zero", dtype(1 if over else 0)))  # 0 - 1 steps of it
        return inside, outside, [self._constant(f"{name}_{kind}", value) for kind, value in left]

    def _constant(self, name: str, value: np.generic) -> str:
        if name not in self.known:
            self.known[name] = numpy_helper.from_array(np.asarray(value), name)
            self.graph.initializer.append(self.known[name])
        return name
