"""Output shapes of operators that ONNX's shape inference does not cover, such as those of ONNX Runtime's own domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tlexport.errors import InvalidFile
from tlexport.onnx_model.tensors import bytes_of

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class TensorInfo:
    """Type and shape of a tensor."""

    shape: Shape
    dtype: int  # onnx.TensorProto.FLOAT, ...
    constant: bool = False

    @property
    def elements(self) -> int:
        """Product of the axes; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in memory, bytes."""
        return bytes_of(self.elements, self.dtype)


Given = Sequence[TensorInfo | None]


def need(given: Given, index: int) -> TensorInfo:
    """The required input at an index. Raises InvalidFile if it is missing."""
    tensor = given[index] if index < len(given) else None
    if tensor is None:
        raise InvalidFile(f"a node has no input {index}, which its operator needs")
    return tensor


def like_first(given: Given, options: Attributes) -> TensorInfo:
    """The rule of an operator that keeps the shape and type of its first input. Raises InvalidFile if there is no input."""
    first = need(given, 0)
    return TensorInfo(first.shape, first.dtype)


def windows(shape: Shape, kernel: Sequence[int], options: Attributes, spatial: slice) -> Shape:
    """Spatial output shape of a convolution or pooling (ONNX specification, operator Conv)."""
    sizes = shape[spatial]
    rank = len(kernel)
    strides = options.get("strides") or [1] * rank
    dilations = options.get("dilations") or [1] * rank
    pads = options.get("pads") or [0] * (2 * rank)
    up = bool(options.get("ceil_mode"))
    if str(options.get("auto_pad", "NOTSET")).startswith("SAME"):
        return tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    axes = zip(sizes, kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    steps = ((size + low + high - dilation * (k - 1) - 1, stride) for size, k, stride, dilation, low, high in axes)
    return tuple((-(-length // stride) if up else length // stride) + 1 for length, stride in steps)


def _spatial(options: Attributes) -> slice:
    return slice(1, -1) if options.get("channels_last") else slice(2, None)


def _arranged(batch: int, channels: int, sizes: Shape, options: Attributes) -> Shape:
    return (batch, *sizes, channels) if options.get("channels_last") else (batch, channels, *sizes)


def _conv(x: TensorInfo, w: TensorInfo, options: Attributes, dtype: int) -> TensorInfo:
    sizes = windows(x.shape, w.shape[2:], options, _spatial(options))
    return TensorInfo(_arranged(x.shape[0], w.shape[0], sizes, options), dtype)


def _pool(given: Given, options: Attributes) -> TensorInfo:
    x = need(given, 0)
    sizes = windows(x.shape, options["kernel_shape"], options, _spatial(options))
    return TensorInfo(_arranged(x.shape[0], _channels(x, options), sizes, options), x.dtype)


def _channels(x: TensorInfo, options: Attributes) -> int:
    return x.shape[-1] if options.get("channels_last") else x.shape[1]


def _global_pool(given: Given, options: Attributes) -> TensorInfo:
    x = need(given, 0)
    return TensorInfo(_arranged(x.shape[0], _channels(x, options), (1,) * (len(x.shape) - 2), options), x.dtype)


def _broadcast(first: int, second: int) -> Callable[[Given, Attributes], TensorInfo]:
    def rule(given: Given, options: Attributes) -> TensorInfo:
        a, b = need(given, first), need(given, second)
        return TensorInfo(np.broadcast_shapes(a.shape, b.shape), a.dtype)

    return rule


def _concat(given: Given, options: Attributes) -> TensorInfo:
    parts = [need(given, index) for index in range(2, len(given), 3)]
    axis = options["axis"]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return TensorInfo(tuple(shape), parts[0].dtype)


def _gemm(given: Given, options: Attributes) -> TensorInfo:
    a, b = need(given, 0), need(given, 3)
    quantized = given[8] if len(given) > 8 else None
    rows = a.shape[1] if options.get("transA") else a.shape[0]
    columns = b.shape[0] if options.get("transB") else b.shape[1]
    return TensorInfo((rows, columns), quantized.dtype if quantized else onnx.TensorProto.FLOAT)


def factors(a: Shape, b: Shape, options: Attributes) -> tuple[Shape, Shape]:
    """Shapes of the two factors of a matrix product, (batch..., row, column), after its fused transpositions.

    ``transBatchA`` moves the first axis behind the other batch axes, before ``transA`` swaps the last two (FusedMatMul).
    """

    def turned(shape: Shape, batch: str, last: str) -> Shape:
        if options.get(batch):
            shape = (*shape[1:-1], shape[0], shape[-1])
        return (*shape[:-2], shape[-1], shape[-2]) if options.get(last) else shape

    return turned(a, "transBatchA", "transA"), turned(b, "transBatchB", "transB")


def _matmul(given: Given, options: Attributes) -> TensorInfo:
    a, b = factors(need(given, 0).shape, need(given, 1).shape, options)
    return TensorInfo((*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]), need(given, 0).dtype)


def _packed(given: Given, options: Attributes) -> TensorInfo:
    return TensorInfo((*need(given, 0).shape[:-1], options["N"]), need(given, 0).dtype)


def _to_float(given: Given, options: Attributes) -> TensorInfo:
    return TensorInfo(_matmul(given, options).shape, onnx.TensorProto.FLOAT)


def _reorder_output(given: Given, options: Attributes) -> TensorInfo:
    x = need(given, 0)
    return TensorInfo(_arranged(x.shape[0], options["channels"], x.shape[2:], options), x.dtype)


def _reorder_input(given: Given, options: Attributes) -> TensorInfo:
    x = need(given, 0)
    return TensorInfo((x.shape[0], x.shape[-1], *x.shape[1:-1]) if options.get("channels_last") else x.shape, x.dtype)


# operator -> its rule; an omitted input is None
RULES: dict[str, Callable[[Given, Attributes], TensorInfo]] = {
    "Conv": lambda given, options: _conv(need(given, 0), need(given, 1), options, need(given, 0).dtype),
    "FusedConv": lambda given, options: _conv(need(given, 0), need(given, 1), options, need(given, 0).dtype),
    "NhwcFusedConv": lambda given, options: _conv(need(given, 0), need(given, 1), {**options, "channels_last": 1}, need(given, 0).dtype),
    "QLinearConv": lambda given, options: _conv(need(given, 0), need(given, 3), options, need(given, 7).dtype),
    "MaxPool": _pool,
    "NhwcMaxPool": lambda given, options: _pool(given, {**options, "channels_last": 1}),
    "AveragePool": _pool,
    "QLinearAveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearAdd": _broadcast(0, 3),
    "QLinearMul": _broadcast(0, 3),
    "QLinearConcat": _concat,
    "QGemm": _gemm,
    "FusedGemm": lambda given, options: _matmul([need(given, 0), need(given, 1)], options),
    "FusedMatMul": _matmul,
    "MatMulNBits": _packed,
    "DynamicQuantizeMatMul": _to_float,
    "MatMulIntegerToFloat": _to_float,
    "ReorderOutput": _reorder_output,
    "ReorderInput": _reorder_input,
    "QuantizeLinear": lambda given, options: TensorInfo(need(given, 0).shape, need(given, 2).dtype),
    "DequantizeLinear": lambda given, options: TensorInfo(need(given, 0).shape, need(given, 1).dtype),
}
