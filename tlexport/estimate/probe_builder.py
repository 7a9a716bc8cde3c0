"""Writes the nodes of a probe network, and counts their MACs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
MACS = 0.9e9  # approximate limit for a probe; deep classifiers repeat their layers, so larger probes add nothing


@dataclass(frozen=True)
class Value:
    """A float32 activation inside a probe."""

    name: str
    shape: tuple[int, ...]  # (1, channel, height, width), or (..., feature) for tokens

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.shape[1]

    @property
    def size(self) -> int:
        """Height, which is the width."""
        return self.shape[2]


class Builder:
    """Writes nodes one after the other and counts their MACs."""

    def __init__(self, draw: np.random.Generator, channels: int, size: int) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.macs = 0
        self.limit = MACS  # no blocks are added beyond this
        self.noise = draw.standard_normal(1 << 16).astype(np.float32)
        self.input = Value("image", (1, channels, size, size))

    def node(self, op: str, inputs: Sequence[Value | str], shape: Sequence[int], **attributes: Any) -> Value:
        """A node with one output."""
        out = Value(f"t{len(self.nodes)}", tuple(shape))
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        self.nodes.append(helper.make_node(op, names, [out.name], name=f"n{len(self.nodes)}", **attributes))
        return out

    def constant(self, array: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> str:
        """A weight."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def noisy(self, shape: Sequence[int], scale: float) -> str:
        """A weight of repeated noise. Its values do not affect the latency, and drawing new ones for each weight would take long."""
        count = math.prod(shape)
        noise = self.noise * np.float32(scale)
        return self.constant(np.tile(noise, -(-count // len(noise)))[:count].reshape(shape))

    def conv(self, x: Value, out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1, act: str = "") -> Value:
        """Convolution with bias and "same" padding, followed by an activation."""
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        fan_in = x.channels // groups * high * wide
        inputs: list[Value | str] = [x, self.noisy((out, x.channels // groups, high, wide), math.sqrt(2 / fan_in)), self.noisy((out,), 0.1)]
        pads = [high // 2, wide // 2] * 2
        sizes = [(x.size + 2 * (k // 2) - k) // stride + 1 for k in (high, wide)]
        options = {"kernel_shape": [high, wide], "strides": [stride] * 2, "pads": pads, "group": groups}
        self.macs += out * fan_in * sizes[0] * sizes[1]
        return self.act(self.node("Conv", inputs, (1, out, *sizes), **options), act)

    def act(self, x: Value, kind: str) -> Value:
        """An activation, in the form that torch's exporter writes."""
        if kind == "relu":
            return self.node("Relu", [x], x.shape)
        if kind == "relu6":
            limits = [self.constant(np.array(limit, np.float32)) for limit in (0.0, 6.0)]
            return self.node("Clip", [x, *limits], x.shape)
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], x.shape)], x.shape)
        if kind == "gelu":
            half = self.node("Erf", [self.node("Div", [x, self.scalar(math.sqrt(2))], x.shape)], x.shape)
            gate = self.node("Add", [half, self.scalar(1.0)], x.shape)
            return self.node("Mul", [self.node("Mul", [x, gate], x.shape), self.scalar(0.5)], x.shape)
        operators = {"hardswish": "HardSwish", "sigmoid": "Sigmoid", "hardsigmoid": "HardSigmoid"}
        options = {"alpha": 1 / 6, "beta": 0.5} if kind == "hardsigmoid" else {}
        return self.node(operators[kind], [x], x.shape, **options) if kind else x

    def scalar(self, value: float) -> str:
        """A scalar constant."""
        return self.constant(np.array(value, np.float32))

    def add(self, a: Value, b: Value) -> Value:
        """Sum."""
        return self.node("Add", [a, b], a.shape)

    def concat(self, parts: Sequence[Value]) -> Value:
        """Concatenation along the channels."""
        shape = (1, sum(part.channels for part in parts), *parts[0].shape[2:])
        return self.node("Concat", parts, shape, axis=1)

    def pool(self, x: Value, op: str, kernel: int, stride: int) -> Value:
        """MaxPool or AveragePool with "same" padding."""
        pad = kernel // 2
        size = (x.size + 2 * pad - kernel) // stride + 1
        return self.node(op, [x], (1, x.channels, size, size), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def squeeze(self, x: Value, ratio: int, act: str, gate: str) -> Value:
        """Squeeze and excitation (Hu et al. 2018)."""
        mean = self.node("GlobalAveragePool", [x], (1, x.channels, 1, 1))
        inner = self.conv(mean, max(8, x.channels // ratio), act=act)
        return self.node("Mul", [x, self.conv(inner, x.channels, act=gate)], x.shape)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """Transposition."""
        return self.node("Transpose", [x], [x.shape[axis] for axis in order], perm=list(order))

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Reshape."""
        return self.node("Reshape", [x, self.constant(np.array(shape, np.int64))], shape)

    def take(self, x: Value, index: int, axis: int) -> Value:
        """One index of an axis; the axis is removed."""
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        return self.node("Gather", [x, self.constant(np.array(index, np.int64))], shape, axis=axis)

    def matmul(self, a: Value, b: Value) -> Value:
        """Matrix product of two activations."""
        self.macs += math.prod(a.shape) * b.shape[-1]
        return self.node("MatMul", [a, b], (*a.shape[:-1], b.shape[-1]))

    def linear(self, x: Value, out: int) -> Value:
        """Matrix product with a weight, plus a bias."""
        inner = x.shape[-1]
        self.macs += math.prod(x.shape) * out
        weight, bias = self.noisy((inner, out), 1 / math.sqrt(inner)), self.noisy((out,), 0.1)
        shape = (*x.shape[:-1], out)
        if len(x.shape) == 2:
            return self.node("Gemm", [x, weight, bias], shape)
        return self.node("Add", [self.node("MatMul", [x, weight], shape), bias], shape)

    def norm(self, x: Value) -> Value:
        """Layer normalisation over the last axis."""
        width = x.shape[-1]
        ones, zeros = self.constant(np.ones(width, np.float32)), self.constant(np.zeros(width, np.float32))
        return self.node("LayerNormalization", [x, ones, zeros], x.shape, axis=-1, epsilon=1e-5)

    def batch_norm(self, x: Value) -> Value:
        """Batch normalisation that cannot be folded into a preceding convolution."""
        ones, zeros = (self.constant(np.full(x.channels, value, np.float32)) for value in (1.0, 0.0))
        return self.node("BatchNormalization", [x, ones, zeros, zeros, ones], x.shape)

    def model(self, output: Value) -> onnx.ModelProto:
        """The finished network."""
        borders = [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.shape) for v in (self.input, output)]
        graph = helper.make_graph(self.nodes, "probe", borders[:1], borders[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
