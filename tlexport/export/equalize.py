"""Cross-layer equalization: rescales channels between consecutive layers so that their weight ranges match.

Section 4.1 of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tlexport.onnx_model.graph import ChannelGroups, Channels, constants, copy_of, readers_of

Float64Array = npt.NDArray[np.float64]

SCALED = ("Conv", "Gemm")
# f(s x) = s f(x) for every s > 0 of a channel; a clip at 6, a hard swish and a sigmoid are not, so a chain ends there
HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
DEAD = 1e-4  # share of the largest channel; smaller channels are unused and are not scaled up
ROUNDS = 50  # a chain converges in about as many rounds as it has layers
ODD = 4.0  # factor above or below the median; INT8 loses two bits on such a channel
SETTLED = 0.01  # largest change of a scale in the last round, natural logarithm


def equalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function, with the scale of each channel balanced between the layers that share it.

    For a channel between two layers, with r1 the largest absolute weight that makes it and r2 the largest that reads it, the first
    layer's weights and bias are divided by s = sqrt(r1 / r2) and the second's are multiplied by it, so both ranges become sqrt(r1 r2). This
    is repeated until nothing changes. Unlike the paper, which absorbs high biases later, r1 includes the bias in proportion to the layer's
    other biases; otherwise a channel with a large bias and small weights would become the largest of all.

    Also unlike the paper, several layers may make a channel (their outputs are added) and several may read it, as in residual networks: all
    are scaled alike, and r1 and r2 are the largest values. Only channels whose s exceeds :data:`ODD` are scaled there: in freshly trained
    networks, scaling the others made INT8 diverge from FP32 by a quarter more (MobileNetV2, EfficientNet-B0).

    Weights have one scale per output channel, so the first layers do not benefit. The activation between them does, with its single scale
    for all channels, and so do the second layers, with one scale for all input channels. Scales from the ranges of activations on images
    (s = r**a / r2**(1 - a), as in SmoothQuant, arXiv:2211.10438) did no better on trained or unbalanced networks, and need images.

    Convolutions of any grouping and ``Gemm`` are equalized if only ops of :data:`HOMOGENEOUS` and sums are between them and no other node
    reads their weights. Everything else stays unchanged.

    Args:
        model: FP32, BatchNorm folded; not changed.
    """
    model = copy_of(model)
    tensors = constants(model.graph)
    streams = list(_streams(model.graph))
    names = {name for stream in streams for node in (*stream.makers, *stream.readers) for name in node.input[1:] if name}
    values: dict[str, Float64Array] = {name: numpy_helper.to_array(tensors[name]).astype(np.float64) for name in names}
    borders = [_Border(stream, values) for stream in streams]
    for _ in range(ROUNDS):
        if max([border.equalize() for border in borders], default=0.0) < SETTLED:
            break
    for name in names:
        tensors[name].CopyFrom(numpy_helper.from_array(values[name].astype(np.float32), name))
    return model


def _streams(graph: onnx.GraphProto) -> Iterator[Channels]:
    """Activations whose producers and readers all have the same channels and are homogeneous."""
    known, readers = constants(graph), readers_of(graph)
    found = ChannelGroups(graph)
    for node in graph.node:
        activations = [name for name in node.input if name and name not in known]
        if node.op_type in SCALED and len(activations) == 1 and _own_weights(node, known, readers):
            found.join(activations[0]).readers.append(node)
            found.join(node.output[0]).makers.append(node)
        elif node.op_type in HOMOGENEOUS and len(activations) == len(node.output) == 1 and _option(node, "axis", 1) == 1:
            found.join(activations[0], node.output[0])
        elif node.op_type == "Add" and len(activations) == 2:
            found.join(*activations, node.output[0])
        else:
            found.fix((*activations, *node.output))
    for group in found.all():
        counts = {_channels_made(node, known) for node in group.makers}
        if not group.fixed and len(counts) == 1 and group.readers:
            yield group


def _own_weights(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether a node's weights can be scaled per output and input channel."""
    own = all(name in known and len(readers[name]) == 1 for name in node.input[1:] if name)
    return own and not _option(node, "transA", 0) and _bias_is_of_channels(node, known)


class _Border:
    """Producers and readers of shared channels: views of the layers' weights and biases, scaled in place."""

    def __init__(self, stream: Channels, values: dict[str, Float64Array]) -> None:
        self.made = [_rows(node, values[node.input[1]]) for node in stream.makers]
        self.read = [_columns(node, values[node.input[1]], len(self.made[0])) for node in stream.readers]
        self.biases = [values[node.input[2]].reshape(-1) for node in stream.makers if len(node.input) > 2 and node.input[2]]
        largest = max((np.abs(bias).max() for bias in self.biases), default=0.0)
        self.shared = len(stream.makers) + len(stream.readers) > 2
        # weight of a bias relative to weights
        self.counts = max(np.abs(rows).max() for rows in self.made) / max(largest, np.finfo(np.float32).tiny)

    def equalize(self) -> float:
        """Balance each channel between producers and readers. Returns the largest change, as a logarithm."""
        sizes = [np.abs(rows).max(axis=1) for rows in self.made] + [np.abs(bias) * self.counts for bias in self.biases]
        made = np.maximum.reduce(sizes)
        read = np.maximum.reduce([np.abs(columns).max(axis=(1, 3)).reshape(-1) for columns in self.read])
        alive = (made > DEAD * made.max()) & (read > DEAD * read.max())
        scale = np.sqrt(np.divide(made, read, out=np.ones_like(made), where=alive))
        if self.shared and alive.any():
            scale /= np.median(scale[alive])  # a factor common to all channels does not count
            scale[~alive | (np.abs(np.log(scale)) < np.log(ODD))] = 1
        for rows in self.made:
            rows /= scale[:, None]
        for bias in self.biases:
            bias /= scale
        for columns in self.read:
            columns *= scale.reshape(len(columns), 1, -1, 1)
        return float(np.abs(np.log(scale)).max())


def _option(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _bias_is_of_channels(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> bool:
    """The bias of a node; that of a Gemm may be a single number for all channels."""
    return all(math.prod(known[name].dims) == _channels_made(node, known) for name in node.input[2:] if name)


def _channels_made(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> int:
    """The number of output channels of a weighted node."""
    weights = known[node.input[1]].dims
    return int(weights[1] if node.op_type == "Gemm" and not _option(node, "transB", 0) else weights[0])


def _rows(node: onnx.NodeProto, weights: Float64Array) -> Float64Array:
    """A view of a node's weights by output channel: (output channel, weight)."""
    if node.op_type == "Gemm" and not _option(node, "transB", 0):
        weights = weights.T
    return weights.reshape(len(weights), -1)


def _columns(node: onnx.NodeProto, weights: Float64Array, channels: int) -> Float64Array:
    """A view of a node's weights by input channel: (group, output channel of it, input channel of it, weight).

    A ``Gemm`` that reads a flattened (channel, height, width) has height times width weights for each channel.
    """
    if node.op_type == "Gemm":
        weights = weights if _option(node, "transB", 0) else weights.T
        return weights.reshape(1, len(weights), channels, -1)
    groups = _option(node, "group", 1)
    return weights.reshape(groups, len(weights) // groups, channels // groups, -1)
