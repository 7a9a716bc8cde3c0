"""Cross-layer equalization: what a layer makes too large for the others of its channels is scaled down there and up in the next layer.

Section 4.1 of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tlexport.onnx_graph import constants, copy_of

Values = npt.NDArray[np.float64]
Pair = tuple[onnx.NodeProto, onnx.NodeProto]  # two weighted nodes, and only homogeneous ones between them

SCALED = ("Conv", "Gemm")
# f(s x) = s f(x) for every s > 0 of a channel; a clip at 6, a hard swish or a sigmoid is none, so that a chain ends there
HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
DEAD = 1e-4  # part of the largest channel's size; what is smaller is left as it is: an unused channel is not to be blown up
ROUNDS = 50  # a chain settles in about as many as it has layers
SETTLED = 0.01  # largest change of a scale in the last round, natural logarithm


def equalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function, in which neighbouring layers share out what each channel multiplies by.

    For a channel between two layers, with r1 the largest absolute weight that makes it and r2 the largest that reads it, the first
    layer's weights and bias are divided by s = sqrt(r1 / r2) and the second's are multiplied by it: both then have sqrt(r1 r2). That is
    repeated along chains until nothing changes. Other than in the paper, which absorbs high biases later on, a bias counts in r1 in
    proportion to the layer's others: a channel that is all bias and hardly weights would become the largest of all.

    With one scale for each output channel of the weights, the first layer's do not gain, but the activation between the two does, which
    has a single scale for all channels, and so do the second layer's, which have one for all channels that they read. Scales by the
    activations' ranges on images instead (s = r**a / r2**(1 - a), as in SmoothQuant, arXiv:2211.10438) did no better on trained networks
    nor on deliberately unbalanced ones, and need images.

    Convolutions of any grouping and ``Gemm`` are equalized where what is between them has a single reader each and is in
    :data:`HOMOGENEOUS`, and where no other node reads their weights. All else stays as it is.

    Args:
        model: FP32, BatchNorm folded; left as it is.
    """
    model = copy_of(model)
    tensors = constants(model.graph)
    pairs = list(_pairs(model.graph))
    names = {name for pair in pairs for node in pair for name in node.input[1:] if name}
    values: dict[str, Values] = {name: numpy_helper.to_array(tensors[name]).astype(np.float64) for name in names}
    borders = [_Border(first, second, values) for first, second in pairs]
    for _ in range(ROUNDS):
        if max([border.equalize() for border in borders], default=0.0) < SETTLED:
            break
    for name in names:
        tensors[name].CopyFrom(numpy_helper.from_array(values[name].astype(np.float32), name))
    return model


class _Border:
    """What makes the channels between two layers, and what reads them: views of the layers' weights and bias, scaled in place."""

    def __init__(self, first: onnx.NodeProto, second: onnx.NodeProto, values: dict[str, Values]) -> None:
        self.made = _rows(first, values[first.input[1]])
        self.read = _columns(second, values[second.input[1]], len(self.made))
        self.bias = values[first.input[2]].reshape(-1) if len(first.input) > 2 and first.input[2] else np.zeros(len(self.made))
        self.counts = np.abs(self.made).max() / max(np.abs(self.bias).max(), np.finfo(np.float32).tiny)  # a bias, beside weights

    def equalize(self) -> float:
        """Bring what makes a channel and what reads it to the same size; the largest change, as a logarithm."""
        made = np.maximum(np.abs(self.made).max(axis=1), np.abs(self.bias) * self.counts)
        read = np.abs(self.read).max(axis=(1, 3)).reshape(-1)
        alive = (made > DEAD * made.max()) & (read > DEAD * read.max())
        scale = np.sqrt(np.divide(made, read, out=np.ones_like(made), where=alive))
        self.made /= scale[:, None]
        self.bias /= scale
        self.read *= scale.reshape(len(self.read), 1, -1, 1)
        return float(np.abs(np.log(scale)).max())


def _pairs(graph: onnx.GraphProto) -> Iterator[Pair]:
    """Each weighted node, and the next one that alone reads what it makes."""
    known, outputs = constants(graph), {value.name for value in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def scalable(node: onnx.NodeProto) -> bool:
        own = all(name in known and len(readers[name]) == 1 for name in node.input[1:] if name)
        return node.op_type in SCALED and own and not _option(node, "transA", 0) and _bias_is_of_channels(node, known)

    def next_of(node: onnx.NodeProto) -> onnx.NodeProto | None:
        alone = len(node.output) == 1 and node.output[0] not in outputs and len(readers.get(node.output[0], ())) == 1
        return readers[node.output[0]][0] if alone else None

    for first in filter(scalable, graph.node):
        second = next_of(first)
        while second is not None and second.op_type in HOMOGENEOUS and _option(second, "axis", 1) == 1:
            second = next_of(second)
        if second is not None and scalable(second):
            yield first, second


def _option(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _bias_is_of_channels(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> bool:
    """A Gemm's may be a single number for all."""
    weights = known[node.input[1]].dims
    channels = weights[1] if node.op_type == "Gemm" and not _option(node, "transB", 0) else weights[0]
    return all(math.prod(known[name].dims) == channels for name in node.input[2:] if name)


def _rows(node: onnx.NodeProto, weights: Values) -> Values:
    """A view of a node's weights by what they make: (output channel, weight)."""
    if node.op_type == "Gemm" and not _option(node, "transB", 0):
        weights = weights.T
    return weights.reshape(len(weights), -1)


def _columns(node: onnx.NodeProto, weights: Values, channels: int) -> Values:
    """A view of a node's weights by what they read: (group, output channel of it, input channel of it, weight).

    A ``Gemm`` that reads a flattened (channel, height, width) has height times width weights for each channel.
    """
    if node.op_type == "Gemm":
        weights = weights if _option(node, "transB", 0) else weights.T
        return weights.reshape(1, len(weights), channels, -1)
    groups = _option(node, "group", 1)
    return weights.reshape(groups, len(weights) // groups, channels // groups, -1)
